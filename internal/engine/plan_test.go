package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
)

// TestPlanLayout pins names, shapes and uses: they are what a stored model is read by.
func TestPlanLayout(t *testing.T) {
	mixed := Shape{Fields: 3, Width: 2, IsCross: []bool{false, true, false}, Outputs: 1}
	sparse := Shape{Fields: 3, IsCross: []bool{false, true, false}, Outputs: 1}
	dense := Shape{Width: 2, Outputs: 1}
	classes := mixed
	classes.Outputs = 5
	for _, c := range []struct {
		kind, label string
		shape       Shape
		want        string
	}{
		{tidemill.Logistic, "", mixed, "weights 1 111; dense[2 1] bias[1]"},
		{tidemill.Linear, tidemill.Regression, sparse, "weights 1 111; bias[1]"},
		{tidemill.Linear, tidemill.Regression, dense, "; dense[2 1] bias[1]"},
		{tidemill.Softmax, tidemill.Multiclass, classes, "weights 5 111; dense[2 5] bias[5]"},
		{tidemill.FM, "", mixed, "factors 5 111; dense[2 1] dense_factors[2 4] bias[1]"},
		{tidemill.FM, tidemill.Multiclass, classes, "factors 25 111; dense[2 5] dense_factors[2 20] bias[5]"},
		{tidemill.MLP, "", mixed, "embeddings 4 111; hidden1[14 8] hidden1_bias[8] hidden2[8 6] hidden2_bias[6] head[6 1] bias[1]"},
		{tidemill.WideDeep, "", mixed, "wide 1 111, embeddings 4 101; dense[2 1] hidden1[10 8] hidden1_bias[8] hidden2[8 6] hidden2_bias[6] head[6 1] bias[1]"},
		{tidemill.DeepFM, "", sparse, "factors 5 111; hidden1[12 8] hidden1_bias[8] hidden2[8 6] hidden2_bias[6] head[6 1] bias[1]"},
	} {
		spec := &tidemill.Spec{
			Label:        tidemill.LabelSpec{Type: c.label},
			Architecture: tidemill.Architecture{Kind: c.kind, Dim: 4, Hidden: []int{8, 6}},
		}
		p, err := NewPlan(spec, c.shape)
		if err != nil {
			t.Errorf("%s: %v", c.kind, err)
			continue
		}
		if got := describe(p); got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.kind, got, c.want)
		}
	}
}

func describe(p *Plan) string {
	var tables, tensors []string
	for t, spec := range p.Tables {
		uses := ""
		for _, u := range p.Uses[t] {
			uses += map[bool]string{false: "0", true: "1"}[u]
		}
		tables = append(tables, fmt.Sprintf("%s %d %s", spec.Name, spec.Dim, uses))
	}
	for _, spec := range p.Tensors {
		tensors = append(tensors, fmt.Sprintf("%s%v", spec.Name, spec.Shape))
	}
	return strings.Join(tables, ", ") + "; " + strings.Join(tensors, " ")
}

func TestPlanDefaultsAndInit(t *testing.T) {
	spec := &tidemill.Spec{
		Architecture: tidemill.Architecture{Kind: tidemill.DeepFM, InitScale: 0.25},
		Train:        tidemill.TrainSpec{MaxRows: 77},
	}
	p, err := NewPlan(spec, Shape{Fields: 2, Width: 1, IsCross: make([]bool, 2), Outputs: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := tidemill.TableSpec{Name: "factors", Dim: 9, MaxRows: 77,
		Init: tidemill.Init{Kind: tidemill.InitNormal, Scale: 0.25, From: 1}}
	if p.Tables[0] != want {
		t.Errorf("table %+v, want %+v", p.Tables[0], want)
	}
	if p.Loss != LossLogistic || p.HuberDelta != 1 || len(p.Deep.Layers) != 2 || p.Deep.Layers[0].Out != 64 || p.Deep.Layers[1].Out != 32 {
		t.Errorf("defaults: %+v", p)
	}
	for _, spec := range p.Tensors {
		random := strings.HasPrefix(spec.Name, "hidden") && !strings.HasSuffix(spec.Name, "bias") ||
			spec.Name == "head" || spec.Name == "dense_factors"
		if (spec.Init.Kind == tidemill.InitNormal) != random {
			t.Errorf("tensor %s starts as %+v", spec.Name, spec.Init)
		}
	}
}

// A refusal names what is wrong and what to do, once.
func TestPlanRefusalText(t *testing.T) {
	for want, spec := range map[string]*tidemill.Spec{
		"did you mean logistic?": {Architecture: tidemill.Architecture{Kind: "logistc"}},
		"did you mean huber?":    {Architecture: tidemill.Architecture{Kind: "linear", Loss: "hubert"}},
		"give 1 to 4096":         {Architecture: tidemill.Architecture{Kind: "fm", Dim: 5000}},
		"smaller hidden layers":  {Architecture: tidemill.Architecture{Kind: "mlp", Hidden: []int{65536, 65536}}},
		"at most 32":             {Architecture: tidemill.Architecture{Kind: "mlp", Hidden: make([]int, 33)}},
	} {
		_, err := NewPlan(spec, Shape{Width: 1, Outputs: 1})
		if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!") {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := NewPlan(&tidemill.Spec{Architecture: tidemill.Architecture{Kind: "fm"}}, Shape{Fields: 2}); err == nil {
		t.Error("a shape without cross marks was accepted")
	}
}
