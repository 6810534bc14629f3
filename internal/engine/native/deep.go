package native

import "github.com/tidemill/tidemill/internal/engine"

// deepForward adds the perceptron: h₀ is each field's Σⱼ xⱼ·embedding, then the dense
// numbers; hₗ₊₁ = relu(hₗ·Wₗ + bₗ); z += h_last·head.
func (s *stepper) deepForward(d *engine.Deep, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.acts[0] = grow(s.acts[0], in.N*d.In)
	s.embed(d, in, look, p)
	for l, layer := range d.Layers {
		h := grow(s.acts[l+1], in.N*layer.Out)
		s.acts[l+1] = h
		for i := range in.N {
			copy(h[i*layer.Out:(i+1)*layer.Out], p.Dense[layer.Bias])
		}
		s.gemm.NN(h, s.acts[l], p.Dense[layer.Weight], in.N, layer.Out, layer.In)
		s.level.ReLU(h, h)
	}
	last := len(d.Layers)
	s.gemm.NN(s.scores, s.acts[last], p.Dense[d.Head], in.N, s.plan.Outputs, d.Layers[last-1].Out)
}

// embed fills the perceptron's input.
func (s *stepper) embed(d *engine.Deep, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	for i := range in.N {
		h := s.acts[0][i*d.In : (i+1)*d.In]
		n := len(d.Fields) * d.Dim
		copy(h[n:], in.Dense[i*in.Width:(i+1)*in.Width])
		if d.Table < 0 {
			continue
		}
		clear(h[:n])
		dim := s.plan.Tables[d.Table].Dim
		rows, index := p.Rows[d.Table], look[d.Table].Index
		for at, f := range d.Fields {
			sum := h[at*d.Dim : (at+1)*d.Dim]
			for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
				s.level.Axpy(sum, value(in, j), rows[int(index[j])*dim+d.Skip:][:d.Dim])
			}
		}
	}
}

// deepBackward adds the gradients of deepForward. With x a layer's input, y its output and
// g the gradient by y, masked where y is not positive: dW += xᵀ·g, db += Σᵢ gᵢ, dx = g·Wᵀ.
func (s *stepper) deepBackward(d *engine.Deep, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	last := len(d.Layers)
	k := s.plan.Outputs
	units := d.Layers[last-1].Out
	s.gemm.TN(s.res.DenseGrads[d.Head], s.acts[last], s.dscores, units, k, in.N)
	s.grads[last] = zeros(s.grads[last], in.N*units)
	s.gemm.NT(s.grads[last], s.dscores, p.Dense[d.Head], in.N, units, k)

	for l := last - 1; l >= 0; l-- {
		layer := d.Layers[l]
		g := s.grads[l+1]
		s.level.ReLUGrad(g, s.acts[l+1])
		bias := s.res.DenseGrads[layer.Bias]
		for i := range in.N {
			s.level.Add(bias, g[i*layer.Out:(i+1)*layer.Out])
		}
		s.gemm.TN(s.res.DenseGrads[layer.Weight], s.acts[l], g, layer.In, layer.Out, in.N)
		if l == 0 && d.Table < 0 {
			return // nobody asks for the gradient by the dense numbers
		}
		s.grads[l] = zeros(s.grads[l], in.N*layer.In)
		s.gemm.NT(s.grads[l], g, p.Dense[layer.Weight], in.N, layer.In, layer.Out)
	}

	dim := s.plan.Tables[d.Table].Dim
	rows, index := s.res.RowGrads[d.Table], look[d.Table].Index
	for i := range in.N {
		h := s.grads[0][i*d.In : (i+1)*d.In]
		for at, f := range d.Fields {
			g := h[at*d.Dim : (at+1)*d.Dim]
			for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
				s.level.Axpy(rows[int(index[j])*dim+d.Skip:][:d.Dim], value(in, j), g)
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
