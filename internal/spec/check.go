package spec

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
)

// Losses.
const (
	lossLogistic = "logistic"
	lossSquared  = "squared"
	lossHuber    = "huber"
	lossSoftmax  = "softmax"
)

var (
	losses = []string{lossLogistic, lossSquared, lossHuber, lossSoftmax}
	kinds  = []string{tidemill.Linear, tidemill.Logistic, tidemill.Softmax, tidemill.FM, tidemill.MLP, tidemill.WideDeep, tidemill.DeepFM,
		tidemill.DLRM, tidemill.DCN, tidemill.Graph}
	modelNames = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
)

// problem is one thing wrong, at a path of the spec.
type problem = feature.Problem

// suggest is the remedy for a name that is none of valid.
func suggest(name string, valid []string) string {
	if near := tidemill.Nearest(name, valid); near != "" && name != "" {
		return "did you mean " + near + "?"
	}
	return "use one of " + strings.Join(valid, ", ")
}

func itoa(i int) string { return strconv.Itoa(i) }

// check returns everything wrong with s, whose defaults are filled in.
func check(s *tidemill.Spec, schema *arrow.Schema) []problem {
	c := checker{s: s}
	if s.Model == "" {
		c.add("model", "add model: NAME", "the spec names no model")
	} else if !modelNames.MatchString(s.Model) || s.Model == "." || s.Model == ".." {
		c.add("model", "use 1 to 128 of A-Z a-z 0-9 _ . -", "invalid model name %q", s.Model)
	}
	c.engine()
	c.stream()
	if s.Time.MaxOutOfOrder < 0 {
		c.add("time.max_out_of_order", "", "max_out_of_order is negative")
	}
	if s.Time.MaxOutOfOrder > 0 && s.Time.Column == "" {
		c.add("time.max_out_of_order", "add column: to time", "max_out_of_order has no meaning without a time column")
	}
	c.architecture()
	c.optimizer("optimizer.sparse", &s.Optimizer.Sparse)
	c.optimizer("optimizer.dense", &s.Optimizer.Dense)
	for _, table := range slices.Sorted(maps.Keys(s.Optimizer.Tables)) {
		o, path := s.Optimizer.Tables[table], "optimizer.tables."+table
		c.table(path, table)
		c.optimizer(path, &o)
	}
	c.tables()
	if n := s.Optimizer.ClipNorm; !(n >= 0 && n <= 1e12) {
		c.add("optimizer.clip_norm", "give a positive number such as 10, or leave it out", "clip_norm must not be %v", n)
	}
	if a := s.Optimizer.Average; a != nil && !(a.Decay > 0 && a.Decay < 1) {
		c.add("optimizer.average.decay", "write a number such as 0.999", "decay must lie between 0 and 1, not %v", a.Decay)
	}
	c.train()
	c.gate()
	c.between("serve.max_batch", s.Serve.MaxBatch, 1, 1<<20)
	c.between("serve.keep", s.Serve.Keep, 1, 1000)
	c.between("shards", s.Shards, 1, 1<<14)
	return append(c.problems, feature.Problems(s, schema)...)
}

type checker struct {
	s        *tidemill.Spec
	problems []problem
}

func (c *checker) add(path, remedy, what string, args ...any) {
	c.problems = append(c.problems, problem{Path: path, What: fmt.Sprintf(what, args...), Remedy: remedy})
}

func (c *checker) between(path string, v, lo, hi int) {
	if v < lo || v > hi {
		c.add(path, "", "%s must be %d to %d, not %d", path, lo, hi, v)
	}
}

func (c *checker) atLeast(path string, v, lo int64) {
	if v < lo {
		c.add(path, "", "%s must be at least %d, not %d", path, lo, v)
	}
}

// positive checks for a finite number above 0.
func (c *checker) positive(path string, v float64) {
	if !(v > 0) || math.IsInf(v, 0) {
		c.add(path, "", "%s must be above 0, not %v", path, v)
	}
}

// engines are the ones that a spec may ask for; whether they are there is for who runs the job.
var engines = []string{"native", engineTensorFlow}

const engineTensorFlow = "tensorflow"

func (c *checker) engine() {
	switch e := c.s.Engine; {
	case e == "" || slices.Contains(engines, e):
	case e == "cuda":
		c.add("engine", "use engine: native, or engine: tensorflow with its GPU library", "there is no engine cuda yet")
	default:
		c.add("engine", suggest(e, engines), "unknown engine %q", e)
	}
}

func (c *checker) stream() {
	s := &c.s.Stream
	if s.Topic == "" {
		c.add("stream.topic", "add stream: {topic: NAME}", "the spec names no topic")
	}
	for i, o := range s.Offsets {
		if o < 0 {
			c.add(fmt.Sprintf("stream.offsets[%d]", i), "", "an offset is negative: %d", o)
		}
	}
	if s.Kafka != nil {
		c.kafka("stream.kafka", s.Kafka)
	}
	if s.Offsets != nil {
		if len(s.Offsets) == 0 {
			c.add("stream.offsets", "give one offset per partition, or leave it out", "offsets is empty")
		}
	}
	switch s.From {
	case "": // only beside offsets, which win
	case "earliest", "latest":
	default:
		if _, err := time.Parse(time.RFC3339, s.From); err != nil {
			remedy := "use earliest, latest or a time such as 2024-01-31T00:00:00Z"
			if near := tidemill.Nearest(s.From, []string{"earliest", "latest"}); near != "" {
				remedy = "did you mean " + near + "?"
			}
			c.add("stream.from", remedy, "unknown start %q", s.From)
		}
	}
}

func (c *checker) architecture() {
	a, label := &c.s.Architecture, c.s.Label.Type
	switch {
	case a.Kind == "":
		c.add("architecture.kind", "add architecture: {kind: logistic}; kinds are "+strings.Join(kinds, ", "), "the spec names no architecture")
	case !slices.Contains(kinds, a.Kind):
		c.add("architecture.kind", suggest(a.Kind, kinds), "unknown architecture %q", a.Kind)
	case a.Kind == tidemill.Graph:
		c.graph()
	default:
		if a.File != "" {
			c.add("architecture.file", "leave it out, or set kind: graph", "file has no meaning for kind %s", a.Kind)
		}
		c.sizes()
	}
	fits := map[string][]string{
		tidemill.Binary:     {lossLogistic, lossSquared, lossHuber},
		tidemill.Regression: {lossSquared, lossHuber},
		tidemill.Multiclass: {lossSoftmax},
	}
	ok, known := fits[label]
	if !known {
		return // feature.Problems reports the label type
	}
	switch {
	case !slices.Contains(losses, a.Loss):
		c.add("architecture.loss", suggest(a.Loss, losses), "unknown loss %q", a.Loss)
	case !slices.Contains(ok, a.Loss):
		c.add("architecture.loss", "leave it out, or use "+strings.Join(ok, " or "), "loss %s does not fit a %s label", a.Loss, label)
	case a.Kind == tidemill.Logistic && a.Loss != lossLogistic:
		c.add("architecture.kind", "use kind: linear, or a binary label", "kind logistic needs loss logistic, not %s", a.Loss)
	case a.Kind == tidemill.Softmax && a.Loss != lossSoftmax:
		c.add("architecture.kind", "use kind: logistic or linear, or label type: multiclass", "kind softmax needs loss softmax, not %s", a.Loss)
	}
	if a.Loss == lossHuber {
		c.positive("architecture.huber_delta", a.HuberDelta)
	} else if a.HuberDelta != 0 {
		c.add("architecture.huber_delta", "leave it out, or set loss: huber", "huber_delta has no meaning for loss %s", a.Loss)
	}
}

// graph checks a graph's keys; what is in its file is checked where that is.
func (c *checker) graph() {
	a := &c.s.Architecture
	if a.File == "" {
		c.add("architecture.file", "add file: PATH of what tidemill.keras.export wrote", "kind graph needs the file of a graph")
	}
	if c.s.Engine != "" && c.s.Engine != engineTensorFlow {
		c.add("engine", "leave it out, or use engine: "+engineTensorFlow, "engine %s computes no graphs", c.s.Engine)
	}
	for _, p := range []struct {
		key string
		set bool
	}{
		{"dim", a.Dim != 0}, {"hidden", a.Hidden != nil}, {"init_scale", a.InitScale != 0}, {"bottom", a.Bottom != nil},
		{"cross_layers", a.CrossLayers != 0}, {"rank", a.Rank != 0}, {"layer_norm", a.LayerNorm}, {"dropout", a.Dropout != 0},
		{"precision", a.Precision != ""},
	} {
		if p.set {
			c.add("architecture."+p.key, "leave it out: the graph has its own layers", "%s has no meaning for kind graph", p.key)
		}
	}
}

// sizes checks dim, hidden and init_scale of a known kind.
func (c *checker) sizes() {
	a := &c.s.Architecture
	if linear(a.Kind) {
		for _, p := range []struct {
			key string
			set bool
		}{{"dim", a.Dim != 0}, {"init_scale", a.InitScale != 0}} {
			if p.set {
				c.add("architecture."+p.key, "leave it out", "%s has no meaning for kind %s", p.key, a.Kind)
			}
		}
	} else {
		c.between("architecture.dim", a.Dim, 1, 4096)
		if !(a.InitScale > 0 && a.InitScale <= 1000) {
			c.add("architecture.init_scale", "give a small number such as 0.01", "init_scale must be above 0 and at most 1000, not %v", a.InitScale)
		}
	}
	c.parts()
	if !deep(a.Kind) {
		if a.Hidden != nil {
			c.add("architecture.hidden", "leave it out", "hidden has no meaning for kind %s", a.Kind)
		}
		return
	}
	c.layers("hidden", a.Hidden)
}

// layers checks a list of layers' widths.
func (c *checker) layers(key string, widths []int) {
	if len(widths) == 0 || len(widths) > 32 {
		c.add("architecture."+key, "list the width of each layer, e.g. [64, 32]", "%s needs 1 to 32 layers, not %d", key, len(widths))
	}
	for i, h := range widths {
		if h < 1 || h > 1<<16 {
			c.add(fmt.Sprintf("architecture.%s[%d]", key, i), "", "a %s layer must have 1 to %d units, not %d", key, 1<<16, h)
		}
	}
}

// parts checks what only some deep kinds have.
func (c *checker) parts() {
	a := &c.s.Architecture
	for _, p := range []struct {
		key  string
		set  bool
		kind string // the only one that has it; empty: every deep kind
	}{
		{"bottom", a.Bottom != nil, tidemill.DLRM},
		{"cross_layers", a.CrossLayers != 0, tidemill.DCN},
		{"rank", a.Rank != 0, tidemill.DCN},
		{"layer_norm", a.LayerNorm, ""},
		{"dropout", a.Dropout != 0, ""},
		{"precision", a.Precision != "", ""},
	} {
		if p.set && (p.kind != "" && a.Kind != p.kind || p.kind == "" && !deep(a.Kind)) {
			c.add("architecture."+p.key, "leave it out", "%s has no meaning for kind %s", p.key, a.Kind)
		}
	}
	if a.Kind == tidemill.DLRM {
		c.layers("bottom", a.Bottom)
	}
	if a.Kind == tidemill.DCN {
		c.between("architecture.cross_layers", a.CrossLayers, 1, 32)
		c.between("architecture.rank", a.Rank, 0, 4096)
	}
	precisions := []string{tidemill.Float32, tidemill.BFloat16}
	switch {
	case a.Precision != "" && !slices.Contains(precisions, a.Precision):
		c.add("architecture.precision", suggest(a.Precision, precisions), "unknown precision %q", a.Precision)
	case a.Precision == tidemill.BFloat16 && c.s.Engine == engineTensorFlow:
		c.add("architecture.precision", "leave it out, or use engine: native", "engine %s computes in float32", c.s.Engine)
	}
	if !(a.Dropout >= 0 && a.Dropout < 1) {
		c.add("architecture.dropout", "give a share such as 0.1", "dropout must be at least 0 and below 1, not %v", a.Dropout)
	}
}

// tablesOf lists the tables of a kind, nil for one that is not known.
func tablesOf(kind string) []string {
	switch kind {
	case tidemill.Linear, tidemill.Logistic, tidemill.Softmax:
		return []string{"weights"}
	case tidemill.FM, tidemill.DeepFM:
		return []string{"factors"}
	case tidemill.MLP, tidemill.DLRM, tidemill.DCN:
		return []string{"embeddings"}
	case tidemill.WideDeep:
		return []string{"wide", "embeddings"}
	}
	return nil
}

// optimizerKeys lists the parameters of each optimizer.
var optimizerKeys = map[string][]string{
	tidemill.SGD:      {"lr", "l2", "schedule"},
	tidemill.Momentum: {"lr", "momentum", "l2", "schedule"},
	tidemill.Adagrad:  {"lr", "initial", "epsilon", "l2", "schedule"},
	tidemill.RMSProp:  {"lr", "rho", "epsilon", "l2", "schedule"},
	tidemill.Adam:     {"lr", "beta1", "beta2", "epsilon", "l2", "schedule"},
	tidemill.FTRL:     {"alpha", "lr", "beta", "l1", "l2", "schedule"},
}

func optimizerKinds() []string {
	return []string{tidemill.SGD, tidemill.Momentum, tidemill.Adagrad, tidemill.RMSProp, tidemill.Adam, tidemill.FTRL}
}

// parameter is one hyper-parameter of an optimizer, in [lo, hi] when it is not 0.
type parameter struct {
	key    string
	value  float64
	lo, hi float64
	def    string // its default, for messages; ps/optim has the numbers
}

func parameters(o *tidemill.OptimizerChoice) []parameter {
	const tiny = 1e-12
	const below1 = 1 - 1e-7 // the largest that is still below 1 as a float32
	return []parameter{
		{"lr", o.LR, tiny, 1e6, "the optimizer's own"},
		{"alpha", o.Alpha, tiny, 1e6, "0.1"},
		{"beta", o.Beta, tiny, 1e6, "1"},
		{"l1", o.L1, 0, 1e6, "0"},
		{"l2", o.L2, 0, 1e6, "0"},
		{"momentum", o.Momentum, tiny, below1, "0.9"},
		{"rho", o.Rho, tiny, below1, "0.9"},
		{"beta1", o.Beta1, tiny, below1, "0.9"},
		{"beta2", o.Beta2, tiny, below1, "0.999"},
		{"epsilon", o.Epsilon, 1e-20, 1, "1e-8 or 1e-10"},
		{"initial", o.Initial, 1e-20, 1e20, "0.1"},
	}
}

func (c *checker) optimizer(path string, o *tidemill.OptimizerChoice) {
	keys, known := optimizerKeys[o.Kind]
	if !known {
		c.add(path, suggest(o.Kind, optimizerKinds()), "unknown optimizer %q", o.Kind)
		return
	}
	path += "." + o.Kind
	for _, p := range parameters(o) {
		at := path + "." + p.key
		switch {
		case p.value == 0:
		case !slices.Contains(keys, p.key):
			c.add(at, "it has "+strings.Join(keys, ", "), "%s has no %s", o.Kind, p.key)
		case !(p.value >= p.lo && p.value <= p.hi):
			c.add(at, "left out it is "+p.def, "%s must be %g to %g, not %v", p.key, p.lo, p.hi, p.value)
		}
	}
	if o.Kind == tidemill.FTRL && o.LR != 0 && o.Alpha != 0 && o.LR != o.Alpha {
		c.add(path+".lr", "give alpha alone", "lr and alpha are the same thing for ftrl")
	}
	if o.Schedule != nil {
		c.schedule(path+".schedule", o.Schedule)
	}
}

func (c *checker) schedule(path string, s *tidemill.Schedule) {
	names := []string{"constant", "warmup", "inverse_sqrt", "exponential", "cosine"}
	if s.Kind == "" {
		c.add(path+".kind", "use one of "+strings.Join(names, ", "), "the schedule has no kind")
		return
	}
	if !slices.Contains(names, s.Kind) {
		c.add(path+".kind", suggest(s.Kind, names), "unknown schedule %q", s.Kind)
		return
	}
	c.atLeast(path+".warmup", s.Warmup, 0)
	if s.Kind == "warmup" && s.Warmup == 0 {
		c.add(path+".warmup", "give a number of examples", "a warmup schedule needs warmup")
	}
	decays := s.Kind != "constant" && s.Kind != "warmup"
	if decays {
		c.atLeast(path+".over", s.Over, 1)
	} else if s.Over != 0 {
		c.add(path+".over", "leave it out", "over has no meaning for schedule %s", s.Kind)
	}
	switch {
	case s.Kind == "exponential" && !(s.Factor > 0 && s.Factor <= 1):
		c.add(path+".factor", "give the factor per period, e.g. 0.5", "factor must be above 0 and at most 1, not %v", s.Factor)
	case s.Kind == "cosine" && !(s.Factor >= 0 && s.Factor <= 1):
		c.add(path+".factor", "give the final fraction, e.g. 0.1", "factor must be 0 to 1, not %v", s.Factor)
	case s.Kind != "exponential" && s.Kind != "cosine" && s.Factor != 0:
		c.add(path+".factor", "leave it out", "factor has no meaning for schedule %s", s.Kind)
	}
}

func (c *checker) train() {
	t := &c.s.Train
	c.between("train.batch", t.Batch, 1, 1<<20)
	if t.Linger < 0 {
		c.add("train.linger", "", "train.linger is negative: %v", t.Linger)
	}
	if all := []string{tidemill.ReduceMean, tidemill.ReduceSum}; t.Reduction != "" && !slices.Contains(all, t.Reduction) {
		c.add("train.reduction", suggest(t.Reduction, all), "unknown reduction %q", t.Reduction)
	}
	c.atLeast("train.staleness", int64(t.Staleness), -1)
	c.hot()
	if t.Snapshot.Rows < 0 || t.Snapshot.Time < 0 || t.Snapshot.Rows > 0 && t.Snapshot.Time > 0 {
		c.add("train.snapshot", "give rows or a time, above 0", "train.snapshot has no cadence")
	}
	c.between("train.snapshot.keep", t.Snapshot.Keep, 0, 100_000) // 0: the default
	c.atLeast("train.max_rows", t.MaxRows, 0)
	c.atLeast("train.parallelism", int64(t.Parallelism), 0)
	c.atLeast("train.ps", int64(t.PS), 0)
}

// hot checks what a job says of rows that workers keep.
func (c *checker) hot() {
	t := &c.s.Train
	c.between("train.hot_rows", t.HotRows, 0, 10_000_000)
	c.between("train.hot_batches", t.HotBatches, 0, 1_000_000)
	switch {
	case t.HotRows == 0 && t.HotBatches != 0:
		c.add("train.hot_batches", "say how many rows with train.hot_rows, or leave it out", "train.hot_batches has no meaning without train.hot_rows")
	case t.HotRows == 0:
	case t.Staleness == 0:
		c.add("train.hot_rows", "give train.staleness, or leave it out", "train.hot_rows keeps rows from batch to batch, which train.staleness 0 does not allow")
	case t.Staleness < 0 && t.HotBatches == 0:
		c.add("train.hot_rows", "say for how many batches a row may be used with train.hot_batches, e.g. 4", "train.hot_rows has no bound at train.staleness -1")
	case t.Staleness > 0 && t.HotBatches > t.Staleness:
		c.add("train.hot_batches", "", "train.hot_batches must be at most train.staleness %d, not %d", t.Staleness, t.HotBatches)
	}
}

func (c *checker) gate() {
	g := &c.s.Gate
	if modes := []string{tidemill.GateOn, tidemill.GateOff}; !slices.Contains(modes, g.Mode) {
		c.add("gate.mode", suggest(g.Mode, modes), "unknown gate mode %q", g.Mode)
	}
	if proofs := []string{tidemill.ProveNotWorse, tidemill.ProveHarm}; !slices.Contains(proofs, g.Prove) {
		c.add("gate.prove", suggest(g.Prove, proofs), "unknown proof %q", g.Prove)
	}
	c.positive("gate.margin", g.Margin)
	if !(g.Alpha > 0 && g.Alpha < 1) {
		c.add("gate.alpha", "write an error probability such as 0.01", "gate.alpha must lie between 0 and 1, not %v", g.Alpha)
	}
	c.positive("gate.clip", g.Clip)
	c.atLeast("gate.min_examples", g.MinExamples, 1)
	if g.MinExamples >= 1 && g.MaxExamples < g.MinExamples {
		c.add("gate.max_examples", "", "gate.max_examples %d is below min_examples %d", g.MaxExamples, g.MinExamples)
	}
}
