package native

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// How a batch is cut up. It changes no bit: a row's results do not depend on the rows beside it,
// and sums over examples begin with those of the blocks before.
const (
	// Examples of a block go forward and backward before those of the next, so that what is kept
	// of them stays in the cache.
	blockRows = 512
	// chunkRows of a block are computed at once, by one goroutine. Even, so that pairs of examples
	// lie in one chunk.
	chunkRows = 64
	// Below this many rows of a batch, laying weights out costs more than it saves.
	panelRows = 24
	// Below this many, waking another processor does.
	crewRows = 2 * chunkRows
	// weightRows of a weight's gradient are a task.
	weightRows = 48
)

// span is examples lo … hi-1 of the batch; at is their place in their block.
type span struct{ lo, hi, at int }

func (sp span) n() int { return sp.hi - sp.lo }

// rows is the span's part of what a block has, width values for each example.
func (sp span) rows(v []float32, width int) []float32 {
	return v[sp.at*width : (sp.at+sp.n())*width]
}

// all is the span's part of what the batch has, width values for each example.
func (sp span) all(v []float32, width int) []float32 { return v[sp.lo*width : sp.hi*width] }

// stepper implements engine.Stepper. N is the batch's examples, B those of a block, and K the
// plan's outputs.
//
// A step goes over the batch block by block: chunks of rows forward and backward to the
// gradients of what the layers put out, then, when all are there, the gradients of parameters.
// Both are lists of tasks for the crew.
type stepper struct {
	plan  *engine.Plan
	level kernel.Level
	crew  *crew

	// The batch that is computed, and what of it.
	in       *engine.Inputs
	look     []engine.Lookup
	p        *engine.Params
	dst      []float32 // predictions [N × K]
	evaluate bool      // losses too
	learn    bool      // and gradients
	direct   bool      // weights are not laid out
	single   bool      // each field of each example has one id
	ones     []float32 // [Fields] or more
	counting []int32   // 0, 1 … Width-1
	block    span

	scores  []float32 // [N × K] logits or values
	dscores []float32 // [N × K] gradient of the batch's loss by scores

	sums []float32 // [B × K·Dim] FM's Σⱼ xⱼ·v, kept for the gradient

	deep     *stack // nil without Deep
	bottom   *stack // of Interaction; nil without numbers
	vectors  []float32
	dvectors []float32
	cross    *crossState

	dropped []float32 // [N × K] predictions of the pass of training with dropout
	unused  []float32 // [N] its losses

	layouts []func(*lane) // lay the weights out, and clear gradients
	grads   []func(*lane) // add a block's gradients of parameters
	// Methods as values, made once.
	doLayout, doChunk, doGrad func(*lane, int)

	res engine.Result
}

// Predict implements engine.Stepper.
func (s *stepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.check(in, look, p)
	if len(dst) != in.N*s.plan.Outputs {
		panic("native: Predict needs a destination of N × Outputs values")
	}
	s.evaluate, s.learn, s.dst = false, false, dst
	s.run(in, look, p)
	s.dst = nil
}

// Evaluate implements engine.Stepper.
func (s *stepper) Evaluate(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	return s.compute(in, look, p, false)
}

// Step implements engine.Stepper.
func (s *stepper) Step(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	if d := s.plan.Deep; d != nil && d.Dropout > 0 && len(in.Keys) != in.N {
		panic("native: Step with dropout needs a key for each example")
	}
	return s.compute(in, look, p, true)
}

// Err implements engine.Stepper: nothing here fails.
func (s *stepper) Err() error { return nil }

func (s *stepper) compute(in *engine.Inputs, look []engine.Lookup, p *engine.Params, learn bool) *engine.Result {
	s.check(in, look, p)
	if len(in.Labels) != in.N {
		panic("native: a step needs a label for each example")
	}
	r := &s.res
	k := s.plan.Outputs
	r.Predictions = grow(r.Predictions, in.N*k)
	r.Losses = grow(r.Losses, in.N)
	if learn {
		for t := range r.RowGrads {
			r.RowGrads[t] = grow(r.RowGrads[t], len(p.Rows[t]))
		}
		if d := s.plan.Deep; d != nil && d.Dropout > 0 {
			s.dropped, s.unused = grow(s.dropped, in.N*k), grow(s.unused, in.N)
		}
	}
	s.evaluate, s.learn, s.dst = true, learn, r.Predictions
	s.run(in, look, p)
	return r
}

// run computes a batch as evaluate, learn and dst say.
func (s *stepper) run(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.in, s.look, s.p = in, look, p
	k := s.plan.Outputs
	s.scores, s.dscores = grow(s.scores, in.N*k), grow(s.dscores, in.N*k)
	s.direct = in.N < panelRows && s.plan.Precision == kernel.Float32
	s.single = len(in.IDs) == in.N*in.Fields
	for i, at := range in.Offsets {
		s.single = s.single && int(at) == i
	}
	if len(in.Values) == 0 {
		most := 0
		for i := range in.N {
			lo, hi := ids(in, i)
			most = max(most, int(hi-lo))
		}
		for len(s.ones) < most {
			s.ones = append(s.ones, 1)
		}
	}
	s.reserve(min(in.N, blockRows))
	alone := in.N < crewRows
	cores := s.crew.cores
	cores.Enter()
	defer cores.Leave()
	s.crew.run(len(s.layouts), alone, s.doLayout)
	for lo := 0; lo < in.N; lo += blockRows {
		s.block = span{lo: lo, hi: min(lo+blockRows, in.N)}
		s.begin(s.block.n())
		s.crew.run((s.block.n()+chunkRows-1)/chunkRows, alone, s.doChunk)
		if s.learn {
			s.crew.run(len(s.grads), alone, s.doGrad)
		}
	}
	s.in, s.look, s.p = nil, nil, nil
}

// reserve makes room for blocks of at most n examples.
func (s *stepper) reserve(n int) {
	if f := s.plan.FM; f != nil {
		s.sums = grow(s.sums, n*s.plan.Outputs*f.Dim)
	}
	if s.bottom != nil {
		s.bottom.reserve(n)
	}
	if x := s.plan.Interaction; x != nil {
		s.vectors, s.dvectors = grow(s.vectors, n*x.Vectors*x.Dim), grow(s.dvectors, n*x.Vectors*x.Dim)
	}
	if d := s.plan.Deep; d != nil {
		s.deep.reserve(n)
		if s.plan.Cross != nil {
			s.cross.reserve(s.plan.Cross, n, d.In)
		}
	}
}

// begin prepares for the gradients of a block of n examples.
func (s *stepper) begin(n int) {
	if !s.learn || s.direct {
		return
	}
	if s.bottom != nil {
		s.bottom.begin(n)
	}
	if s.deep != nil {
		s.deep.begin(n)
	}
	if s.plan.Cross != nil {
		s.cross.begin(s.plan.Cross, n, s.plan.Deep.In)
	}
}

// chunk computes one chunk of the block.
func (s *stepper) chunk(ln *lane, task int) {
	at := task * chunkRows
	sp := span{lo: s.block.lo + at, hi: min(s.block.lo+at+chunkRows, s.block.hi), at: at}
	s.forward(ln, sp, false)
	s.predictions(s.dst, sp)
	if s.evaluate {
		s.losses(sp, s.dst, s.res.Losses)
	}
	if !s.learn {
		return
	}
	if d := s.plan.Deep; d != nil && d.Dropout > 0 {
		// What is reported is of the whole model; what is learned, of the units kept.
		s.forward(ln, sp, true)
		s.predictions(s.dropped, sp)
		s.losses(sp, s.dropped, s.unused)
	}
	s.backward(ln, sp)
}

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

// forward computes a span's scores, and keeps what the gradient will need.
func (s *stepper) forward(ln *lane, sp span, dropping bool) {
	plan := s.plan
	scores := sp.all(s.scores, plan.Outputs)
	for i := 0; i < len(scores); i += plan.Outputs {
		copy(scores[i:i+plan.Outputs], s.p.Dense[plan.Bias])
	}
	if w := plan.Wide; w != nil {
		s.wideForward(ln, sp, w.Table, w.Dense, plan.Outputs)
	}
	if f := plan.FM; f != nil {
		s.wideForward(ln, sp, f.Table, f.Dense, plan.Outputs*(1+f.Dim))
		s.fmForward(ln, sp, f)
	}
	if d := plan.Deep; d != nil {
		if x := plan.Interaction; x != nil {
			s.interactForward(ln, sp, x)
		} else {
			s.embed(sp, d)
		}
		if plan.Cross != nil {
			s.crossForward(ln, sp, plan.Cross, d.In)
		}
		s.deepForward(ln, sp, d, dropping)
	}
}

// backward computes a span's gradients by what the layers put out, from s.dscores.
func (s *stepper) backward(ln *lane, sp span) {
	plan := s.plan
	d := plan.Deep
	if d == nil {
		return
	}
	s.deepBackward(ln, sp, d)
	if plan.Cross != nil {
		s.crossBackward(ln, sp, plan.Cross, d.In, d.Table >= 0)
	}
	if x := plan.Interaction; x != nil {
		s.interactBackward(ln, sp, x)
	}
}

// plan the tasks that lay weights out and clear gradients, and those that add a block's gradients
// of parameters. The longest that cannot be cut comes first.
func (s *stepper) planTasks() {
	plan := s.plan
	for t := range plan.Tables {
		s.layouts = append(s.layouts, func(*lane) {
			if s.learn {
				clear(s.res.RowGrads[t])
			}
		})
	}
	s.layouts = append(s.layouts, func(*lane) {
		if s.learn {
			for _, g := range s.res.DenseGrads {
				clear(g)
			}
		}
	})
	if w := plan.Wide; w != nil {
		s.grads = append(s.grads, func(ln *lane) { s.wideGrad(ln, w.Table, w.Dense, plan.Outputs) })
	}
	if f := plan.FM; f != nil {
		s.grads = append(s.grads, func(ln *lane) {
			s.fmGrad(ln, f) // and deep's part of the same rows
		})
	}
	if d := plan.Deep; d != nil {
		switch x := plan.Interaction; {
		case x != nil && x.Table >= 0:
			s.grads = append(s.grads, func(*lane) {
				width, first := x.Vectors*x.Dim, 0
				if len(x.Bottom) > 0 {
					first = x.Dim
				}
				s.scatter(s.dvectors, width, first, columns{x.Table, x.Fields, 0, x.Dim})
			})
		case x == nil && d.Table >= 0 && plan.FM == nil:
			s.grads = append(s.grads, func(*lane) {
				s.scatter(s.deep.grads[0], d.In, 0, columns{d.Table, d.Fields, d.Skip, d.Dim})
			})
		}
		s.deep.planTasks(s, d.Table >= 0 || plan.Interaction != nil)
		if s.bottom != nil {
			s.bottom.planTasks(s, false)
		}
		if plan.Cross != nil {
			s.planCross(plan.Cross, d.In)
		}
		s.grads = append(s.grads, func(ln *lane) {
			b := s.block
			units := d.Layers[len(d.Layers)-1].Out
			ln.gemm.TN(s.res.DenseGrads[d.Head], s.deep.out()[:b.n()*units], b.all(s.dscores, plan.Outputs), units, plan.Outputs, b.n())
		})
	}
	s.grads = append(s.grads, func(*lane) { s.biasGrad() })
	s.doLayout = func(ln *lane, task int) { s.layouts[task](ln) }
	s.doGrad = func(ln *lane, task int) { s.grads[task](ln) }
	s.doChunk = s.chunk
}

// biasGrad adds the gradient of the bias of the scores.
func (s *stepper) biasGrad() {
	k := s.plan.Outputs
	bias, d := s.res.DenseGrads[s.plan.Bias], s.block.all(s.dscores, k)
	if k > 1 {
		for ; len(d) > 0; d = d[k:] {
			s.level.Add(bias, d[:k])
		}
		return
	}
	sum := bias[0]
	for _, v := range d {
		sum += v
	}
	bias[0] = sum
}

// values returns those of ids lo … hi-1.
func (s *stepper) values(lo, hi int32) []float32 {
	if len(s.in.Values) > 0 {
		return s.in.Values[lo:hi]
	}
	return s.ones[:hi-lo]
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
