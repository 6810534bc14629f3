package native

import (
	"github.com/tidemill/tidemill/internal/engine"
)

// interactForward fills the deep part's input with DLRM's: the bottom layers' output and the
// dot products of all pairs of it and the embeddings.
func (s *stepper) interactForward(x *engine.Interaction, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	width := x.Vectors * x.Dim
	s.vectors = grow(s.vectors, in.N*width)
	first := 0
	if len(x.Bottom) > 0 {
		s.bottom.acts[0] = append(s.bottom.acts[0][:0], in.Dense...)
		s.bottom.forward(in.N, p)
		for i := range in.N {
			copy(s.vectors[i*width:][:x.Dim], s.bottom.out()[i*x.Dim:(i+1)*x.Dim])
		}
		first = x.Dim
	}
	if x.Table >= 0 {
		s.gather(s.vectors, width, first, columns{x.Table, x.Fields, 0, x.Dim}, in, look, p)
	}
	s.deep.acts[0] = grow(s.deep.acts[0], in.N*x.Out)
	for i := range in.N {
		v := s.vectors[i*width : (i+1)*width]
		h := s.deep.acts[0][i*x.Out : (i+1)*x.Out]
		at := copy(h, v[:first])
		for b := 1; b < x.Vectors; b++ {
			for a := range b {
				h[at] = s.level.Dot(v[a*x.Dim:(a+1)*x.Dim], v[b*x.Dim:(b+1)*x.Dim])
				at++
			}
		}
	}
}

// interactBackward adds the gradients of interactForward, from s.deep.grads[0].
func (s *stepper) interactBackward(x *engine.Interaction, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	width := x.Vectors * x.Dim
	s.dvectors = zeros(s.dvectors, in.N*width)
	first := 0
	if len(x.Bottom) > 0 {
		first = x.Dim
	}
	for i := range in.N {
		v, dv := s.vectors[i*width:(i+1)*width], s.dvectors[i*width:(i+1)*width]
		g := s.deep.grads[0][i*x.Out : (i+1)*x.Out]
		copy(dv, g[:first])
		at := first
		for b := 1; b < x.Vectors; b++ {
			for a := range b {
				s.level.Axpy(dv[a*x.Dim:(a+1)*x.Dim], g[at], v[b*x.Dim:(b+1)*x.Dim])
				s.level.Axpy(dv[b*x.Dim:(b+1)*x.Dim], g[at], v[a*x.Dim:(a+1)*x.Dim])
				at++
			}
		}
	}
	if x.Table >= 0 {
		s.scatter(s.dvectors, width, first, columns{x.Table, x.Fields, 0, x.Dim}, in, look)
	}
	if first > 0 {
		last := len(x.Bottom)
		s.bottom.grads[last] = grow(s.bottom.grads[last], in.N*x.Dim)
		for i := range in.N {
			copy(s.bottom.grads[last][i*x.Dim:(i+1)*x.Dim], s.dvectors[i*width:])
		}
		s.bottom.backward(in.N, p, s.res.DenseGrads, false)
	}
}
