//go:build !noasm

package kernel

// What these are given has at least one row of at least one value.

// tails is how the last values of a row are selected: 512-bit vectors by bits, 256-bit ones by lanes.
func tails(dim int) (bits uint32, lanes *int32) {
	return 1<<(dim%16) - 1, &masks256[8-dim%8]
}

func gatherRowsAt(l Level, dst []float32, r *Rows) {
	bits, lanes := tails(r.Dim)
	if l == AVX512 {
		gatherRows512(&dst[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, bits)
		return
	}
	gatherRows256(&dst[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, lanes)
}

func sumFactorsAt(l Level, sum, squares, dst []float32, r *Rows) {
	bits, lanes := tails(r.Dim)
	switch {
	case l == AVX512 && dst == nil:
		sumFactors512(&sum[0], &squares[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, bits)
	case l == AVX512:
		gatherFactors512(&dst[0], &sum[0], &squares[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, bits)
	case dst == nil:
		sumFactors256(&sum[0], &squares[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, lanes)
	default:
		gatherFactors256(&dst[0], &sum[0], &squares[0], &r.V[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, lanes)
	}
}

func scatterRowsAt(l Level, r *Rows, d []float32, stride int) {
	bits, lanes := tails(r.Dim)
	if l == AVX512 {
		scatterRows512(&r.V[0], &d[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, 4*stride, r.Dim, bits)
		return
	}
	scatterRows256(&r.V[0], &d[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, 4*stride, r.Dim, lanes)
}

func scatterFactorsAt(l Level, grads []float32, r *Rows, sum []float32, scale float32, d []float32, stride int) {
	bits, lanes := tails(r.Dim)
	switch {
	case l == AVX512 && d == nil:
		scatterFactors512(&grads[0], &r.V[0], &sum[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, scale, bits)
	case l == AVX512:
		scatterBoth512(&grads[0], &r.V[0], &sum[0], &d[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, 4*stride, r.Dim, scale, bits)
	case d == nil:
		scatterFactors256(&grads[0], &r.V[0], &sum[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, r.Dim, scale, lanes)
	default:
		scatterBoth256(&grads[0], &r.V[0], &sum[0], &d[0], &r.Index[0], &r.X[0], len(r.Index), 4*r.Stride, 4*stride, r.Dim, scale, lanes)
	}
}
