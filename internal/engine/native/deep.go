package native

import (
	"github.com/tidemill/tidemill/internal/engine"
)

// deepForward adds the perceptron over its input s.deep.acts[0]: hₗ₊₁ = relu(hₗ·Wₗ + bₗ);
// z += h_last·head.
func (s *stepper) deepForward(d *engine.Deep, n int, keys []uint64, p *engine.Params) {
	s.deep.drop, s.deep.keys = 0, keys
	if s.dropping {
		s.deep.drop = d.Dropout
	}
	s.deep.forward(n, p)
	s.gemm.NN(s.scores, s.deep.out(), p.Dense[d.Head], n, s.plan.Outputs, d.Layers[len(d.Layers)-1].Out)
}

// deepBackward adds the gradients of deepForward; that of its input, where somebody asks for
// it, is then in s.deep.grads[0].
func (s *stepper) deepBackward(d *engine.Deep, n int, p *engine.Params) {
	last := len(d.Layers)
	k := s.plan.Outputs
	units := d.Layers[last-1].Out
	s.gemm.TN(s.res.DenseGrads[d.Head], s.deep.out(), s.dscores, units, k, n)
	s.deep.grads[last] = zeros(s.deep.grads[last], n*units)
	s.gemm.NT(s.deep.grads[last], s.dscores, p.Dense[d.Head], n, units, k)
	s.deep.backward(n, p, s.res.DenseGrads, d.Table >= 0 || s.plan.Interaction != nil)
}

// embed fills a perceptron's input: for each field Σⱼ xⱼ·embedding, then the dense numbers.
func (s *stepper) embed(d *engine.Deep, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.deep.acts[0] = grow(s.deep.acts[0], in.N*d.In)
	at := len(d.Fields) * d.Dim
	for i := range in.N {
		copy(s.deep.acts[0][i*d.In+at:(i+1)*d.In], in.Dense[i*in.Width:(i+1)*in.Width])
	}
	if d.Table >= 0 {
		s.gather(s.deep.acts[0], d.In, 0, columns{d.Table, d.Fields, d.Skip, d.Dim}, in, look, p)
	}
}

// columns says which part of a table's rows stands for some fields.
type columns struct {
	table     int
	fields    []int
	skip, dim int
}

// gather writes each field's Σⱼ xⱼ·r[skip:skip+dim] to dst, example i's fields one after the
// other from dst[i·stride+from] on.
func (s *stepper) gather(dst []float32, stride, from int, c columns, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	dim := s.plan.Tables[c.table].Dim
	rows, index := p.Rows[c.table], look[c.table].Index
	for i := range in.N {
		h := dst[i*stride+from:][:len(c.fields)*c.dim]
		clear(h)
		for at, f := range c.fields {
			sum := h[at*c.dim : (at+1)*c.dim]
			for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
				s.level.Axpy(sum, value(in, j), rows[int(index[j])*dim+c.skip:][:c.dim])
			}
		}
	}
}

// scatter adds to the gradients of the rows what gather's result has as its gradient.
func (s *stepper) scatter(grad []float32, stride, from int, c columns, in *engine.Inputs, look []engine.Lookup) {
	dim := s.plan.Tables[c.table].Dim
	rows, index := s.res.RowGrads[c.table], look[c.table].Index
	for i := range in.N {
		h := grad[i*stride+from:][:len(c.fields)*c.dim]
		for at, f := range c.fields {
			g := h[at*c.dim : (at+1)*c.dim]
			for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
				s.level.Axpy(rows[int(index[j])*dim+c.skip:][:c.dim], value(in, j), g)
			}
		}
	}
}

// zeros returns n zeros in the memory of s where it is large enough.
func zeros(s []float32, n int) []float32 {
	s = grow(s, n)
	clear(s)
	return s
}
