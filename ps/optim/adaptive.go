package optim

import "github.com/tidemill/tidemill/internal/kernel"

// Adagrad divides by the root of all squared gradients (Duchi, Hazan, Singer, Adaptive
// Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011). State n
// per weight, Initial at first.
//
//	d = g + L2·w;  n ← n + d²;  w ← w - η·d/(√n + Epsilon)
type Adagrad struct {
	LR      float32 // > 0; DefaultAdagradRate
	Initial float32 // > 0; DefaultInitial
	Epsilon float32 // > 0; DefaultAdagradEpsilon
	L2      float32 // ≥ 0; 0
}

func (r Adagrad) StateLen(dim int) int { return dim }

func (r Adagrad) Init(state, w []float32) {
	for i := range state {
		state[i] = r.Initial
	}
}

func (r Adagrad) Apply(w, state, g []float32, scale float32) {
	r.apply(kernel.Best(), w, state, g, scale)
}

func (r Adagrad) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	eta := clip(r.LR * scale)
	for i := level.Update(kernel.AdagradUpdate, w, state, nil, g, &kernel.Hyper{eta, r.L2, r.Epsilon}); i < len(w); i++ {
		x := w[i]
		d := clip(g[i] + float32(r.L2*x))
		n := clip(state[i] + float32(d*d))
		state[i] = n
		q := clip(d / (sqrt(n) + r.Epsilon))
		w[i] = clip(x - float32(eta*q))
	}
}

// RMSProp divides by the root of a running mean of squared gradients (Tieleman and Hinton,
// Neural Networks for Machine Learning, lecture 6.5, 2012). State n per weight.
//
//	d = g + L2·w;  n ← Rho·n + (1-Rho)·d²;  w ← w - η·d/(√n + Epsilon)
type RMSProp struct {
	LR      float32 // > 0; DefaultRMSPropRate
	Rho     float32 // in (0, 1); DefaultRho
	Epsilon float32 // > 0; DefaultEpsilon
	L2      float32 // ≥ 0; 0
}

func (r RMSProp) StateLen(dim int) int    { return dim }
func (r RMSProp) Init(state, w []float32) { clear(state) }

func (r RMSProp) Apply(w, state, g []float32, scale float32) {
	r.apply(kernel.Best(), w, state, g, scale)
}

func (r RMSProp) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	eta := clip(r.LR * scale)
	rest := 1 - r.Rho
	for i := level.Update(kernel.RMSPropUpdate, w, state, nil, g, &kernel.Hyper{eta, r.L2, r.Epsilon, r.Rho, rest}); i < len(w); i++ {
		x := w[i]
		d := clip(g[i] + float32(r.L2*x))
		n := moment(float32(r.Rho*state[i]) + float32(rest*clip(float32(d*d))))
		state[i] = n
		q := clip(d / (sqrt(n) + r.Epsilon))
		w[i] = clip(x - float32(eta*q))
	}
}

// Adam uses running means of gradients and of their squares, corrected for their start at
// zero (Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015). State m per
// weight, v per weight, then one count t of the updates of this row: moments of a sparse row
// rest while it is not touched ("lazy"), and its corrections follow its own count. t is exact
// up to 2²⁴ and stays there, where the corrections have long been 1.
//
//	t ← t+1;  d = g + L2·w;  m ← Beta1·m + (1-Beta1)·d;  v ← Beta2·v + (1-Beta2)·d²
//	w ← w - η·(m/(1-Beta1ᵗ)) / (√(v/(1-Beta2ᵗ)) + Epsilon)
type Adam struct {
	LR      float32 // > 0; DefaultAdamRate
	Beta1   float32 // in (0, 1); DefaultBeta1
	Beta2   float32 // in (0, 1); DefaultBeta2
	Epsilon float32 // > 0; DefaultEpsilon
	L2      float32 // ≥ 0; 0
}

const adamMaxCount = 1 << 24

func (r Adam) StateLen(dim int) int    { return 2*dim + 1 }
func (r Adam) Init(state, w []float32) { clear(state) }

func (r Adam) Apply(w, state, g []float32, scale float32) { r.apply(kernel.Best(), w, state, g, scale) }

func (r Adam) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	dim := len(w)
	t := min(state[2*dim]+1, adamMaxCount)
	state[2*dim] = t
	m, v := state[:dim], state[dim:2*dim]
	// The betas are taken as float64 from their float32, so that 1-βᵗ at t = 1 is what the
	// moments were multiplied with.
	c1 := float32(1 / oneMinusPower(float64(r.Beta1), uint32(t)))
	c2 := float32(1 / oneMinusPower(float64(r.Beta2), uint32(t)))
	eta := clip(r.LR * scale)
	rest1, rest2 := 1-r.Beta1, 1-r.Beta2
	for i := level.Update(kernel.AdamUpdate, w, m, v, g, &kernel.Hyper{eta, r.L2, r.Epsilon, r.Beta1, rest1, r.Beta2, rest2, c1, c2}); i < len(w); i++ {
		x := w[i]
		d := clip(g[i] + float32(r.L2*x))
		mi := moment(float32(r.Beta1*m[i]) + float32(rest1*d))
		vi := moment(float32(r.Beta2*v[i]) + float32(rest2*clip(float32(d*d))))
		m[i], v[i] = mi, vi
		q := clip(clip(mi*c1) / (sqrt(clip(vi*c2)) + r.Epsilon))
		w[i] = clip(x - float32(eta*q))
	}
}

// oneMinusPower returns 1-xⁿ for 0 < x < 1, n > 0, by repeated squaring: the same bits
// everywhere, which math.Pow does not promise. It is 1 once xⁿ cannot be seen beside it.
func oneMinusPower(x float64, n uint32) float64 {
	y := 1.0
	for ; n > 1; n >>= 1 {
		if n&1 == 1 {
			y *= x
		}
		x *= x
		if x < 0x1p-60 { // xⁿ is smaller still
			return 1
		}
	}
	return 1 - float64(y*x)
}
