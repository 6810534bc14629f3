package kernel

// Rows are rows of a table with a factor each: row j is X[j]·V[Index[j]·Stride:][:Dim]. V begins at
// the first row's first value that matters. Nothing but the loops over them keeps its slices.
type Rows struct {
	V           []float32
	Index       []int32
	X           []float32 // len(Index)
	Stride, Dim int
}

// check panics where rows lie beyond V, or for destinations of another length.
func (r *Rows) check(op string) {
	if len(r.X) != len(r.Index) || r.Dim < 0 || r.Stride < 0 {
		panic("kernel: " + op + ": a factor is missing")
	}
	last := int32(-1)
	for _, i := range r.Index {
		if i < 0 {
			panic("kernel: " + op + ": negative row")
		}
		last = max(last, i)
	}
	if last >= 0 && int(last)*r.Stride+r.Dim > len(r.V) {
		panic("kernel: " + op + ": rows beyond their table")
	}
}

func (r *Rows) row(j int) []float32 { return r.V[int(r.Index[j])*r.Stride:][:r.Dim] }

// GatherRows copies rows to dst, one after the other: dst[j·Dim+i] = 0 + X[j]·v[i].
func (l Level) GatherRows(dst []float32, r Rows) {
	r.check("GatherRows")
	checkLen("GatherRows", len(dst), len(r.Index)*r.Dim)
	if len(dst) == 0 {
		return
	}
	if l != Generic {
		gatherRowsAt(l, dst, &r)
		return
	}
	for j := range r.Index {
		d := dst[j*r.Dim : (j+1)*r.Dim]
		clear(d)
		l.Axpy(d, r.X[j], r.row(j))
	}
}

// SumFactors is AxpySquares of each row in turn, and with dst GatherRows too.
func (l Level) SumFactors(sum, squares, dst []float32, r Rows) {
	r.check("SumFactors")
	checkLen("SumFactors", len(sum), r.Dim)
	checkLen("SumFactors", len(squares), r.Dim)
	if dst != nil {
		checkLen("SumFactors", len(dst), len(r.Index)*r.Dim)
	}
	if len(r.Index) == 0 || r.Dim == 0 {
		return
	}
	if l != Generic {
		sumFactorsAt(l, sum, squares, dst, &r)
		return
	}
	for j := range r.Index {
		if dst != nil {
			d := dst[j*r.Dim : (j+1)*r.Dim]
			clear(d)
			l.Axpy(d, r.X[j], r.row(j))
		}
		l.AxpySquares(sum, squares, r.X[j], r.row(j))
	}
}

// ScatterRows adds to rows of grads, which lie as those of r: grad[i] += X[j]·d[j·stride+i].
// r.V is not used.
func (l Level) ScatterRows(grads []float32, r Rows, d []float32, stride int) {
	r.V = grads
	r.check("ScatterRows")
	r.checkStrided("ScatterRows", d, stride)
	if len(r.Index) == 0 || r.Dim == 0 {
		return
	}
	if l != Generic {
		scatterRowsAt(l, &r, d, stride)
		return
	}
	for j := range r.Index {
		l.Axpy(r.row(j), r.X[j], d[j*stride:][:r.Dim])
	}
}

func (r *Rows) checkStrided(op string, d []float32, stride int) {
	if n := len(r.Index); n > 0 && (stride < 0 || (n-1)*stride+r.Dim > len(d)) {
		panic("kernel: " + op + ": fewer gradients than rows")
	}
}

// ScatterFactors adds a factorisation machine's gradient to rows of grads, which lie as those of
// r: FactorGrad of each row in turn with scale·X[j] and X[j], and where d is not nil ScatterRows's
// term after it. grads may not overlap r.V.
func (l Level) ScatterFactors(grads []float32, r Rows, sum []float32, scale float32, d []float32, stride int) {
	r.check("ScatterFactors")
	checkLen("ScatterFactors", len(grads), len(r.V))
	checkLen("ScatterFactors", len(sum), r.Dim)
	if d != nil {
		r.checkStrided("ScatterFactors", d, stride)
	}
	if len(r.Index) == 0 || r.Dim == 0 {
		return
	}
	if l != Generic {
		scatterFactorsAt(l, grads, &r, sum, scale, d, stride)
		return
	}
	for j := range r.Index {
		g := grads[int(r.Index[j])*r.Stride:][:r.Dim]
		l.FactorGrad(g, r.row(j), sum, float32(scale*r.X[j]), r.X[j])
		if d != nil {
			l.Axpy(g, r.X[j], d[j*stride:][:r.Dim])
		}
	}
}
