package gate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// crossings returns the share of seeded streams on which the test ever crosses within rows.
func crossings(streams, rows int, alpha, margin float64, next func(r *rand.Rand) func() (champion, candidate float32)) float64 {
	n := 0
	for s := range streams {
		r := rand.New(rand.NewPCG(uint64(s), 7))
		draw := next(r)
		test := NewTest(alpha, 0.5, margin)
		for range rows {
			a, b := draw()
			test.Add(a, b)
			if test.Crossed() {
				n++
				break
			}
		}
	}
	return float64(n) / float64(streams)
}

// bound is alpha plus three standard errors of its estimate.
func bound(alpha float64, streams int) float64 {
	return alpha + 3*math.Sqrt(alpha*(1-alpha)/float64(streams))
}

func TestFalsePublishRate(t *testing.T) {
	const streams, rows, margin = 2000, 3000, 0.01
	cases := map[string]func(r *rand.Rand) func() (float32, float32){
		// d has mean exactly zero in each: the edge of H0.
		"symmetric noise": func(r *rand.Rand) func() (float32, float32) {
			return func() (float32, float32) {
				l := r.ExpFloat64() * 0.1
				return float32(0.3 + l), float32((0.3+l)*(1+margin) + 0.1*r.NormFloat64())
			}
		},
		"coin flips at the bound": func(r *rand.Rand) func() (float32, float32) {
			return func() (float32, float32) {
				if r.IntN(2) == 0 {
					return 0, 0.5
				}
				return 0.5 / (1 + margin), 0
			}
		},
		"rare large losses": func(r *rand.Rand) func() (float32, float32) {
			return func() (float32, float32) {
				if r.IntN(50) == 0 {
					return 0, 0.49
				}
				return 0.01 / (1 + margin), 0
			}
		},
		"rare large wins": func(r *rand.Rand) func() (float32, float32) {
			return func() (float32, float32) {
				if r.IntN(50) == 0 {
					return 0.49 / (1 + margin), 0
				}
				return 0, 0.01
			}
		},
		// Both losses wander together, as difficulty does; the difference does not.
		"autocorrelated difficulty": func(r *rand.Rand) func() (float32, float32) {
			h := 0.0
			return func() (float32, float32) {
				h = 0.98*h + 0.02*r.NormFloat64()
				l := 0.4 + h
				return float32(l), float32(l*(1+margin) + 0.05*r.NormFloat64())
			}
		},
		// The variance of the difference wanders, its conditional mean is zero.
		"clustered variance": func(r *rand.Rand) func() (float32, float32) {
			h := 0.0
			return func() (float32, float32) {
				h = 0.95*h + 0.3*r.NormFloat64()
				return 0.4, float32(0.4*(1+margin) + 0.05*math.Exp(h)*max(-1, min(1, r.NormFloat64())))
			}
		},
	}
	const alpha = 0.05
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rate := crossings(streams, rows, alpha, margin, c)
			t.Logf("seeds 0..%d: rate %.4f at alpha %.2f", streams-1, rate, alpha)
			if rate > bound(alpha, streams) {
				t.Errorf("false publish rate %.4f, want at most alpha %.2f (bound %.4f)", rate, alpha, bound(alpha, streams))
			}
		})
	}
}

// A difference that is itself autocorrelated has no bound in theory (see the package comment).
// This states what the shrunken bet gives in practice.
func TestFalsePublishRateAutocorrelated(t *testing.T) {
	const streams, rows, alpha = 1000, 3000, 0.05
	// With rho 0.9 a difference depends on some twenty before it; an unshrunken bet crosses on
	// more than half of the streams.
	for rho, most := range map[float64]float64{0.3: alpha, 0.6: 2 * alpha, 0.9: 5 * alpha} {
		t.Run(fmt.Sprint(rho), func(t *testing.T) {
			t.Parallel()
			rate := crossings(streams, rows, alpha, 0, func(r *rand.Rand) func() (float32, float32) {
				e := 0.0
				s := 0.1 * math.Sqrt(1-rho*rho)
				return func() (float32, float32) {
					e = rho*e + s*r.NormFloat64()
					return 0.5, float32(0.5 + e)
				}
			})
			t.Logf("rho %.1f: rate %.4f at alpha %.2f", rho, rate, alpha)
			if rate > most {
				t.Errorf("rate %.4f, want at most %.2f", rate, most)
			}
		})
	}
}

func TestPower(t *testing.T) {
	const streams, alpha = 300, 0.01
	cases := []struct {
		name         string
		rows         int
		margin, want float64
		gain, noise  float64
	}{
		{"clear improvement in 1000 rows", 1000, 0.01, 0.99, 0.05, 0.1},
		{"equal models, tight pairs, 2000 rows", 2000, 0.01, 0.95, 0, 0.02},
		{"equal models, usual pairs, 20000 rows", 20000, 0.01, 0.95, 0, 0.1},
		{"small gain against a prior in 4000 rows", 4000, 0, 0.9, 0.03, 0.3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rate := crossings(streams, c.rows, alpha, c.margin, func(r *rand.Rand) func() (float32, float32) {
				return func() (float32, float32) {
					return 0.4, float32(0.4 - c.gain + c.noise*r.NormFloat64())
				}
			})
			t.Logf("power %.3f", rate)
			if rate < c.want {
				t.Errorf("power %.3f, want at least %.2f", rate, c.want)
			}
		})
	}
}

func TestHarmIsFound(t *testing.T) {
	test := NewTest(0.01, 0.5, 0.01)
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		test.Add(0.4, float32(0.45+0.1*r.NormFloat64()))
	}
	if !test.Harmful() || test.Crossed() {
		t.Fatalf("harmful %v, crossed %v, want true, false (harm %g, wealth %g)", test.Harmful(), test.Crossed(), test.Harm(), test.Wealth())
	}
}

func TestNonFiniteCountsAgainst(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		champion, candidate float32
		want                float64
	}{
		{1, nan, -0.5}, {1, inf, -0.5}, {nan, 1, 0.5}, {inf, 1, 0.5}, {nan, nan, -0.5}, {inf, inf, -0.5},
		{9, 1, 0.5}, {1, 9, -0.5}, {0.5, 0.25, 0.25}, {math.MaxFloat32, 0, 0.5},
	} {
		test := NewTest(0.01, 0.5, 0)
		test.Add(c.champion, c.candidate)
		if got := test.MeanDifference(); got != c.want {
			t.Errorf("Add(%v, %v): difference %v, want %v", c.champion, c.candidate, got, c.want)
		}
	}
}

func TestLawsOfTest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alpha := rapid.Float64Range(0.001, 0.5).Draw(t, "alpha")
		clip := rapid.Float64Range(0.01, 10).Draw(t, "clip")
		margin := rapid.Float64Range(0, 1).Draw(t, "margin")
		a, b := NewTest(alpha, clip, margin), NewTest(alpha, clip, margin)
		losses := rapid.SliceOfN(rapid.Float32(), 0, 400).Draw(t, "losses")
		crossed := false
		for i := 0; i+1 < len(losses); i += 2 {
			a.Add(losses[i], losses[i+1])
			b.Add(losses[i], losses[i+1])
			if w, h := a.Wealth(), a.Harm(); !finite(w) || !finite(h) || w <= 0 || h <= 0 {
				t.Fatalf("wealth %v, harm %v: want finite and positive", w, h)
			}
			if crossed && !a.Crossed() {
				t.Fatal("crossed went back")
			}
			crossed = a.Crossed()
			if a.Wealth() >= 1/alpha*(1+1e-9) && !crossed {
				t.Fatalf("wealth %v at alpha %v, not crossed", a.Wealth(), alpha)
			}
		}
		if *a != *b {
			t.Fatal("the same rows gave different tests")
		}
		// A mean of values at the bound may be off by a rounding.
		if d := a.MeanDifference(); math.Abs(d) > clip*(1+1e-12) {
			t.Fatalf("mean difference %v beyond clip %v", d, clip)
		}
	})
}
