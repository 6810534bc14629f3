package optim

import (
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestNew(t *testing.T) {
	for _, c := range []struct {
		choice tidemill.OptimizerChoice
		want   Rule
	}{
		{tidemill.OptimizerChoice{Kind: tidemill.SGD}, SGD{LR: 0.05}},
		{tidemill.OptimizerChoice{Kind: tidemill.SGD, LR: 1, L2: 0.5}, SGD{LR: 1, L2: 0.5}},
		{tidemill.OptimizerChoice{Kind: tidemill.Momentum}, Momentum{LR: 0.01, Momentum: 0.9}},
		{tidemill.OptimizerChoice{Kind: tidemill.Adagrad}, Adagrad{LR: 0.05, Initial: 0.1, Epsilon: 1e-10}},
		{tidemill.OptimizerChoice{Kind: tidemill.RMSProp}, RMSProp{LR: 0.001, Rho: 0.9, Epsilon: 1e-8}},
		{tidemill.OptimizerChoice{Kind: tidemill.Adam}, Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}},
		{tidemill.OptimizerChoice{Kind: tidemill.FTRL}, FTRL{Alpha: 0.1, Beta: 1}},
		{tidemill.OptimizerChoice{Kind: tidemill.FTRL, LR: 0.3, L1: 2}, FTRL{Alpha: 0.3, Beta: 1, L1: 2}},
		{tidemill.OptimizerChoice{Kind: tidemill.FTRL, Alpha: 0.3, LR: 0.3}, FTRL{Alpha: 0.3, Beta: 1}},
	} {
		got, err := New(c.choice)
		if err != nil || got != c.want {
			t.Errorf("New(%+v) = %#v, %v, want %#v", c.choice, got, err, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for text, c := range map[string]tidemill.OptimizerChoice{
		"use one of":                   {},
		"did you mean adam":            {Kind: "adm"},
		"lr is -1 (give":               {Kind: tidemill.SGD, LR: -1},
		"lr is NaN (give":              {Kind: tidemill.SGD, LR: math.NaN()},
		"lr is +Inf (give":             {Kind: tidemill.Adam, LR: math.Inf(1)},
		"l2 is -0.1 (give":             {Kind: tidemill.SGD, L2: -0.1},
		"momentum is 1 (give":          {Kind: tidemill.Momentum, Momentum: 1},
		"beta2 is 0.9999999999 (give":  {Kind: tidemill.Adam, Beta2: 0.9999999999},
		"rho is -0.5 (give":            {Kind: tidemill.RMSProp, Rho: -0.5},
		"epsilon is 1e-30 (give":       {Kind: tidemill.Adam, Epsilon: 1e-30},
		"initial is -1 (give":          {Kind: tidemill.Adagrad, Initial: -1},
		"l1 is 1 (adam has no l1":      {Kind: tidemill.Adam, L1: 1},
		"beta is 1 (sgd has no beta":   {Kind: tidemill.SGD, Beta: 1},
		"alpha is -1 (give":            {Kind: tidemill.FTRL, Alpha: -1},
		"same thing":                   {Kind: tidemill.FTRL, Alpha: 0.1, LR: 0.2},
		"did you mean cosine":          {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: "cosin"}},
		"warmup is 0":                  {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: Warmup}},
		"over is 0":                    {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: InverseSqrt}},
		"exponential: factor is 0":     {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: Exponential, Over: 5}},
		"cosine: factor is 2":          {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: Cosine, Over: 5, Factor: 2}},
		"warmup -1 and over 0":         {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{Kind: Constant, Warmup: -1}},
		"use one of [constant warmup ": {Kind: tidemill.SGD, Schedule: &tidemill.Schedule{}},
	} {
		_, err := New(c)
		if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "%!") {
			t.Errorf("New(%+v): error %v, want one with %q", c, err, text)
		}
	}
}

func TestScale(t *testing.T) {
	for _, c := range []struct {
		s        *tidemill.Schedule
		examples int64
		want     float64
	}{
		{nil, 5, 1},
		{&tidemill.Schedule{Kind: Constant}, 5, 1},
		{&tidemill.Schedule{Kind: Constant, Warmup: 10}, 0, 0.1},
		{&tidemill.Schedule{Kind: Warmup, Warmup: 10}, 4, 0.5},
		{&tidemill.Schedule{Kind: Warmup, Warmup: 10}, 9, 1},
		{&tidemill.Schedule{Kind: Warmup, Warmup: 10}, 1e12, 1},
		{&tidemill.Schedule{Kind: InverseSqrt, Over: 100}, 0, 1},
		{&tidemill.Schedule{Kind: InverseSqrt, Over: 100}, 300, 0.5},
		{&tidemill.Schedule{Kind: InverseSqrt, Over: 100, Warmup: 50}, 350, 0.5},
		{&tidemill.Schedule{Kind: Exponential, Over: 100, Factor: 0.25}, 50, 0.5},
		{&tidemill.Schedule{Kind: Exponential, Over: 100, Factor: 0.25}, 200, 0.0625},
		{&tidemill.Schedule{Kind: Exponential, Over: 1, Factor: 0.5}, 1e9, 0},
		{&tidemill.Schedule{Kind: Cosine, Over: 100, Factor: 0.2}, 0, 1},
		{&tidemill.Schedule{Kind: Cosine, Over: 100, Factor: 0.2}, 50, 0.6},
		{&tidemill.Schedule{Kind: Cosine, Over: 100, Factor: 0.2}, 100, 0.2},
		{&tidemill.Schedule{Kind: Cosine, Over: 100, Factor: 0.2}, 1e9, 0.2},
	} {
		if got := Scale(c.s, c.examples); math.Abs(float64(got)-c.want) > 1e-7 {
			t.Errorf("Scale(%+v, %d) = %v, want %v", c.s, c.examples, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := &tidemill.Schedule{
			Kind:   rapid.SampledFrom([]string{Constant, Warmup, InverseSqrt, Exponential, Cosine}).Draw(t, "kind"),
			Warmup: rapid.Int64Range(1, 1e6).Draw(t, "warmup"), Over: rapid.Int64Range(1, math.MaxInt64).Draw(t, "over"),
			Factor: rapid.Float64Range(1e-3, 1).Draw(t, "factor"),
		}
		if err := CheckSchedule(s); err != nil {
			t.Fatal(err)
		}
		a := rapid.Int64().Draw(t, "examples")
		b := rapid.Int64Range(s.Warmup, math.MaxInt64).Draw(t, "later examples")
		x, y := Scale(s, a), Scale(s, b)
		if !(x >= 0 && x <= 1) || !(y >= 0 && y <= 1) {
			t.Fatalf("%+v: %v at %d, %v at %d", s, x, a, y, b)
		}
		if a >= s.Warmup && (a < b && x < y || a > b && x > y) {
			t.Fatalf("%+v rises: %v at %d, %v at %d", s, x, a, y, b)
		}
	})
}
