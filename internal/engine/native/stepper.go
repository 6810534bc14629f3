package native

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// stepper implements engine.Stepper. N is the batch's examples and K the plan's outputs.
type stepper struct {
	plan  *engine.Plan
	level kernel.Level
	gemm  *kernel.Gemm

	scores  []float32 // [N × K] logits or values
	dscores []float32 // [N × K] gradient of the batch's loss by scores

	sums    []float32 // [N × K·Dim] FM's Σⱼ xⱼ·v, kept for the gradient
	squares []float32 // [K·Dim] FM's Σⱼ (xⱼ·v)² of one example

	deep     *stack // nil without Deep
	bottom   *stack // of Interaction; nil without numbers
	vectors  []float32
	dvectors []float32
	cross    *crossState

	dropping bool      // the forward pass is one of training with dropout
	dropped  []float32 // its predictions
	unused   []float32 // its losses

	res engine.Result
}

// Predict implements engine.Stepper.
func (s *stepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.check(in, look, p)
	if len(dst) != in.N*s.plan.Outputs {
		panic("native: Predict needs a destination of N × Outputs values")
	}
	s.forward(in, look, p)
	s.predictions(dst)
}

// Evaluate implements engine.Stepper.
func (s *stepper) Evaluate(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	s.check(in, look, p)
	if len(in.Labels) != in.N {
		panic("native: a step needs a label for each example")
	}
	s.forward(in, look, p)
	r := &s.res
	r.Predictions = grow(r.Predictions, len(s.scores))
	r.Losses = grow(r.Losses, in.N)
	s.dscores = grow(s.dscores, len(s.scores))
	s.predictions(r.Predictions)
	s.losses(in, r.Predictions, r.Losses)
	return r
}

// Step implements engine.Stepper.
func (s *stepper) Step(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	if d := s.plan.Deep; d != nil && d.Dropout > 0 && len(in.Keys) != in.N {
		panic("native: Step with dropout needs a key for each example")
	}
	r := s.Evaluate(in, look, p)
	if d := s.plan.Deep; d != nil && d.Dropout > 0 {
		// What is reported is of the whole model; what is learned, of the units kept.
		s.dropping = true
		s.forward(in, look, p)
		s.dropping = false
		s.dropped, s.unused = grow(s.dropped, len(s.scores)), grow(s.unused, in.N)
		s.predictions(s.dropped)
		s.losses(in, s.dropped, s.unused)
	}

	for t := range r.RowGrads {
		r.RowGrads[t] = grow(r.RowGrads[t], len(p.Rows[t]))
		clear(r.RowGrads[t])
	}
	for k := range r.DenseGrads {
		clear(r.DenseGrads[k])
	}
	s.backward(in, look, p)
	return r
}

// Err implements engine.Stepper: nothing here fails.
func (s *stepper) Err() error { return nil }

// check panics when what the caller joined does not fit together. It costs a few comparisons
// per batch; in itself is trusted to satisfy Inputs.Check.
func (s *stepper) check(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plan := s.plan
	if in.Fields != plan.Shape.Fields || in.Width != plan.Shape.Width {
		panic("native: inputs do not have the shape that the model was compiled for")
	}
	if len(look) != len(plan.Tables) || len(p.Rows) != len(plan.Tables) || len(p.Dense) != len(plan.Tensors) {
		panic("native: lookups or parameters do not match the model's tables and tensors")
	}
	for t, spec := range plan.Tables {
		if len(look[t].Index) != len(in.IDs) || len(p.Rows[t]) != len(look[t].Unique)*spec.Dim {
			panic("native: table " + spec.Name + ": lookup or rows do not match the inputs")
		}
	}
	for k := range plan.Tensors {
		if len(p.Dense[k]) != len(s.res.DenseGrads[k]) {
			panic("native: tensor " + plan.Tensors[k].Name + " does not have its length")
		}
	}
}

// forward computes s.scores, and keeps what the gradient will need.
func (s *stepper) forward(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plan := s.plan
	k := plan.Outputs
	s.scores = grow(s.scores, in.N*k)
	for i := range in.N {
		copy(s.scores[i*k:(i+1)*k], p.Dense[plan.Bias])
	}
	if w := plan.Wide; w != nil {
		s.wideForward(w.Table, w.Dense, k, in, look, p)
	}
	if f := plan.FM; f != nil {
		s.wideForward(f.Table, f.Dense, k*(1+f.Dim), in, look, p)
		s.fmForward(f, in, look, p)
	}
	if d := plan.Deep; d != nil {
		if x := plan.Interaction; x != nil {
			s.interactForward(x, in, look, p)
		} else {
			s.embed(d, in, look, p)
		}
		if plan.Cross != nil {
			s.crossForward(plan.Cross, in.N, d.In, p)
		}
		s.deepForward(d, in.N, in.Keys, p)
	}
}

// backward adds the gradients of the batch's loss to s.res, from s.dscores.
func (s *stepper) backward(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plan := s.plan
	k := plan.Outputs
	bias := s.res.DenseGrads[plan.Bias]
	if k == 1 {
		sum := bias[0]
		for _, d := range s.dscores {
			sum += d
		}
		bias[0] = sum
	} else {
		for i := range in.N {
			s.level.Add(bias, s.dscores[i*k:(i+1)*k])
		}
	}
	if w := plan.Wide; w != nil {
		s.wideBackward(w.Table, w.Dense, k, in, look)
	}
	if f := plan.FM; f != nil {
		s.wideBackward(f.Table, f.Dense, k*(1+f.Dim), in, look)
		s.fmBackward(f, in, look, p)
	}
	if d := plan.Deep; d != nil {
		s.deepBackward(d, in.N, p)
		if plan.Cross != nil {
			var dinput []float32
			if d.Table >= 0 {
				dinput = s.deep.grads[0]
			}
			s.crossBackward(plan.Cross, in.N, d.In, dinput, p)
		}
		if x := plan.Interaction; x != nil {
			s.interactBackward(x, in, look, p)
		} else if d.Table >= 0 {
			s.scatter(s.deep.grads[0], d.In, 0, columns{d.Table, d.Fields, d.Skip, d.Dim}, in, look)
		}
	}
}

// ids returns the range of in.IDs that belongs to example i.
func ids(in *engine.Inputs, i int) (lo, hi int32) {
	return in.Offsets[i*in.Fields], in.Offsets[(i+1)*in.Fields]
}

// value returns the value of the id at position j.
func value(in *engine.Inputs, j int32) float32 {
	if len(in.Values) == 0 {
		return 1
	}
	return in.Values[j]
}

// grow returns a slice of length n, s itself where it is large enough. Its contents are
// unspecified.
func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n, n+n/4)
	}
	return s[:n]
}
