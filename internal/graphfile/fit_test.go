package graphfile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
)

// job is a spec that the example fits, over columns user, item, age, hour and click.
func job() *tidemill.Spec {
	return &tidemill.Spec{
		Label: tidemill.LabelSpec{Column: "click", Type: tidemill.Binary, Positive: []string{"1"}},
		Features: []tidemill.FeatureSpec{
			{Column: "hour"}, {Column: "user", Hash: &tidemill.HashSpec{}}, {Column: "age"}, {Column: "item"},
		},
	}
}

func fit(t *testing.T, f *File, spec *tidemill.Spec) (*Binding, error) {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "user", Type: arrow.PrimitiveTypes.Int64}, {Name: "item", Type: arrow.BinaryTypes.String},
		{Name: "age", Type: arrow.PrimitiveTypes.Float64}, {Name: "hour", Type: arrow.PrimitiveTypes.Float64},
		{Name: "click", Type: arrow.PrimitiveTypes.Int64},
	}, nil)
	plan, err := feature.Compile(spec, schema)
	if err != nil {
		t.Fatal(err)
	}
	return f.Fit(spec, plan.Shape())
}

func TestFit(t *testing.T) {
	f, err := Decode(example(t), "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := fit(t, f, job())
	if err != nil {
		t.Fatal(err)
	}
	for i, in := range f.Manifest.Inputs {
		got := fmt.Sprint(b.Columns[i], b.Field[i], b.Table[i])
		want := "[] -1 -1"
		switch {
		case in.Kind == Numbers: // age, hour; the job has hour first
			want = "[1 0] -1 -1"
		case in.Feature == "user":
			want = "[] 0 0"
		case in.Feature == "item":
			want = "[] 1 1"
		}
		if got != want {
			t.Errorf("input %d (%s): %s, want %s", i, in.Kind, got, want)
		}
	}
	if got := fmt.Sprint(b.Uses); got != "[[true false] [false true]]" {
		t.Errorf("uses %s", got)
	}
}

func TestFitRefuses(t *testing.T) {
	f, err := Decode(example(t), "")
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		spoil func(s *tidemill.Spec)
		want  string
	}{
		"label":      {func(s *tidemill.Spec) { s.Label.Type, s.Label.Positive = tidemill.Regression, nil }, "binary label"},
		"missing":    {func(s *tidemill.Spec) { s.Features = s.Features[1:] }, `no feature "hour"`},
		"misspelt":   {func(s *tidemill.Spec) { s.Features[1].Name = "users" }, "did you mean users?"},
		"ids wanted": {func(s *tidemill.Spec) { s.Features[1].Hash = nil }, "bucketize, or hash"},
		"number":     {func(s *tidemill.Spec) { s.Features[0].Hash = &tidemill.HashSpec{} }, "takes numbers"},
		"unused": {func(s *tidemill.Spec) {
			s.Features = append(s.Features, tidemill.FeatureSpec{Name: "more", Column: "age"})
		}, "leave it out"},
		"several ids": {func(s *tidemill.Spec) { s.Features[3].MultiHot = &tidemill.MultiHot{} }, "several ids"},
	} {
		t.Run(what, func(t *testing.T) {
			s := job()
			c.spoil(s)
			if _, err := fit(t, f, s); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "%!") {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
	crossed := job()
	crossed.Features = append(crossed.Features, tidemill.FeatureSpec{Name: "more", Column: "age", Hash: &tidemill.HashSpec{}},
		tidemill.FeatureSpec{Name: "both", Cross: []string{"user", "more"}})
	if _, err := fit(t, f, crossed); err == nil || !strings.Contains(err.Error(), `"both"`) {
		t.Errorf("a cross that nothing uses: %v", err)
	}
}

// An input with room for several ids takes as many as it has room for.
func TestFitLists(t *testing.T) {
	in := &Input{Kind: Rows, Feature: "tags", Shape: []int{-1, 20, 4}}
	spec := []tidemill.FeatureSpec{{Name: "tags", MultiHot: &tidemill.MultiHot{Max: 20}}, {Name: "x"}, {Name: "y", Cross: []string{"x", "tags"}}}
	if err := fits(in, spec); err != nil {
		t.Error(err)
	}
	spec[0].MultiHot.Max = 21
	if err := fits(in, spec); err == nil || !strings.Contains(err.Error(), "takes 20") {
		t.Errorf("error %v", err)
	}
	if err := fits(&Input{Kind: Rows, Feature: "y", Shape: []int{-1, 4}}, spec); err == nil || !strings.Contains(err.Error(), "crosses") {
		t.Errorf("error %v", err)
	}
}
