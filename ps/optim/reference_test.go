package optim

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// step64 is a rule in float64 for one value, from the formulas of the papers. s is the
// value's state, t the number of the update.
type step64 func(w float64, s []float64, g, scale float64, t int) float64

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// references holds every rule with its float64 twin and the twin's initial state.
func references() []struct {
	rule Rule
	init []float64
	step step64
} {
	return []struct {
		rule Rule
		init []float64
		step step64
	}{
		{SGD{LR: 0.1, L2: 0.01}, nil, func(w float64, s []float64, g, scale float64, t int) float64 {
			return w - 0.1*scale*(g+0.01*w)
		}},
		{Momentum{LR: 0.05, Momentum: 0.9, L2: 0.02}, []float64{0}, func(w float64, s []float64, g, scale float64, t int) float64 {
			s[0] = 0.9*s[0] + g + 0.02*w
			return w - 0.05*scale*s[0]
		}},
		{Adagrad{LR: 0.1, Initial: 0.1, Epsilon: 1e-10}, []float64{0.1}, func(w float64, s []float64, g, scale float64, t int) float64 {
			s[0] += g * g
			return w - 0.1*scale*g/(math.Sqrt(s[0])+1e-10)
		}},
		{RMSProp{LR: 0.01, Rho: 0.9, Epsilon: 1e-8, L2: 0.1}, []float64{0}, func(w float64, s []float64, g, scale float64, t int) float64 {
			g += 0.1 * w
			s[0] = 0.9*s[0] + 0.1*g*g
			return w - 0.01*scale*g/(math.Sqrt(s[0])+1e-8)
		}},
		{Adam{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}, []float64{0, 0}, func(w float64, s []float64, g, scale float64, t int) float64 {
			s[0] = 0.9*s[0] + 0.1*g
			s[1] = 0.999*s[1] + 0.001*g*g
			m := s[0] / (1 - math.Pow(0.9, float64(t)))
			v := s[1] / (1 - math.Pow(0.999, float64(t)))
			return w - 0.01*scale*m/(math.Sqrt(v)+1e-8)
		}},
		// The twin of FTRL starts from weights of 0, as in the paper.
		{FTRL{Alpha: 0.1, Beta: 1, L1: 0.3, L2: 0.5}, []float64{0, 0}, func(w float64, s []float64, g, scale float64, t int) float64 {
			sigma := (math.Sqrt(s[1]+g*g) - math.Sqrt(s[1])) / 0.1
			s[0] += scale*g - sigma*w
			s[1] += g * g
			if math.Abs(s[0]) <= 0.3 {
				return 0
			}
			return -(s[0] - sign(s[0])*0.3) / ((1+math.Sqrt(s[1]))/0.1 + 0.5)
		}},
	}
}

func TestAgainstFloat64(t *testing.T) {
	for _, ref := range references() {
		t.Run(fmt.Sprintf("%T", ref.rule), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				const dim = 3
				w, g := make([]float32, dim), make([]float32, dim)
				w64, s64 := make([]float64, dim), make([][]float64, dim)
				_, ftrl := ref.rule.(FTRL)
				for i := range w {
					if !ftrl {
						w[i] = rapid.Float32Range(-1, 1).Draw(t, "w")
					}
					w64[i] = float64(w[i])
					s64[i] = append(s64[i], ref.init...)
				}
				state := make([]float32, ref.rule.StateLen(dim))
				ref.rule.Init(state, w)
				for n := 1; n <= 30; n++ {
					scale := rapid.Float32Range(0.1, 1).Draw(t, "scale")
					for i := range g {
						g[i] = rapid.Float32Range(-2, 2).Draw(t, "g")
					}
					ref.rule.Apply(w, state, g, scale)
					for i := range w {
						w64[i] = ref.step(w64[i], s64[i], float64(g[i]), float64(scale), n)
						if !(math.Abs(float64(w[i])-w64[i]) <= 2e-5*(1+math.Abs(w64[i]))) {
							t.Fatalf("update %d: weight %d is %v, want %v", n, i, w[i], w64[i])
						}
					}
				}
			})
		})
	}
}

// sequence applies gradients to one weight, 0 at first, and returns it after each.
func sequence(r Rule, gradients ...float32) []float32 {
	w := []float32{0}
	state := make([]float32, r.StateLen(1))
	r.Init(state, w)
	var all []float32
	for _, g := range gradients {
		r.Apply(w, state, []float32{g}, 1)
		all = append(all, w[0])
	}
	return all
}

// Sequences worked out by hand.
func TestKnownSequences(t *testing.T) {
	for _, c := range []struct {
		name      string
		rule      Rule
		gradients []float32
		want      []float64
	}{
		// The first step of Adam is LR·sign(g) whatever g is, and equal gradients keep it.
		{"adam", Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8},
			[]float32{1e-3, 1e-3, 1e-3}, []float64{-0.001, -0.002, -0.003}},
		{"adam, one large", Adam{LR: 0.1, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8},
			[]float32{-500}, []float64{0.1}},
		// m = 0.09 and v = 0.000999 after (1, 0): m̂ = 0.09/0.19, v̂ = 0.000999/0.001999.
		{"adam, then none", Adam{LR: 0.1, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8},
			[]float32{1, 0}, []float64{-0.1, -0.1 - 0.1*(0.09/0.19)/math.Sqrt(0.000999/0.001999)}},
		// g = 2: n = 4, σ = 2/0.5 = 4, z = 2, w = -2·0.5/(1+2). Then g = -1: n = 5,
		// σ = (√5-2)/0.5, z = 1 + σ/3, w = -z·0.5/(1+√5).
		{"ftrl", FTRL{Alpha: 0.5, Beta: 1}, []float32{2, -1},
			[]float64{-1. / 3, -(1 + (math.Sqrt(5)-2)/0.5/3) * 0.5 / (1 + math.Sqrt(5))}},
		// L1 = 1 holds the weight at 0 until |z| passes it: z is 0.5, 1, 1.5; n = 0.75.
		{"ftrl, L1", FTRL{Alpha: 1, Beta: 1, L1: 1}, []float32{0.5, 0.5, 0.5},
			[]float64{0, 0, -0.5 / (1 + math.Sqrt(0.75))}},
		{"adagrad", Adagrad{LR: 1, Initial: 1, Epsilon: 1e-10}, []float32{float32(math.Sqrt(3)), 2},
			[]float64{-math.Sqrt(3) / 2, -math.Sqrt(3)/2 - 2/math.Sqrt(8)}},
		{"momentum", Momentum{LR: 1, Momentum: 0.5}, []float32{1, 0, 0}, []float64{-1, -1.5, -1.75}},
		{"rmsprop", RMSProp{LR: 1, Rho: 0.75, Epsilon: 1e-8}, []float32{2, 0}, []float64{-2, -2}},
		{"sgd", SGD{LR: 0.5, L2: 0.5}, []float32{-2, 0}, []float64{1, 0.75}},
	} {
		got := sequence(c.rule, c.gradients...)
		for i, want := range c.want {
			if math.Abs(float64(got[i])-want) > 2e-6 {
				t.Errorf("%s: weights %v, want %v", c.name, got, c.want)
				break
			}
		}
	}
}
