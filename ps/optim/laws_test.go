package optim

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawRule draws a rule with any hyper-parameters that New accepts.
func drawRule(t *rapid.T) Rule {
	lr := rapid.Float32Range(1e-6, 10).Draw(t, "lr")
	l2 := rapid.SampledFrom([]float32{0, 1e-3, 1, 1e6}).Draw(t, "l2")
	eps := rapid.SampledFrom([]float32{1e-20, 1e-10, 1e-8, 1}).Draw(t, "epsilon")
	beta := rapid.SampledFrom([]float32{1e-6, 0.1, 0.9, 0.999, 1 - 0x1p-24})
	switch rapid.IntRange(0, 5).Draw(t, "rule") {
	case 0:
		return SGD{LR: lr, L2: l2}
	case 1:
		return Momentum{LR: lr, Momentum: beta.Draw(t, "momentum"), L2: l2}
	case 2:
		return Adagrad{LR: lr, Initial: rapid.SampledFrom([]float32{1e-20, 0.1, 1e20}).Draw(t, "initial"), Epsilon: eps, L2: l2}
	case 3:
		return RMSProp{LR: lr, Rho: beta.Draw(t, "rho"), Epsilon: eps, L2: l2}
	case 4:
		return Adam{LR: lr, Beta1: beta.Draw(t, "beta1"), Beta2: beta.Draw(t, "beta2"), Epsilon: eps, L2: l2}
	}
	return FTRL{
		Alpha: rapid.SampledFrom([]float32{1e-12, 0.1, 1e6}).Draw(t, "alpha"),
		Beta:  rapid.SampledFrom([]float32{1e-12, 1, 1e6}).Draw(t, "beta"),
		L1:    rapid.SampledFrom([]float32{0, 0.1, 1e6}).Draw(t, "l1"), L2: l2,
	}
}

// values draws ordinary and extreme finite numbers.
func values(t *rapid.T, name string, n int) []float32 {
	v := rapid.OneOf(rapid.Float32Range(-1, 1), rapid.Float32(), rapid.SampledFrom([]float32{
		0, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -1e-30, 1e19, -2e19, 1e-10,
	}))
	return rapid.SliceOfN(v, n, n).Draw(t, name)
}

func finite(s []float32) bool {
	return !slices.ContainsFunc(s, func(x float32) bool { return x != x || math.IsInf(float64(x), 0) })
}

func TestFiniteInFiniteOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t)
		w := values(t, "w", 4)
		state := make([]float32, r.StateLen(len(w)))
		r.Init(state, w)
		if !finite(state) {
			t.Fatalf("%#v: initial state %v of weights %v", r, state, w)
		}
		for range rapid.IntRange(1, 20).Draw(t, "updates") {
			g := values(t, "g", len(w))
			scale := rapid.SampledFrom([]float32{1, 0, 1e-3, math.MaxFloat32}).Draw(t, "scale")
			r.Apply(w, state, g, scale)
			if !finite(w) || !finite(state) {
				t.Fatalf("%#v: weights %v, state %v after %v", r, w, state, g)
			}
		}
	})
}

// A row cut in two is updated to the same bits as the whole row.
func TestRowsSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t)
		dim := rapid.IntRange(0, 9).Draw(t, "dim")
		cut := rapid.IntRange(0, dim).Draw(t, "cut")
		whole := values(t, "w", dim)
		parts := [][]float32{slices.Clone(whole[:cut]), slices.Clone(whole[cut:])}
		state := make([]float32, r.StateLen(dim))
		states := [][]float32{make([]float32, r.StateLen(cut)), make([]float32, r.StateLen(dim-cut))}
		r.Init(state, whole)
		r.Init(states[0], parts[0])
		r.Init(states[1], parts[1])
		for range 4 {
			g := values(t, "g", dim)
			before := slices.Clone(g)
			r.Apply(whole, state, g, 0.5)
			r.Apply(parts[0], states[0], g[:cut], 0.5)
			r.Apply(parts[1], states[1], g[cut:], 0.5)
			if !slices.Equal(g, before) {
				t.Fatalf("%#v: the gradient changed", r)
			}
		}
		for i, x := range slices.Concat(parts...) {
			if math.Float32bits(x) != math.Float32bits(whole[i]) {
				t.Fatalf("%#v: value %d is %v in parts, %v in the whole", r, i, x, whole[i])
			}
		}
	})
}

// Init changes no weight. For FTRL the weight derived from the initial state is the row's,
// and a gradient of 0 changes no bit.
func TestInit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRule(t)
		w := values(t, "w", 5)
		before := slices.Clone(w)
		state := make([]float32, r.StateLen(len(w)))
		for i := range state {
			state[i] = 99 // whatever a reused buffer holds
		}
		r.Init(state, w)
		if !slices.Equal(w, before) {
			t.Fatalf("%#v: Init changed %v to %v", r, before, w)
		}
		if slices.Contains(state, 99) {
			t.Fatalf("%#v: Init left state as it was: %v", r, state)
		}
		f, ok := r.(FTRL)
		if !ok {
			return
		}
		stateBefore := slices.Clone(state)
		f.Apply(w, state, make([]float32, len(w)), 1)
		if !slices.Equal(w, before) || !slices.Equal(state, stateBefore) {
			t.Fatalf("%#v: a gradient of 0 changed the row", r)
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		f := FTRL{
			Alpha: rapid.Float32Range(0.01, 1).Draw(t, "alpha"), Beta: rapid.Float32Range(0.5, 2).Draw(t, "beta"),
			L1: rapid.SampledFrom([]float32{0, 0.5, 3}).Draw(t, "l1"), L2: rapid.SampledFrom([]float32{0, 1}).Draw(t, "l2"),
		}
		w := rapid.SliceOfN(rapid.Float32Range(-1, 1), 3, 3).Draw(t, "w")
		w[2] = 0
		state := make([]float32, 6)
		f.Init(state, w)
		d := float64(f.Beta)/float64(f.Alpha) + float64(f.L2)
		for i, x := range w {
			z := float64(state[i])
			derived := 0.0
			if math.Abs(z) > float64(f.L1) {
				derived = -(z - sign(z)*float64(f.L1)) / d
			}
			// One rounding of w·d, and one of z, whose size L1 may dominate; denormals are coarse.
			tolerance := 4e-7*math.Abs(float64(x)) + 2e-7*float64(f.L1)/d + 1e-44
			if math.Abs(derived-float64(x)) > tolerance {
				t.Fatalf("%+v: weight %v derives as %v", f, x, derived)
			}
		}
		if state[2] != 0 {
			t.Fatalf("%+v: a weight of 0 has z %v", f, state[2])
		}
	})
}

// A feature that carries nothing but noise ends at exactly 0 under L1, and not without it.
func TestL1MakesZeros(t *testing.T) {
	var noise []float32
	for i := range 200 {
		noise = append(noise, 0.1*float32(1-2*(i%2)))
	}
	last := func(r Rule) float32 { return sequence(r, noise...)[len(noise)-1] }
	if w := last(FTRL{Alpha: 0.1, Beta: 1, L1: 1}); w != 0 {
		t.Errorf("with L1: %v", w)
	}
	if w := last(FTRL{Alpha: 0.1, Beta: 1}); w == 0 {
		t.Error("without L1: 0")
	}
}

// NaN is not hidden.
func TestNaNComesOut(t *testing.T) {
	for _, ref := range references() {
		w := []float32{1, 1}
		state := make([]float32, ref.rule.StateLen(2))
		ref.rule.Init(state, w)
		ref.rule.Apply(w, state, []float32{float32(math.NaN()), 1}, 1)
		if w[0] == w[0] || w[1] != w[1] {
			t.Errorf("%T: weights %v", ref.rule, w)
		}
	}
}

// The count of a row's Adam updates stops where float32 can count no further.
func TestAdamCountSaturates(t *testing.T) {
	r := Adam{LR: 0.1, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}
	w, state := []float32{0}, []float32{0.5, 0.25, adamMaxCount - 1}
	for range 3 {
		r.Apply(w, state, []float32{0.5}, 1)
	}
	if state[2] != adamMaxCount || math.Abs(float64(w[0])+0.3) > 1e-5 {
		t.Errorf("weight %v, count %v", w[0], state[2])
	}
}

// Moments of a weight that gets no more gradient reach 0 and do not rest at a denormal.
func TestMomentsDecayToZero(t *testing.T) {
	for _, r := range []Rule{
		Momentum{LR: 1, Momentum: 0.9}, RMSProp{LR: 1, Rho: 0.9, Epsilon: 1e-8},
		Adam{LR: 1, Beta1: 0.9, Beta2: 0.99, Epsilon: 1e-8},
	} {
		w := []float32{0, 0}
		state := make([]float32, r.StateLen(2))
		r.Init(state, w)
		r.Apply(w, state, []float32{1, -1}, 1)
		for range 20000 {
			r.Apply(w, state, []float32{0, 0}, 1)
		}
		for i, v := range state[:r.StateLen(2)/2*2] {
			if v != 0 {
				t.Errorf("%T: moment %d rests at %g", r, i, v)
			}
		}
	}
}

func TestOneMinusPower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := float64(rapid.Float32Range(1e-6, 1-0x1p-24).Draw(t, "x"))
		n := rapid.Uint32Range(1, adamMaxCount).Draw(t, "n")
		want := -math.Expm1(float64(n) * math.Log(x))
		if got := oneMinusPower(x, n); !(math.Abs(got-want) <= 1e-9*want) {
			t.Fatalf("1-%v^%d = %v, want %v", x, n, got, want)
		}
	})
}

func TestApplyAllocatesNothing(t *testing.T) {
	for _, ref := range references() {
		var r Rule = ref.rule
		w, g := make([]float32, 16), make([]float32, 16)
		state := make([]float32, r.StateLen(16))
		if n := testing.AllocsPerRun(20, func() { r.Init(state, w); r.Apply(w, state, g, 1) }); n != 0 {
			t.Errorf("%T: %v allocations", r, n)
		}
	}
}

func TestLengthsAreChecked(t *testing.T) {
	for _, ref := range references() {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T took a gradient of another row", ref.rule)
				}
			}()
			ref.rule.Apply(make([]float32, 2), make([]float32, ref.rule.StateLen(2)), make([]float32, 3), 1)
		}()
	}
}

func BenchmarkApply(b *testing.B) {
	for _, dim := range []int{1, 16, 1024} {
		for _, ref := range references() {
			b.Run(fmt.Sprintf("%T/dim=%d", ref.rule, dim), func(b *testing.B) {
				w, g := make([]float32, dim), make([]float32, dim)
				for i := range g {
					g[i] = 0.01 * float32(i%7-3)
				}
				state := make([]float32, ref.rule.StateLen(dim))
				ref.rule.Init(state, w)
				for b.Loop() {
					ref.rule.Apply(w, state, g, 1)
				}
			})
		}
	}
}
