package carry

import (
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
)

var schema = arrow.NewSchema([]arrow.Field{
	{Name: "user", Type: arrow.BinaryTypes.String},
	{Name: "item", Type: arrow.PrimitiveTypes.Int64},
	{Name: "tags", Type: arrow.BinaryTypes.String},
	{Name: "price", Type: arrow.PrimitiveTypes.Float64},
	{Name: "age", Type: arrow.PrimitiveTypes.Float64},
	{Name: "score", Type: arrow.PrimitiveTypes.Float32},
	{Name: "label", Type: arrow.PrimitiveTypes.Int64},
	{Name: "other_label", Type: arrow.PrimitiveTypes.Int64},
	{Name: "ts", Type: arrow.PrimitiveTypes.Int64},
}, nil)

// base is a spec with a feature of every kind.
func base() *tidemill.Spec {
	return &tidemill.Spec{
		Model: "m", Stream: tidemill.StreamSpec{Topic: "t"}, Label: tidemill.LabelSpec{Column: "label", Positive: []string{"1"}},
		Time: tidemill.TimeSpec{Column: "ts"},
		Features: []tidemill.FeatureSpec{
			{Name: "user", Column: "user", Hash: &tidemill.HashSpec{}},
			{Name: "item", Column: "item", Hash: &tidemill.HashSpec{Buckets: 100}},
			{Name: "word", Column: "user", Vocabulary: &tidemill.Vocabulary{Values: []string{"a", "b"}}},
			{Name: "learned", Column: "user", Vocabulary: &tidemill.Vocabulary{LearnRows: 100}},
			{Name: "tags", Column: "tags", MultiHot: &tidemill.MultiHot{Separator: ","}},
			{Name: "bucket", Column: "price", Clip: []float64{0, 9}, Bucketize: &tidemill.Bucketize{Edges: []float64{1, 2, 3}}},
			{Name: "quantile", Column: "price", Bucketize: &tidemill.Bucketize{Quantiles: 4}},
			{Name: "age", Column: "age", Standardize: &tidemill.Standardize{}},
			{Name: "score", Column: "score"},
			{Cross: []string{"user", "bucket"}},
		},
		Architecture: tidemill.Architecture{Kind: tidemill.WideDeep, Dim: 2, Hidden: []int{3}},
		Optimizer: tidemill.OptimizerSpec{
			Sparse: tidemill.OptimizerChoice{Kind: tidemill.FTRL, Alpha: 0.1}, Dense: tidemill.OptimizerChoice{Kind: tidemill.Adam},
			Average: &tidemill.AverageSpec{Decay: 0.9},
		},
		Train: tidemill.TrainSpec{MaxRows: 1000}, Shards: 8,
	}
}

func compile(t testing.TB, s *tidemill.Spec) *model.Model {
	t.Helper()
	spec.Defaults(s)
	m, err := model.Compile(s, schema)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func source(m *model.Model) Source {
	return Source{Model: m, Topic: "t", Identity: "one", Cut: tidemill.Cut{10, 20}}
}

func target(m *model.Model) Target {
	return Target{
		Model: m, Topic: "t", Identity: "one", First: tidemill.Cut{5, 5}, Next: tidemill.Cut{100, 100},
		Begin: tidemill.Cut{5, 5}, Says: true,
	}
}

// A spec that says the same carries everything.
func TestSameSpec(t *testing.T) {
	p := New(source(compile(t, base())), target(compile(t, base())))
	for _, i := range p.Items {
		if i.Action != Carried || i.Trained || i.Why != "" && strings.Contains(i.Why, "other") {
			t.Errorf("%v", i)
		}
	}
	if p.Err() != nil || len(p.Losses()) != 0 || !slices.Equal(p.Begin(), tidemill.Cut{10, 20}) || len(p.Retired()) != 0 {
		t.Errorf("%v, losses %v, begins at %v, retired %v", p.Err(), p.Losses(), p.Begin(), p.Retired())
	}
}

// rule is a change of the spec, the source or the target, and what must be said of it. Whatever
// else is said must be carried without loss.
type rule struct {
	name   string
	change func(s *tidemill.Spec, from *Source, to *Target)
	want   []Item // Why: a part of it
}

func at(s *tidemill.Spec, name string) *tidemill.FeatureSpec {
	for i := range s.Features {
		if s.Features[i].Name == name {
			return &s.Features[i]
		}
	}
	panic(name)
}

func only(f func(*tidemill.Spec)) func(*tidemill.Spec, *Source, *Target) {
	return func(s *tidemill.Spec, _ *Source, _ *Target) { f(s) }
}

func rules() []rule {
	gone := func(what string) Item { return Item{what, Dropped, true, ""} }
	fresh := func(what string) Item { return Item{what, Initialised, false, ""} }
	no := func(what, why string) Item { return Item{what, Refused, false, why} }
	yes := func(what, why string) Item { return Item{what, Carried, false, why} }
	return []rule{
		// Features.
		{"hash buckets", only(func(s *tidemill.Spec) { at(s, "item").Hash.Buckets = 200 }), []Item{no("feature item", "hash into 100 buckets before, hash into 200 buckets now")}},
		{"column", only(func(s *tidemill.Spec) { at(s, "user").Column = "tags" }), []Item{no("feature user", "column user of text before, column tags of text now")}},
		{"column of another type", only(func(s *tidemill.Spec) { at(s, "user").Column = "item" }), []Item{no("feature user", "column item of numbers now")}},
		{"bucket edges", only(func(s *tidemill.Spec) { at(s, "bucket").Bucketize.Edges = []float64{1, 2.5, 3} }), []Item{no("feature bucket", "3 bucket edges from 1 to 3")}},
		{"clip", only(func(s *tidemill.Spec) { at(s, "bucket").Clip = []float64{0, 8} }), []Item{no("feature bucket", "clip: [0, 9] before, clip: [0, 8] now")}},
		{"log1p", only(func(s *tidemill.Spec) { at(s, "score").Log1p = true }), []Item{no("feature score", "log1p now")}},
		{"impute", only(func(s *tidemill.Spec) { x := 3.0; at(s, "score").Impute = &x }), []Item{no("feature score", "impute: 0 before, impute: 3 now")}},
		{"standardize", only(func(s *tidemill.Spec) { at(s, "age").Standardize = nil }), []Item{no("feature age", "standardize before")}},
		{"role", only(func(s *tidemill.Spec) { at(s, "score").Bucketize = &tidemill.Bucketize{Edges: []float64{1}} }), []Item{
			no("feature score", "was a dense number and becomes categories"),
			yes("tensor dense", "1 carried, 0 initialised, 1 gone"), yes("tensor hidden1", "15 carried, 2 initialised, 1 gone")}},
		{"learned to fixed edges", only(func(s *tidemill.Spec) { at(s, "quantile").Bucketize = &tidemill.Bucketize{Edges: []float64{1}} }),
			[]Item{no("feature quantile", "learned buckets before, 1 bucket edges")}},
		{"cross", only(func(s *tidemill.Spec) {
			s.Features[9].Name = "user_x_bucket"
			s.Features[9].Cross = []string{"item", "bucket"}
		}),
			[]Item{no("feature user_x_bucket", "cross of user and bucket before, cross of item and bucket now")}},
		{"vocabulary", only(func(s *tidemill.Spec) { at(s, "word").Vocabulary.Values = []string{"a", "b", "c"} }), []Item{yes("feature word", "keep their ids")}},
		{"multi-hot", only(func(s *tidemill.Spec) { at(s, "tags").MultiHot.Max = 3 }), []Item{yes("feature tags", "keep their ids")}},
		{"quantiles", only(func(s *tidemill.Spec) { at(s, "quantile").Bucketize.Quantiles = 5 }), []Item{gone("what quantile learned"), fresh("what quantile learns")}},
		{"learned vocabulary", only(func(s *tidemill.Spec) { at(s, "learned").Vocabulary.MaxSize = 5 }), []Item{gone("what learned learned"), fresh("what learned learns")}},
		{"feature removed", only(func(s *tidemill.Spec) { s.Features = s.Features[1:9] }), []Item{
			gone("feature user"), gone("feature user_x_bucket"), yes("tensor hidden1", "14 carried, 0 initialised, 2 gone")}},
		{"number removed", only(func(s *tidemill.Spec) { s.Features = append(s.Features[:8:8], s.Features[9]) }), []Item{
			gone("feature score"), yes("tensor dense", "1 carried, 0 initialised, 1 gone"), yes("tensor hidden1", "15 carried, 0 initialised, 1 gone")}},
		{"features added", only(func(s *tidemill.Spec) {
			s.Features = append([]tidemill.FeatureSpec{{Name: "price", Column: "price"}, {Name: "id", Column: "item", Hash: &tidemill.HashSpec{}}}, s.Features...)
		}), []Item{
			fresh("feature price"), fresh("feature id"),
			yes("tensor dense", "2 carried, 1 initialised, 0 gone"), yes("tensor hidden1", "16 carried, 3 initialised, 0 gone")}},
		{"order of features", only(func(s *tidemill.Spec) { s.Features[7], s.Features[8] = s.Features[8], s.Features[7] }), []Item{
			yes("tensor dense", "2 carried, 0 initialised, 0 gone"), yes("tensor hidden1", "16 carried")}},
		{"a retired name with another meaning", func(s *tidemill.Spec, from *Source, _ *Target) {
			s.Features = append(s.Features, tidemill.FeatureSpec{Name: "city", Column: "item", Hash: &tidemill.HashSpec{}})
			from.Retired = []snapshot.RetiredFeature{{Name: "city", Means: []string{"column city of text"}}}
		}, []Item{no("feature city", "an earlier spec had a feature of this name"), yes("tensor hidden1", "16 carried, 2 initialised, 0 gone")}},

		// The model.
		{"dim", only(func(s *tidemill.Spec) { s.Architecture.Dim = 4 }), []Item{
			no("table embeddings", "its rows had 2 values and would have 4"), yes("tensor hidden1", "")}},
		{"hidden", only(func(s *tidemill.Spec) { s.Architecture.Hidden = []int{4} }), []Item{
			gone("tensor hidden1"), fresh("tensor hidden1"), gone("tensor hidden1_bias"), fresh("tensor hidden1_bias"), gone("tensor head"), fresh("tensor head")}},
		{"another layer", only(func(s *tidemill.Spec) { s.Architecture.Hidden = []int{3, 3} }), []Item{
			fresh("tensor hidden2"), fresh("tensor hidden2_bias")}},
		{"architecture", only(func(s *tidemill.Spec) { s.Architecture = tidemill.Architecture{Kind: tidemill.Logistic} }), []Item{
			gone("table wide"), gone("table embeddings"), fresh("table weights"), gone("tensor hidden1"), gone("tensor hidden1_bias"), gone("tensor head")}},
		{"seed", only(func(s *tidemill.Spec) { s.Seed = 9 }), []Item{yes("table wide", "begin with other values"), yes("table embeddings", "begin with other values")}},
		{"max rows", only(func(s *tidemill.Spec) { s.Train.MaxRows = 10 }), []Item{yes("table wide", "no row is admitted"), yes("table embeddings", "no row is admitted")}},
		{"shards", only(func(s *tidemill.Spec) { s.Shards = 3 }), []Item{yes("table wide", "dropped with the shard"), yes("table embeddings", "dropped with the shard")}},

		// The label.
		{"label type", only(func(s *tidemill.Spec) { s.Label = tidemill.LabelSpec{Column: "label", Type: tidemill.Regression} }), []Item{no("label", "its type was binary and is regression")}},
		{"label column", only(func(s *tidemill.Spec) { s.Label.Column = "other_label" }), []Item{no("label", "its column was label")}},
		{"label values", only(func(s *tidemill.Spec) { s.Label.Positive = []string{"2"} }), []Item{no("label", "other values are positive")}},
		{"loss", only(func(s *tidemill.Spec) { s.Architecture.Loss = "squared" }), []Item{no("label", "the loss was logistic and is squared")}},

		// Optimizers.
		{"learning rate", only(func(s *tidemill.Spec) { s.Optimizer.Dense.LR = 0.5 }), []Item{yes("dense optimizer", "new parameters hold")}},
		{"FTRL's alpha", only(func(s *tidemill.Spec) { s.Optimizer.Sparse.Alpha = 0.2 }), []Item{gone("sparse optimizer state")}},
		{"a table's own optimizer", only(func(s *tidemill.Spec) {
			s.Optimizer.Tables = map[string]tidemill.OptimizerChoice{"wide": {Kind: tidemill.Adagrad}}
		}), []Item{gone("optimizer of table wide state"), yes("optimizer of table embeddings", "")}},
		{"FTRL's schedule", only(func(s *tidemill.Spec) { s.Optimizer.Sparse.Schedule = &tidemill.Schedule{Kind: "warmup", Warmup: 5} }), nil},
		{"optimizers", only(func(s *tidemill.Spec) {
			s.Optimizer.Sparse, s.Optimizer.Dense = tidemill.OptimizerChoice{Kind: tidemill.Adagrad}, tidemill.OptimizerChoice{Kind: tidemill.SGD}
		}), []Item{gone("sparse optimizer state"), gone("dense optimizer state")}},
		{"no averages", only(func(s *tidemill.Spec) { s.Optimizer.Average = nil }), []Item{gone("averaged weights")}},
		{"decay", only(func(s *tidemill.Spec) { s.Optimizer.Average = &tidemill.AverageSpec{Decay: 0.5} }), []Item{yes("averaged weights", "with decay 0.9, then 0.5")}},

		// The stream.
		{"time column", only(func(s *tidemill.Spec) { s.Time.Column = "" }), []Item{fresh("watermark")}},
		{"another stream", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Topic = "u" }, []Item{fresh("position"), fresh("progressive metrics")}},
		{"made again", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Identity = "two" }, []Item{fresh("position"), fresh("progressive metrics")}},
		{"another stream, not said", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Topic, to.Says = "u", false }, []Item{no("position", "say with stream.from"), fresh("progressive metrics")}},
		{"offsets", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Offsets = true }, []Item{no("position", "trained twice, or never")}},
		{"the cut as offsets", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Offsets, to.Begin = true, tidemill.Cut{10, 20} }, nil},
		{"rows dropped", func(_ *tidemill.Spec, _ *Source, to *Target) { to.First = tidemill.Cut{5, 30} }, []Item{no("position", "no longer holds offsets 20 to 29 of partition 1")}},
		{"rows lost", func(_ *tidemill.Spec, _ *Source, to *Target) { to.Next = tidemill.Cut{9, 100} }, []Item{no("position", "partition 0 ends at 9, before the snapshot's 10")}},
		{"fewer partitions", func(_ *tidemill.Spec, _ *Source, to *Target) { to.First, to.Next = tidemill.Cut{5}, tidemill.Cut{100} }, []Item{no("position", "2 partitions and the topic 1")}},
		{"partitions added", func(_ *tidemill.Spec, _ *Source, to *Target) {
			to.First, to.Next = tidemill.Cut{5, 5, 7}, tidemill.Cut{100, 100, 100}
		}, []Item{yes("position", "goes on at [10 20 7]")}},
	}
}

func TestRules(t *testing.T) {
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			s := base()
			from := source(compile(t, base()))
			to := target(nil)
			r.change(s, &from, &to)
			to.Model = compile(t, s)
			p := New(from, to)
			left := slices.Clone(p.Items)
			for _, w := range r.want {
				i := slices.IndexFunc(left, func(i Item) bool {
					return i.What == w.What && i.Action == w.Action && i.Trained == w.Trained && strings.Contains(i.Why, w.Why)
				})
				if i < 0 {
					t.Errorf("nothing like %+v in\n%v", w, p.Items)
					continue
				}
				left = slices.Delete(left, i, i+1)
			}
			for _, i := range left {
				if i.Action != Carried || i.Trained {
					t.Errorf("also: %+v", i)
				}
			}
			if refused := len(p.With(Refused)) > 0; refused != (p.Err() != nil) {
				t.Errorf("refused %v, error %v", refused, p.Err())
			}
			order := []string{Refused, Dropped, Initialised, Carried}
			if !slices.IsSortedFunc(p.Items, func(a, b Item) int { return slices.Index(order, a.Action) - slices.Index(order, b.Action) }) {
				t.Errorf("order %v", p.Items)
			}
		})
	}
}

// A removed feature whose rows stay is remembered until a spec has it again.
func TestRetired(t *testing.T) {
	less := base()
	less.Features = less.Features[1:9]
	p := New(source(compile(t, base())), target(compile(t, less)))
	names := func(p *Plan) (out []string) {
		for _, r := range p.Retired() {
			out = append(out, r.Name)
		}
		slices.Sort(out)
		return out
	}
	if got := names(p); !slices.Equal(got, []string{"user", "user_x_bucket"}) {
		t.Fatalf("retired %v", got)
	}
	from := source(compile(t, less))
	from.Retired = p.Retired()
	same := New(from, target(compile(t, less)))
	if got := names(same); !slices.Equal(got, []string{"user", "user_x_bucket"}) {
		t.Errorf("retired still %v", got)
	}
	back := New(from, target(compile(t, base())))
	if back.Err() != nil || len(names(back)) != 0 {
		t.Errorf("back with the same meaning: %v, retired %v", back.Err(), names(back))
	}
	moved := base()
	moved.Features[0].Column = "tags"
	if err := New(from, target(compile(t, moved))).Err(); err == nil || !strings.Contains(err.Error(), "feature user") {
		t.Errorf("back with another meaning: %v", err)
	}
}
