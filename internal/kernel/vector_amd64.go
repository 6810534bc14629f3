//go:build !noasm

package kernel

// The slices of one call have the same length, at least 1.

func dotAt(l Level, a, b []float32) float32 {
	if l == AVX512 {
		return dot512(&a[0], &b[0], len(a))
	}
	return dot256(&a[0], &b[0], len(a))
}

func axpyAt(l Level, dst []float32, alpha float32, x []float32) {
	if l == AVX512 {
		axpy512(&dst[0], alpha, &x[0], len(x))
		return
	}
	axpy256(&dst[0], alpha, &x[0], len(x))
}

func axpySquaresAt(l Level, sum, squares []float32, alpha float32, x []float32) {
	if l == AVX512 {
		axpySquares512(&sum[0], &squares[0], alpha, &x[0], len(x))
		return
	}
	axpySquares256(&sum[0], &squares[0], alpha, &x[0], len(x))
}

func factorGradAt(l Level, grad, v, sum []float32, scale, x float32) {
	if l == AVX512 {
		factorGrad512(&grad[0], &v[0], &sum[0], scale, x, len(v))
		return
	}
	factorGrad256(&grad[0], &v[0], &sum[0], scale, x, len(v))
}

func addAt(l Level, dst, x []float32) {
	if l == AVX512 {
		add512(&dst[0], &x[0], len(x))
		return
	}
	add256(&dst[0], &x[0], len(x))
}

func reluAt(l Level, dst, x []float32) {
	if l == AVX512 {
		relu512(&dst[0], &x[0], len(x))
		return
	}
	relu256(&dst[0], &x[0], len(x))
}

func reluGradAt(l Level, grad, y []float32) {
	if l == AVX512 {
		reluGrad512(&grad[0], &y[0], len(y))
		return
	}
	reluGrad256(&grad[0], &y[0], len(y))
}

// dotsAt adds the dot product of each row of a, as long as b, to c.
func dotsAt(l Level, c, a, b []float32) {
	if l == AVX512 {
		dots512(&c[0], &a[0], &b[0], len(c), len(b))
		return
	}
	dots256(&c[0], &a[0], &b[0], len(c), len(b))
}
