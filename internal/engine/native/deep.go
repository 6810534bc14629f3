package native

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// deepForward adds the perceptron over its input s.deep.acts[0]: hₗ₊₁ = relu(hₗ·Wₗ + bₗ);
// z += h_last·head.
func (s *stepper) deepForward(ln *lane, sp span, d *engine.Deep, dropping bool) {
	drop := float32(0)
	if dropping {
		drop = d.Dropout
	}
	s.deep.forward(s, ln, sp, drop)
	units := d.Layers[len(d.Layers)-1].Out
	ln.gemm.NN(sp.all(s.scores, s.plan.Outputs), sp.rows(s.deep.out(), units), s.p.Dense[d.Head], sp.n(), s.plan.Outputs, units)
}

// deepBackward computes the gradients by the layers' outputs; that by its input, where somebody
// asks for it, is then in s.deep.grads[0].
func (s *stepper) deepBackward(ln *lane, sp span, d *engine.Deep) {
	last := len(d.Layers)
	k := s.plan.Outputs
	units := d.Layers[last-1].Out
	g := sp.rows(s.deep.grads[last], units)
	clear(g)
	ln.gemm.NT(g, sp.all(s.dscores, k), s.p.Dense[d.Head], sp.n(), units, k)
	s.deep.backward(s, ln, sp, d.Dropout, d.Table >= 0 || s.plan.Interaction != nil)
}

// embed fills a perceptron's input: for each field Σⱼ xⱼ·embedding, then the dense numbers.
func (s *stepper) embed(sp span, d *engine.Deep) {
	h := sp.rows(s.deep.acts[0], d.In)
	at, w := len(d.Fields)*d.Dim, s.in.Width
	for i := range sp.n() {
		copy(h[i*d.In+at:(i+1)*d.In], s.in.Dense[(sp.lo+i)*w:(sp.lo+i+1)*w])
	}
	if f := s.plan.FM; d.Table >= 0 && !(f != nil && f.Table == d.Table && s.embedsFactors()) { // else fmForward did it
		s.gather(sp, h, d.In, 0, columns{d.Table, d.Fields, d.Skip, d.Dim})
	}
}

// columns says which part of a table's rows stands for some fields.
type columns struct {
	table     int
	fields    []int
	skip, dim int
}

// gather writes each field's Σⱼ xⱼ·r[skip:skip+dim] to dst, the span's i-th example's fields one
// after the other from dst[i·stride+from] on.
func (s *stepper) gather(sp span, dst []float32, stride, from int, c columns) {
	in := s.in
	dim := s.plan.Tables[c.table].Dim
	rows, index := s.p.Rows[c.table], s.look[c.table].Index
	for i := range sp.n() {
		h := dst[i*stride+from:][:len(c.fields)*c.dim]
		if r, ok := s.fieldRows(sp.lo+i, c, rows); ok {
			s.level.GatherRows(h, r)
			continue
		}
		clear(h)
		offsets := in.Offsets[(sp.lo+i)*in.Fields:]
		for at, f := range c.fields {
			sum := h[at*c.dim : (at+1)*c.dim]
			for j := offsets[f]; j < offsets[f+1]; j++ {
				s.level.Axpy(sum, value(in, j), rows[int(index[j])*dim+c.skip:][:c.dim])
			}
		}
	}
}

// fieldRows are the rows in v of an example's ids, where each of its fields has one and c is of all
// fields.
func (s *stepper) fieldRows(e int, c columns, v []float32) (r kernel.Rows, ok bool) {
	if !s.single || len(c.fields) != s.in.Fields || len(v) == 0 {
		return r, false
	}
	lo, hi := ids(s.in, e)
	return kernel.Rows{V: v[c.skip:], Index: s.look[c.table].Index[lo:hi], X: s.values(lo, hi), Stride: s.plan.Tables[c.table].Dim, Dim: c.dim}, true
}

// scatter adds to the gradients of the rows what gather's result has as its gradient, for the
// examples of the block.
func (s *stepper) scatter(grad []float32, stride, from int, c columns) {
	in := s.in
	dim := s.plan.Tables[c.table].Dim
	rows, index := s.res.RowGrads[c.table], s.look[c.table].Index
	for i := range s.block.n() {
		h := grad[i*stride+from:][:len(c.fields)*c.dim]
		if r, ok := s.fieldRows(s.block.lo+i, c, rows); ok {
			s.level.ScatterRows(r.V, r, h, c.dim)
			continue
		}
		offsets := in.Offsets[(s.block.lo+i)*in.Fields:]
		for at, f := range c.fields {
			g := h[at*c.dim : (at+1)*c.dim]
			for j := offsets[f]; j < offsets[f+1]; j++ {
				s.level.Axpy(rows[int(index[j])*dim+c.skip:][:c.dim], value(in, j), g)
			}
		}
	}
}
