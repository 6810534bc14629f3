package optim

import "github.com/tidemill/tidemill/internal/kernel"

// FTRL is FTRL-Proximal with per-coordinate rates, L1 and L2 (McMahan et al., Ad Click
// Prediction: a View from the Trenches, KDD 2013, Algorithm 1). State z per weight, then n
// per weight; the weight is a function of them:
//
//	σ = (√(n+g²) - √n)/Alpha;  z ← z + scale·g - σ·w;  n ← n + g²
//	w = 0 if |z| ≤ L1, else -(z - sign(z)·L1) / ((Beta + √n)/Alpha + L2)
//
// A schedule scales the gradient's share in z rather than Alpha: without penalties that is
// exactly w ← w - scale·Alpha/(Beta+√n)·g, while another Alpha in the last line would resize
// every weight learned so far. A value whose gradient is 0 keeps its bits.
type FTRL struct {
	Alpha float32 // > 0; DefaultAlpha
	Beta  float32 // > 0; DefaultBeta
	L1    float32 // ≥ 0; 0
	L2    float32 // ≥ 0; 0
}

func (r FTRL) StateLen(dim int) int { return 2 * dim }

// Init chooses z so that the weight derived from it is w: z = -(w·(Beta/Alpha + L2) +
// sign(w)·L1), and 0 for a weight of 0; n is 0.
func (r FTRL) Init(state, w []float32) {
	z, n := state[:len(w)], state[len(w):]
	clear(n)
	d := r.Beta/r.Alpha + r.L2
	for i, x := range w {
		switch {
		case x > 0:
			z[i] = clip(-float32(x*d) - r.L1)
		case x < 0:
			z[i] = clip(-float32(x*d) + r.L1)
		default:
			z[i] = 0
		}
	}
}

func (r FTRL) Apply(w, state, g []float32, scale float32) { r.apply(kernel.Best(), w, state, g, scale) }

func (r FTRL) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	z, n := state[:len(w)], state[len(w):]
	for i := level.Update(kernel.FTRLUpdate, w, z, n, g, &kernel.Hyper{scale, r.Alpha, r.Beta, r.L1, r.L2, -r.L1}); i < len(w); i++ {
		gi := g[i]
		if gi == 0 {
			continue
		}
		old := sqrt(n[i])
		ni := clip(n[i] + float32(gi*gi))
		root := sqrt(ni)
		sigma := clip((root - old) / r.Alpha)
		zi := clip(clip(z[i]+clip(scale*gi)) - clip(sigma*w[i]))
		z[i], n[i] = zi, ni
		d := clip((r.Beta+root)/r.Alpha + r.L2)
		switch {
		case zi > r.L1:
			w[i] = clip(-(zi - r.L1) / d)
		case zi < -r.L1:
			w[i] = clip(-(zi + r.L1) / d)
		case zi != zi:
			w[i] = zi
		default:
			w[i] = 0
		}
	}
}
