//go:build tensorflow

package tensorflow

import (
	"slices"
	"strings"

	tf "github.com/tensorflow/tensorflow/tensorflow/go"
	"github.com/tensorflow/tensorflow/tensorflow/go/op"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// kinds are the architectures that have a graph here.
var kinds = []string{tidemill.Linear, tidemill.Logistic, tidemill.Softmax, tidemill.FM, tidemill.MLP, tidemill.WideDeep, tidemill.DeepFM, tidemill.DCN}

// none marks a feed that a graph does not have.
const none = -1

// model implements engine.Model for the architectures of engine.Plan. Feeds are numbered; N is the
// batch's examples and K the plan's outputs.
type model struct {
	plan    *engine.Plan
	profile string
	threads int
	level   kernel.Level

	graph   *tf.Graph
	feeds   []tf.Output
	scale   int   // [N, 1] weight / N
	label   int   // [N, K]: the label; of softmax, 1 at the class
	dense   int   // [N, Width]
	linear  int   // [N, K] Σⱼ xⱼ·r[:K] over all ids
	sums    int   // [N, K·Dim] FM's Σⱼ xⱼ·v
	squares int   // [N, K·Dim] FM's Σⱼ (xⱼ·v)²
	input   int   // [N, In] of the deep part
	masks   []int // by hidden layer, with dropout: [N, Out] 0, or 1/(1-rate)
	tensors []int // by tensor of the plan

	predict, evaluate, step program
	// by lists the feeds whose gradients step fetches behind predictions and losses.
	by []int
}

// compile makes the graph of a spec.
func compile(s *tidemill.Spec, shape engine.Shape, version string, o engine.Options) (engine.Model, error) {
	p, err := engine.NewPlan(s, shape)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(kinds, p.Kind) {
		return nil, tidemill.Invalid("the engine tensorflow has no architecture %s", "use engine: native, or export a graph from Keras", p.Kind)
	}
	m := &model{
		plan: p, profile: profile(version), threads: max(1, o.Threads), level: kernel.Best(),
		dense: none, linear: none, sums: none, squares: none, input: none,
	}
	if err := (&builder{m, op.NewScope()}).build(); err != nil {
		what, _, _ := strings.Cut(err.Error(), " (Stacktrace")
		return nil, tidemill.Invalid("the graph of architecture %s: %s", "use engine: native, or the TensorFlow that the project was tested with", p.Kind, what)
	}
	return m, nil
}

func (m *model) Tables() []tidemill.TableSpec   { return m.plan.Tables }
func (m *model) Tensors() []tidemill.TensorSpec { return m.plan.Tensors }
func (m *model) UsesField(t, f int) bool        { return m.plan.Uses[t][f] }
func (m *model) Outputs() int                   { return m.plan.Outputs }
func (m *model) Profile() string                { return m.profile }

func (m *model) NewStepper() engine.Stepper { return newStepper(m) }

// builder adds operations to the graph.
type builder struct {
	*model
	s *op.Scope
}

// next returns a scope for the next operation, whose names then differ from all others.
func (b *builder) next() *op.Scope { return b.s.SubScope("n") }

// feed adds a placeholder of float32 and returns its number; -1 is any length.
func (b *builder) feed(shape ...int64) int {
	b.feeds = append(b.feeds, op.Placeholder(b.next(), tf.Float, op.PlaceholderShape(tf.MakeShape(shape...))))
	return len(b.feeds) - 1
}

func (b *builder) build() error {
	p := b.plan
	k := int64(p.Outputs)
	b.scale, b.label = b.feed(-1, 1), b.feed(-1, k)
	for _, t := range p.Tensors {
		shape := make([]int64, len(t.Shape))
		for i, d := range t.Shape {
			shape[i] = int64(d)
		}
		b.tensors = append(b.tensors, b.feed(shape...))
	}
	if w := p.Wide; w != nil {
		b.lookups(w.Table, w.Dense)
	}
	if f := p.FM; f != nil {
		b.lookups(f.Table, f.Dense)
		if f.Table >= 0 {
			b.sums, b.squares = b.feed(-1, k*int64(f.Dim)), b.feed(-1, k*int64(f.Dim))
		}
	}
	if d := p.Deep; d != nil {
		b.input = b.feed(-1, int64(d.In))
		if d.Dropout > 0 {
			for _, l := range d.Layers {
				b.masks = append(b.masks, b.feed(-1, int64(l.Out)))
			}
		}
	}

	z := b.scores(false)
	predictions, losses := b.predictions(z), b.losses(z)
	if len(b.masks) > 0 {
		z = b.scores(true)
	}
	total := b.sum(op.Mul(b.next(), b.feeds[b.scale], b.losses(z)), 0, 1)
	forward := slices.DeleteFunc(slices.Concat(b.tensors, []int{b.dense, b.linear, b.sums, b.squares, b.input}), func(f int) bool { return f == none })
	b.predictFrom(forward, predictions, losses)
	for _, f := range forward {
		if f != b.dense && (f != b.input || p.Deep.Table >= 0) {
			b.by = append(b.by, f)
		}
	}
	x := make([]tf.Output, len(b.by))
	for i, f := range b.by {
		x[i] = b.feeds[f]
	}
	if err := b.s.Err(); err != nil {
		return err // Gradients would not look
	}
	gradients := op.Gradients(b.next(), []tf.Output{total}, x)
	if err := b.s.Err(); err != nil {
		return err
	}
	b.step = program{
		feeds:   slices.Concat(b.evaluate.feeds, []int{b.scale}, b.masks),
		fetches: slices.Concat(b.evaluate.fetches, gradients),
	}
	graph, err := b.s.Finalize()
	b.graph = graph
	return err
}

func (b *builder) predictFrom(forward []int, predictions, losses tf.Output) {
	b.predict = program{feeds: forward, fetches: []tf.Output{predictions}}
	b.evaluate = program{feeds: slices.Concat(forward, []int{b.label}), fetches: []tf.Output{predictions, losses}}
}

// lookups adds the feeds of a linear part.
func (b *builder) lookups(table, dense int) {
	if table >= 0 {
		b.linear = b.feed(-1, int64(b.plan.Outputs))
	}
	if dense >= 0 {
		b.dense = b.feed(-1, int64(b.plan.Shape.Width))
	}
}

// tensor returns the feed of tensor k.
func (b *builder) tensor(k int) tf.Output { return b.feeds[b.tensors[k]] }

// sum adds x up along axes.
func (b *builder) sum(x tf.Output, axes ...int32) tf.Output {
	return op.Sum(b.next(), x, op.Const(b.next(), axes))
}

func (b *builder) constant(v float32) tf.Output { return op.Const(b.next(), v) }

// scores returns z [N, K]; dropping, that of the units kept.
func (b *builder) scores(dropping bool) tf.Output {
	p := b.plan
	var parts []tf.Output
	add := func(o tf.Output) { parts = append(parts, o) }
	linear := func(dense int) {
		if b.linear != none {
			add(b.feeds[b.linear])
		}
		if dense >= 0 {
			add(op.MatMul(b.next(), b.feeds[b.dense], b.tensor(dense)))
		}
	}
	if w := p.Wide; w != nil {
		linear(w.Dense)
	}
	if f := p.FM; f != nil {
		linear(f.Dense)
		add(b.pairs(f))
	}
	if d := p.Deep; d != nil {
		add(b.deep(d, dropping))
		if p.Cross != nil {
			add(b.cross(p.Cross))
		}
	}
	z := parts[0]
	for _, o := range parts[1:] {
		z = op.Add(b.next(), z, o)
	}
	return op.BiasAdd(b.next(), z, b.tensor(p.Bias))
}

// pairs returns FM's ½ Σ_f (S[f]² - Q[f]) of each output.
func (b *builder) pairs(f *engine.FM) tf.Output {
	var sums, squares tf.Output
	if f.Table >= 0 {
		sums, squares = b.feeds[b.sums], b.feeds[b.squares]
	}
	if f.DenseFactors >= 0 {
		x, v := b.feeds[b.dense], b.tensor(f.DenseFactors)
		own, ownSquares := op.MatMul(b.next(), x, v), op.MatMul(b.next(), op.Square(b.next(), x), op.Square(b.next(), v))
		if f.Table >= 0 {
			own, ownSquares = op.Add(b.next(), sums, own), op.Add(b.next(), squares, ownSquares)
		}
		sums, squares = own, ownSquares
	}
	d := op.Sub(b.next(), op.Square(b.next(), sums), squares)
	d = op.Reshape(b.next(), d, op.Const(b.next(), []int32{-1, int32(b.plan.Outputs), int32(f.Dim)}))
	return op.Mul(b.next(), b.constant(0.5), b.sum(d, 2))
}

// deep returns h_last·head.
func (b *builder) deep(d *engine.Deep, dropping bool) tf.Output {
	h := b.feeds[b.input]
	for i, l := range d.Layers {
		h = op.BiasAdd(b.next(), op.MatMul(b.next(), h, b.tensor(l.Weight)), b.tensor(l.Bias))
		if l.Gain >= 0 {
			h = b.normalised(h, l)
		}
		h = op.Relu(b.next(), h)
		if dropping {
			h = op.Mul(b.next(), h, b.feeds[b.masks[i]])
		}
	}
	return op.MatMul(b.next(), h, b.tensor(d.Head))
}

// normalised is layer norm: gain·n(h) + shift.
func (b *builder) normalised(h tf.Output, l engine.Layer) tf.Output {
	axis := op.Const(b.next(), []int32{1})
	mean := func(x tf.Output) tf.Output { return op.Mean(b.next(), x, axis, op.MeanKeepDims(true)) }
	d := op.Sub(b.next(), h, mean(h))
	inv := op.Rsqrt(b.next(), op.Add(b.next(), mean(op.Square(b.next(), d)), b.constant(engine.NormEpsilon)))
	return op.BiasAdd(b.next(), op.Mul(b.next(), op.Mul(b.next(), d, inv), b.tensor(l.Gain)), b.tensor(l.Shift))
}

// cross returns DCN's x_last·cross_head.
func (b *builder) cross(c *engine.Cross) tf.Output {
	first := b.feeds[b.input]
	x := first
	for _, l := range c.Layers {
		var t tf.Output
		if l.Rank == 0 {
			t = op.MatMul(b.next(), x, b.tensor(l.Weight))
		} else {
			t = op.MatMul(b.next(), op.MatMul(b.next(), x, b.tensor(l.Left)), b.tensor(l.Right))
		}
		x = op.Add(b.next(), op.Mul(b.next(), first, op.BiasAdd(b.next(), t, b.tensor(l.Bias))), x)
	}
	return op.MatMul(b.next(), x, b.tensor(c.Head))
}

// predictions turns scores into probabilities where the loss says so.
func (b *builder) predictions(z tf.Output) tf.Output {
	switch b.plan.Loss {
	case engine.LossLogistic:
		return op.Sigmoid(b.next(), z)
	case engine.LossSoftmax:
		return op.Softmax(b.next(), z)
	}
	return op.Identity(b.next(), z)
}

// losses returns the loss of each example, [N, 1].
func (b *builder) losses(z tf.Output) tf.Output {
	y := b.feeds[b.label]
	switch b.plan.Loss {
	case engine.LossLogistic:
		// ln(1+eᶻ) - y·z of y in {0, 1}, without the difference of large numbers, and with the
		// right derivative at z = 0, where training begins.
		sign := op.Sub(b.next(), b.constant(1), op.Mul(b.next(), b.constant(2), y))
		return op.Softplus(b.next(), op.Mul(b.next(), sign, z))
	case engine.LossSoftmax:
		loss, _ := op.SoftmaxCrossEntropyWithLogits(b.next(), z, y)
		return op.Reshape(b.next(), loss, op.Const(b.next(), []int32{-1, 1}))
	case engine.LossHuber:
		// c·(a - ½c) with a = |r| and c = min(a, δ).
		a := op.Abs(b.next(), op.Sub(b.next(), z, y))
		c := op.Minimum(b.next(), a, b.constant(b.plan.HuberDelta))
		return op.Mul(b.next(), c, op.Sub(b.next(), a, op.Mul(b.next(), b.constant(0.5), c)))
	}
	return op.Mul(b.next(), b.constant(0.5), op.Square(b.next(), op.Sub(b.next(), z, y)))
}
