package native

import (
	"github.com/tidemill/tidemill/internal/engine"
)

// interactForward fills the deep part's input with DLRM's: the bottom layers' output and the
// dot products of all pairs of it and the embeddings.
func (s *stepper) interactForward(ln *lane, sp span, x *engine.Interaction) {
	width := x.Vectors * x.Dim
	vectors := sp.rows(s.vectors, width)
	first := 0
	if len(x.Bottom) > 0 {
		copy(sp.rows(s.bottom.acts[0], s.in.Width), sp.all(s.in.Dense, s.in.Width))
		s.bottom.forward(s, ln, sp, 0)
		out := sp.rows(s.bottom.out(), x.Dim)
		for i := range sp.n() {
			copy(vectors[i*width:][:x.Dim], out[i*x.Dim:(i+1)*x.Dim])
		}
		first = x.Dim
	}
	if x.Table >= 0 {
		s.gather(sp, vectors, width, first, columns{x.Table, x.Fields, 0, x.Dim})
	}
	input := sp.rows(s.deep.acts[0], x.Out)
	for i := range sp.n() {
		v := vectors[i*width : (i+1)*width]
		h := input[i*x.Out : (i+1)*x.Out]
		at := copy(h, v[:first])
		for b := 1; b < x.Vectors; b++ {
			for a := range b {
				h[at] = s.level.Dot(v[a*x.Dim:(a+1)*x.Dim], v[b*x.Dim:(b+1)*x.Dim])
				at++
			}
		}
	}
}

// interactBackward computes the gradients by the vectors and by what the bottom layers put out,
// from s.deep.grads[0].
func (s *stepper) interactBackward(ln *lane, sp span, x *engine.Interaction) {
	width := x.Vectors * x.Dim
	vectors, dvectors, input := sp.rows(s.vectors, width), sp.rows(s.dvectors, width), sp.rows(s.deep.grads[0], x.Out)
	clear(dvectors)
	first := 0
	if len(x.Bottom) > 0 {
		first = x.Dim
	}
	for i := range sp.n() {
		v, dv := vectors[i*width:(i+1)*width], dvectors[i*width:(i+1)*width]
		g := input[i*x.Out : (i+1)*x.Out]
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
	if first > 0 {
		g := sp.rows(s.bottom.grads[len(x.Bottom)], x.Dim)
		for i := range sp.n() {
			copy(g[i*x.Dim:(i+1)*x.Dim], dvectors[i*width:])
		}
		s.bottom.backward(s, ln, sp, 0, false)
	}
}
