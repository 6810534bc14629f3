package feature

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func carrySpec() *tidemill.Spec {
	return &tidemill.Spec{Label: tidemill.LabelSpec{Column: "y"}, Features: []tidemill.FeatureSpec{
		{Name: "a", Column: "x", Standardize: &tidemill.Standardize{}},
		{Name: "b", Column: "x", Standardize: &tidemill.Standardize{}, Bucketize: &tidemill.Bucketize{Edges: []float64{0, 1}}},
		{Name: "q", Column: "x", Bucketize: &tidemill.Bucketize{Quantiles: 3, LearnRows: 10}},
		{Name: "v", Column: "s", Vocabulary: &tidemill.Vocabulary{LearnRows: 10, MaxSize: 4}},
	}}
}

var carrySchema = arrow.NewSchema([]arrow.Field{
	{Name: "x", Type: arrow.PrimitiveTypes.Float64}, {Name: "s", Type: arrow.BinaryTypes.String}, {Name: "y", Type: arrow.PrimitiveTypes.Int64},
}, nil)

// What is carried into the same spec has the same bytes, learning or frozen; into the features
// in another order each keeps its own; what does not mean the same is as new. The source stays.
func TestCarryState(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p, err := Compile(carrySpec(), carrySchema)
		if err != nil {
			r.Fatal(err)
		}
		st := p.NewState()
		float := rapid.Float64Range(-100, 100)
		for i := range st.moments {
			st.moments[i] = moments{n: rapid.Int64Range(0, 1000).Draw(r, "n"), mean: float.Draw(r, "mean"), m2: rapid.Float64Range(0, 1e6).Draw(r, "m2")}
		}
		if rapid.Bool().Draw(r, "frozen edges") {
			st.setEdges(0, []float64{-1, float.Draw(r, "edge") + 200})
		} else {
			st.quantiles[0].samples = rapid.SliceOfN(float, 0, 9).Draw(r, "samples")
		}
		if rapid.Bool().Draw(r, "frozen vocabulary") {
			st.setVocab(0, []uint64{3, 5, 9})
		} else {
			st.vocabs[0].rows = 2
			st.vocabs[0].counts = map[uint64]uint64{7: 1, 8: rapid.Uint64Range(1, 9).Draw(r, "count")}
		}
		before, err := st.AppendBinary(nil)
		if err != nil {
			r.Fatal(err)
		}
		always := func(string) bool { return true }
		same, names, err := p.CarryState(st, always)
		if err != nil {
			r.Fatal(err)
		}
		after, err := same.AppendBinary(nil)
		if err != nil || !bytes.Equal(before, after) || !slices.Equal(names, []string{"a", "b", "q", "v"}) {
			r.Fatalf("carried %v, %v, with other bytes", names, err)
		}
		turned := carrySpec()
		slices.Reverse(turned.Features)
		p2, err := Compile(turned, carrySchema)
		if err != nil {
			r.Fatal(err)
		}
		there, _, err := p2.CarryState(st, always)
		if err != nil {
			r.Fatal(err)
		}
		back, _, err := p.CarryState(there, always)
		if err != nil {
			r.Fatal(err)
		}
		if after, err := back.AppendBinary(nil); err != nil || !bytes.Equal(before, after) {
			r.Fatalf("there and back: %v", err)
		}
		some, names, err := p.CarryState(st, func(name string) bool { return name == "b" })
		if err != nil || !slices.Equal(names, []string{"b"}) || some.moments[1] != st.moments[1] || some.moments[0] != (moments{}) ||
			some.quantiles[0].frozen || len(some.quantiles[0].samples) > 0 || some.vocabs[0].frozen || some.vocabs[0].rows > 0 {
			r.Fatalf("carried %v, %v: %+v", names, err, some)
		}
		if after, err := st.AppendBinary(nil); err != nil || !bytes.Equal(before, after) {
			r.Fatal("the source changed")
		}
	})
}

// The state that workers have lacks the samples, and is refused.
func TestCarryStateNeedsAll(t *testing.T) {
	p, err := Compile(carrySpec(), carrySchema)
	if err != nil {
		t.Fatal(err)
	}
	public, err := p.NewState().AppendPublic(nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.LoadState(public)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.CarryState(st, func(string) bool { return true }); err == nil {
		t.Error("carried a state without samples")
	}
}

func TestSenses(t *testing.T) {
	senses, err := Senses(carrySpec(), carrySchema)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range senses {
		line := s.Name + ": " + strings.Join(s.Means, "; ") + " | " + s.Learns
		if s.Dense {
			line += " | dense"
		}
		got = append(got, line)
	}
	edges := senses[1].Means[2]
	want := []string{
		"a: column x of numbers; standardize | moments | dense",
		"b: column x of numbers; standardize; " + edges + " | moments",
		"q: column x of numbers; learned buckets | 3 quantiles of 10 rows",
		"v: column s of text | a vocabulary of 4 from 10 rows",
	}
	if !slices.Equal(got, want) || !strings.HasPrefix(edges, "2 bucket edges from 0 to 1 (") {
		t.Errorf("%q\nwant %q", got, want)
	}
	if d := senses[2].Differs(senses[2]); d != "" {
		t.Errorf("it differs from itself: %s", d)
	}
	if d := (Sense{Means: []string{"cross of a and b"}}).Differs(Sense{Means: []string{"cross of b and a"}}); d == "" {
		t.Error("crosses of other order are the same")
	}
	if _, err := Senses(carrySpec(), arrow.NewSchema(nil, nil)); err == nil {
		t.Error("senses of a spec that does not fit")
	}
}
