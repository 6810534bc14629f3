package spec

import (
	"slices"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
)

// Defaults fills in everything that s leaves out and that has a default. Filling in twice
// changes nothing more.
func Defaults(s *tidemill.Spec) {
	if s.Stream.From == "" && s.Stream.Offsets == nil {
		s.Stream.From = "earliest"
	}
	orText(&s.Label.Type, tidemill.Binary)
	for i := range s.Features {
		feature.Defaults(&s.Features[i])
	}
	architecture(s)
	optimizers(s)
	t := &s.Train
	or(&t.Batch, 512)
	or(&t.Linger, 200*time.Millisecond)
	if t.Snapshot.Rows == 0 && t.Snapshot.Time == 0 {
		t.Snapshot.Time = 10 * time.Second
	}
	or(&t.Snapshot.Keep, tidemill.DefaultKeep)
	if t.MaxBadRows.IsZero() {
		t.MaxBadRows.Rows = 1000
	}
	or(&s.Shards, tidemill.DefaultShards)
	g := &s.Gate
	orText(&g.Mode, tidemill.GateOn)
	orText(&g.Prove, tidemill.ProveNotWorse)
	or(&g.Margin, 0.01)
	or(&g.Alpha, 0.01)
	or(&g.Clip, 0.5)
	or(&g.MinExamples, 1000)
	or(&g.MaxExamples, 20*min(g.MinExamples, 1<<58))
	or(&s.Serve.MaxBatch, 1024)
	or(&s.Serve.Keep, 2)
}

func or[T int | int64 | float64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func orText(v *string, def string) {
	if *v == "" {
		*v = def
	}
}

// linear reports whether kind has no embeddings and no hidden layers.
func linear(kind string) bool {
	return kind == tidemill.Linear || kind == tidemill.Logistic || kind == tidemill.Softmax
}

// deep reports whether kind has hidden layers.
func deep(kind string) bool {
	return slices.Contains([]string{tidemill.MLP, tidemill.WideDeep, tidemill.DeepFM, tidemill.DLRM, tidemill.DCN}, kind)
}

func architecture(s *tidemill.Spec) {
	a := &s.Architecture
	if a.Loss == "" {
		switch s.Label.Type {
		case tidemill.Binary:
			a.Loss = lossLogistic
		case tidemill.Regression:
			a.Loss = lossSquared
		case tidemill.Multiclass:
			a.Loss = lossSoftmax
		}
	}
	if a.Loss == lossHuber {
		or(&a.HuberDelta, 1)
	}
	if a.Kind == tidemill.Graph && s.Engine == "" {
		s.Engine = engineTensorFlow
	}
	if !slices.Contains(kinds, a.Kind) || linear(a.Kind) || a.Kind == tidemill.Graph {
		return
	}
	or(&a.Dim, 8)
	or(&a.InitScale, 0.01)
	if a.Hidden == nil && deep(a.Kind) {
		a.Hidden = []int{64, 32}
	}
	if a.Bottom == nil && a.Kind == tidemill.DLRM {
		a.Bottom = []int{64}
	}
	if a.Kind == tidemill.DCN {
		or(&a.CrossLayers, 3)
	}
}

func optimizers(s *tidemill.Spec) {
	o := &s.Optimizer
	if o.Sparse.Kind == "" {
		o.Sparse = tidemill.OptimizerChoice{Kind: tidemill.Adagrad, LR: 0.05}
		if linear(s.Architecture.Kind) {
			o.Sparse = tidemill.OptimizerChoice{Kind: tidemill.FTRL, Alpha: 0.1, Beta: 1}
		}
	}
	if o.Dense.Kind == "" {
		o.Dense = tidemill.OptimizerChoice{Kind: tidemill.Adam, LR: 0.001}
		if linear(s.Architecture.Kind) {
			o.Dense = tidemill.OptimizerChoice{Kind: tidemill.Adagrad, LR: 0.05}
		}
	}
}

// clone copies s as deep as Defaults writes.
func clone(s *tidemill.Spec) *tidemill.Spec {
	c := *s
	c.Features = slices.Clone(s.Features)
	for i := range c.Features {
		f := &c.Features[i]
		if f.Bucketize != nil {
			b := *f.Bucketize
			f.Bucketize = &b
		}
		if f.Vocabulary != nil {
			v := *f.Vocabulary
			f.Vocabulary = &v
		}
		if f.MultiHot != nil {
			m := *f.MultiHot
			f.MultiHot = &m
		}
	}
	return &c
}

// zeros reports zeros written where a zero would be replaced by another default.
func zeros(d *Document) []problem {
	s := d.Spec
	var c checker
	c.s = s
	refuse := func(path string, zero bool, def any, remedy string) {
		if _, written := d.places[path]; written && zero {
			c.add(path, remedy, "%s cannot be 0; left out it is %v", path, def)
		}
	}
	t, g := &s.Train, &s.Gate
	refuse("shards", s.Shards == 0, tidemill.DefaultShards, "")
	refuse("train.batch", t.Batch == 0, 512, "give 1 or more rows")
	refuse("train.linger", t.Linger == 0, "200ms", "give a short time such as 1ms")
	refuse("gate.margin", g.Margin == 0, 0.01, "give a small number such as 1e-6")
	refuse("gate.alpha", g.Alpha == 0, 0.01, "")
	refuse("gate.clip", g.Clip == 0, 0.5, "")
	refuse("gate.min_examples", g.MinExamples == 0, 1000, "give 1 or more")
	refuse("gate.max_examples", g.MaxExamples == 0, "20×min_examples", "")
	refuse("serve.max_batch", s.Serve.MaxBatch == 0, 1024, "")
	refuse("serve.keep", s.Serve.Keep == 0, 2, "give 1 or more")
	a := &s.Architecture
	refuse("architecture.dim", a.Dim == 0, 8, "")
	refuse("architecture.cross_layers", a.CrossLayers == 0 && a.Kind == tidemill.DCN, 3, "give 1 or more")
	refuse("architecture.huber_delta", a.HuberDelta == 0, 1, "")
	refuse("architecture.init_scale", a.InitScale == 0, 0.01, "")
	for _, side := range []struct {
		path string
		c    *tidemill.OptimizerChoice
	}{{"optimizer.sparse", &s.Optimizer.Sparse}, {"optimizer.dense", &s.Optimizer.Dense}} {
		for _, p := range parameters(side.c) {
			if p.def != "0" {
				refuse(side.path+"."+side.c.Kind+"."+p.key, p.value == 0, p.def, "")
			}
		}
	}
	for i := range s.Features {
		f := &s.Features[i]
		at := func(key string) string { return "features[" + itoa(i) + "]." + key }
		if b := f.Bucketize; b != nil {
			refuse(at("bucketize.quantiles"), b.Quantiles == 0, "off", "give 2 or more buckets")
			refuse(at("bucketize.learn_rows"), b.LearnRows == 0, 1000, "")
		}
		if v := f.Vocabulary; v != nil {
			refuse(at("vocabulary.learn_rows"), v.LearnRows == 0, "off", "")
			refuse(at("vocabulary.max_size"), v.MaxSize == 0, 10_000, "")
		}
		if f.MultiHot != nil {
			refuse(at("multi_hot.max"), f.MultiHot.Max == 0, 64, "")
		}
	}
	return c.problems
}
