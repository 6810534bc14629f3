package enginetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Compile is the constructor of a driver.
type Compile = func(*tidemill.Spec, engine.Shape) (engine.Model, error)

// Tolerance says how far a driver may be from the float64 reference. A zero field is its
// default, which suits plain float32 sums.
type Tolerance struct {
	// Value bounds predictions and losses: |got - want| ≤ Value·(1 + |want|). 1e-5.
	Value float64
	// Gradient bounds gradients relative to the largest of the same table or tensor. 1e-5.
	Gradient float64
	// Split bounds the difference between a batch's gradients and the weighted sum of its
	// parts', relative to the sum of the parts' magnitudes. 4e-6: a gradient passes through up to
	// six layers' sums.
	Split float64
}

// Suite is the conformance suite with its settings.
type Suite struct {
	Compile   Compile
	Tolerance Tolerance
	Kinds     []string // architecture kinds that the driver has; nil means all
	Allocates bool     // the driver may allocate in the steady state
}

// Run runs the suite with default settings.
func Run(t *testing.T, compile func(*tidemill.Spec, engine.Shape) (engine.Model, error)) {
	Suite{Compile: compile}.Run(t)
}

// Run runs the suite as subtests of t, named kind/loss/features/check.
func (s Suite) Run(t *testing.T) {
	tol := &s.Tolerance
	if tol.Value == 0 {
		tol.Value = 1e-5
	}
	if tol.Gradient == 0 {
		tol.Gradient = 1e-5
	}
	if tol.Split == 0 {
		tol.Split = 4e-6
	}
	t.Run("refusals", s.refusals)
	for _, c := range cases() {
		if s.Kinds != nil && !slices.Contains(s.Kinds, c.spec.Architecture.Kind) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { s.model(t, c) })
	}
}

func (s Suite) model(t *testing.T, c testCase) {
	m, err := s.Compile(c.spec, c.shape)
	if err != nil {
		t.Fatal(err)
	}
	x := &subject{suite: s, testCase: c, m: m}
	t.Run("layout", x.layout)
	for seed := uint64(1); seed <= 3; seed++ {
		t.Run(fmt.Sprintf("reference/seed=%d", seed), func(t *testing.T) { x.agreement(t, seed) })
		t.Run(fmt.Sprintf("split/seed=%d", seed), func(t *testing.T) { x.split(t, seed) })
	}
	t.Run("predict", x.predict)
	t.Run("repeat", x.repeat)
	t.Run("concurrent", x.concurrent)
	t.Run("weights", x.weights)
	t.Run("empty", x.empty)
	t.Run("huge", x.huge)
	t.Run("nan", x.nan)
	if c.spec.Label.Type == tidemill.Multiclass {
		t.Run("classes", x.classes)
	}
	t.Run("readonly", x.readonly)
	if !s.Allocates {
		t.Run("allocations", x.allocations)
	}
}

// testCase is an architecture over features of one shape.
type testCase struct {
	name  string
	spec  *tidemill.Spec
	shape engine.Shape
}

func cases() []testCase {
	type head struct{ label, loss string }
	binary := head{tidemill.Binary, engine.LossLogistic}
	brier := head{tidemill.Binary, engine.LossSquared}
	squared := head{tidemill.Regression, engine.LossSquared}
	huber := head{tidemill.Regression, engine.LossHuber}
	classes := head{tidemill.Multiclass, engine.LossSoftmax}
	every := []head{binary, squared, huber, classes}
	kinds := []struct {
		kind    string
		heads   []head
		variant string
		with    func(*tidemill.Architecture)
	}{
		{tidemill.Linear, []head{binary, brier, squared, huber, classes}, "", nil},
		{tidemill.Logistic, []head{binary}, "", nil},
		{tidemill.Softmax, []head{classes}, "", nil},
		{tidemill.FM, every, "", nil},
		{tidemill.MLP, every, "", nil},
		{tidemill.WideDeep, every, "", nil},
		{tidemill.DeepFM, every, "", nil},
		{tidemill.DLRM, every, "", func(a *tidemill.Architecture) { a.Bottom = []int{4} }},
		{tidemill.DCN, every, "", func(a *tidemill.Architecture) { a.CrossLayers = 2 }},
		{tidemill.DCN, []head{binary, classes}, "-rank2", func(a *tidemill.Architecture) { a.CrossLayers, a.Rank = 3, 2 }},
		{tidemill.MLP, []head{binary, classes}, "-norm", func(a *tidemill.Architecture) { a.LayerNorm = true }},
		{tidemill.MLP, []head{binary, classes}, "-dropout", func(a *tidemill.Architecture) { a.Dropout = 0.4 }},
		{tidemill.DLRM, []head{squared}, "-norm-dropout", func(a *tidemill.Architecture) { a.Bottom, a.LayerNorm, a.Dropout = []int{4}, true, 0.3 }},
	}
	shapes := []struct {
		name string
		engine.Shape
	}{
		{"mixed", engine.Shape{Fields: 4, Width: 2, IsCross: []bool{false, true, false, false}}},
		{"sparse", engine.Shape{Fields: 3, IsCross: []bool{false, false, true}}},
		{"dense", engine.Shape{Width: 3}},
	}
	var all []testCase
	for _, k := range kinds {
		for _, h := range k.heads {
			for _, sh := range shapes {
				shape := sh.Shape
				shape.Outputs = 1
				for f := range shape.Fields {
					shape.FieldNames = append(shape.FieldNames, fmt.Sprintf("field%d", f))
				}
				spec := &tidemill.Spec{
					Label: tidemill.LabelSpec{Type: h.label},
					Architecture: tidemill.Architecture{
						Kind: k.kind, Loss: h.loss, Dim: 3, Hidden: []int{5, 4}, HuberDelta: 0.7,
					},
				}
				if k.with != nil {
					k.with(&spec.Architecture)
				}
				if h.label == tidemill.Multiclass {
					spec.Label.Classes = []string{"a", "b", "c"}
					shape.Outputs = 3
				}
				name := k.kind + k.variant + "/" + h.label + "-" + h.loss + "/" + sh.name
				all = append(all, testCase{name: name, spec: spec, shape: shape})
			}
		}
	}
	return all
}

// refusals checks that what makes no sense is refused, with ErrInvalid.
func (s Suite) refusals(t *testing.T) {
	shape := engine.Shape{Fields: 1, Width: 1, IsCross: []bool{true}, FieldNames: []string{"x"}, Outputs: 1}
	wide := shape
	wide.Width = 0
	for _, c := range []struct {
		name  string
		label string
		arch  tidemill.Architecture
		shape engine.Shape
	}{
		{"unknown kind", tidemill.Binary, tidemill.Architecture{Kind: "logistc"}, shape},
		{"no kind", tidemill.Binary, tidemill.Architecture{}, shape},
		{"unknown loss", tidemill.Binary, tidemill.Architecture{Kind: tidemill.Linear, Loss: "l1"}, shape},
		{"unknown label", "ordinal", tidemill.Architecture{Kind: tidemill.Linear}, shape},
		{"logistic on numbers", tidemill.Regression, tidemill.Architecture{Kind: tidemill.Logistic}, shape},
		{"softmax on two classes", tidemill.Binary, tidemill.Architecture{Kind: tidemill.Softmax}, shape},
		{"one class", tidemill.Multiclass, tidemill.Architecture{Kind: tidemill.Softmax}, shape},
		{"negative dim", tidemill.Binary, tidemill.Architecture{Kind: tidemill.FM, Dim: -1}, shape},
		{"empty layer", tidemill.Binary, tidemill.Architecture{Kind: tidemill.MLP, Hidden: []int{4, 0}}, shape},
		{"negative delta", tidemill.Regression, tidemill.Architecture{Kind: tidemill.Linear, HuberDelta: -1}, shape},
		{"negative scale", tidemill.Binary, tidemill.Architecture{Kind: tidemill.FM, InitScale: -1}, shape},
		{"all dropped", tidemill.Binary, tidemill.Architecture{Kind: tidemill.MLP, Dropout: 1}, shape},
		{"negative rank", tidemill.Binary, tidemill.Architecture{Kind: tidemill.DCN, Rank: -1}, shape},
		{"negative cross layers", tidemill.Binary, tidemill.Architecture{Kind: tidemill.DCN, CrossLayers: -1}, shape},
		{"empty bottom layer", tidemill.Binary, tidemill.Architecture{Kind: tidemill.DLRM, Bottom: []int{0}}, shape},
		{"one vector", tidemill.Binary, tidemill.Architecture{Kind: tidemill.DLRM}, wide},
		{"nothing to embed", tidemill.Binary, tidemill.Architecture{Kind: tidemill.WideDeep}, wide},
	} {
		spec := &tidemill.Spec{Label: tidemill.LabelSpec{Type: c.label}, Architecture: c.arch}
		if _, err := s.Compile(spec, c.shape); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: error %v, want one of kind ErrInvalid", c.name, err)
		}
	}
}
