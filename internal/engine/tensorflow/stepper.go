//go:build tensorflow

package tensorflow

import (
	"math"

	"github.com/tidemill/tidemill/internal/engine"
)

// stepper implements engine.Stepper for the graphs made here.
type stepper struct {
	m   *model
	run *session
	err error

	scale, label                []float32
	linear, sums, squares, deep []float32
	masks                       [][]float32
	grads                       [][]float32 // by feed, of those that are no tensor
	dst                         [][]float32 // what a step fetches

	res engine.Result
}

func newStepper(m *model) *stepper {
	s := &stepper{m: m, grads: make([][]float32, len(m.feeds)), masks: make([][]float32, len(m.masks))}
	s.res.RowGrads = make([][]float32, len(m.plan.Tables))
	s.res.DenseGrads = make([][]float32, len(m.plan.Tensors))
	for k, t := range m.plan.Tensors {
		s.res.DenseGrads[k] = make([]float32, t.Len())
	}
	s.run, s.err = newSession(m.graph, m.threads, m.feeds)
	return s
}

// Err implements engine.Stepper.
func (s *stepper) Err() error { return s.err }

// Predict implements engine.Stepper.
func (s *stepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.check(in, look, p)
	if len(dst) != in.N*s.m.plan.Outputs {
		panic("tensorflow: Predict needs a destination of N × Outputs values")
	}
	if in.N == 0 || s.run == nil {
		return
	}
	s.forward(in, look, p)
	s.dst = append(s.dst[:0], dst)
	s.err = s.run.run(&s.m.predict, s.dst)
}

// Evaluate implements engine.Stepper.
func (s *stepper) Evaluate(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	if s.begin(in, look, p) {
		s.dst = append(s.dst[:0], s.res.Predictions, s.res.Losses)
		s.err = s.run.run(&s.m.evaluate, s.dst)
	}
	return &s.res
}

// Step implements engine.Stepper.
func (s *stepper) Step(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	m, r := s.m, &s.res
	if len(m.masks) > 0 && len(in.Keys) != in.N {
		panic("tensorflow: Step with dropout needs a key for each example")
	}
	compute := s.begin(in, look, p)
	for t := range r.RowGrads {
		r.RowGrads[t] = zeros(r.RowGrads[t], len(p.Rows[t]))
	}
	if !compute {
		for k := range r.DenseGrads {
			clear(r.DenseGrads[k])
		}
		return r
	}
	s.scale = grow(s.scale, in.N)
	n := float32(in.N)
	for i := range s.scale {
		s.scale[i] = 1 / n
		if len(in.Weights) > 0 {
			s.scale[i] = in.Weights[i] / n
		}
	}
	fill(s.run, m.scale, float32s, s.scale, in.N, 1)
	s.keep(in)
	s.dst = append(s.dst[:0], r.Predictions, r.Losses)
	for _, f := range m.by {
		s.dst = append(s.dst, s.gradient(f, in.N))
	}
	if s.err = s.run.run(&m.step, s.dst); s.err == nil {
		s.spread(in, look, p)
	}
	return r
}

// begin fills in what Evaluate and Step have in common; it reports whether there is anything to
// compute.
func (s *stepper) begin(in *engine.Inputs, look []engine.Lookup, p *engine.Params) bool {
	s.check(in, look, p)
	if len(in.Labels) != in.N {
		panic("tensorflow: a step needs a label for each example")
	}
	k := s.m.plan.Outputs
	s.res.Predictions, s.res.Losses = grow(s.res.Predictions, in.N*k), grow(s.res.Losses, in.N)
	if in.N == 0 || s.run == nil {
		return false
	}
	s.forward(in, look, p)
	s.label = grow(s.label, in.N*k)
	if s.m.plan.Loss == engine.LossSoftmax {
		oneHot(s.label, in.Labels, k)
	} else {
		copy(s.label, in.Labels)
	}
	fill(s.run, s.m.label, float32s, s.label, in.N, k)
	return true
}

// oneHot writes 1 at each label's class; a label that names none becomes NaN.
func oneHot(dst, labels []float32, k int) {
	clear(dst)
	for i, y := range labels {
		if y >= 0 && y < float32(k) && y == float32(int(y)) {
			dst[i*k+int(y)] = 1
			continue
		}
		for c := range k {
			dst[i*k+c] = float32(math.NaN())
		}
	}
}

// keep feeds which units dropout keeps.
func (s *stepper) keep(in *engine.Inputs) {
	for l, f := range s.m.masks {
		d := s.m.plan.Deep
		units := d.Layers[l].Out
		mask := grow(s.masks[l], in.N*units)
		s.masks[l] = mask
		kept := 1 / (1 - d.Dropout)
		for at := range mask {
			mask[at] = 0
			if engine.Keep(in.Keys[at/units], l, at%units, d.Dropout) {
				mask[at] = kept
			}
		}
		fill(s.run, f, float32s, mask, in.N, units)
	}
}

// gradient returns where the gradient by a feed goes.
func (s *stepper) gradient(feed, n int) []float32 {
	m := s.m
	for k, f := range m.tensors {
		if f == feed {
			return s.res.DenseGrads[k]
		}
	}
	width := m.plan.Outputs // of linear
	switch feed {
	case m.sums, m.squares:
		width *= m.plan.FM.Dim
	case m.input:
		width = m.plan.Deep.In
	}
	s.grads[feed] = grow(s.grads[feed], n*width)
	return s.grads[feed]
}

// check panics when what the caller joined does not fit together; in itself is trusted to satisfy
// Inputs.Check.
func (s *stepper) check(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plan := s.m.plan
	if in.Fields != plan.Shape.Fields || in.Width != plan.Shape.Width {
		panic("tensorflow: inputs do not have the shape that the model was compiled for")
	}
	if len(look) != len(plan.Tables) || len(p.Rows) != len(plan.Tables) || len(p.Dense) != len(plan.Tensors) {
		panic("tensorflow: lookups or parameters do not match the model's tables and tensors")
	}
	for t, spec := range plan.Tables {
		if len(look[t].Index) != len(in.IDs) || len(p.Rows[t]) != len(look[t].Unique)*spec.Dim {
			panic("tensorflow: table " + spec.Name + ": lookup or rows do not match the inputs")
		}
	}
	for k, t := range plan.Tensors {
		if len(p.Dense[k]) != t.Len() {
			panic("tensorflow: tensor " + t.Name + " does not have its length")
		}
	}
}

// grow returns a slice of length n, s itself where it is large enough. Its contents are
// unspecified.
func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n, n+n/4)
	}
	return s[:n]
}

// zeros returns n zeros in the memory of s where it is large enough.
func zeros(s []float32, n int) []float32 {
	s = grow(s, n)
	clear(s)
	return s
}
