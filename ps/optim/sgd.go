package optim

import "github.com/tidemill/tidemill/internal/kernel"

// In all formulas η = LR·scale, and every result is clipped to finite values.

// SGD is stochastic gradient descent (Robbins and Monro, A Stochastic Approximation Method,
// Ann. Math. Statist. 1951) with an L2 penalty ½·L2·w², which a sparse row pays when it is
// touched. No state.
//
//	w ← w - η·(g + L2·w)
type SGD struct {
	LR float32 // > 0; DefaultSGDRate
	L2 float32 // ≥ 0; 0
}

func (r SGD) StateLen(int) int        { return 0 }
func (r SGD) Init(state, w []float32) {}

func (r SGD) Apply(w, state, g []float32, scale float32) { r.apply(kernel.Best(), w, state, g, scale) }

func (r SGD) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	eta := clip(r.LR * scale)
	for i := level.Update(kernel.SGDUpdate, w, nil, nil, g, &kernel.Hyper{eta, r.L2}); i < len(w); i++ {
		x := w[i]
		d := clip(g[i] + float32(r.L2*x))
		w[i] = clip(x - float32(eta*d))
	}
}

// Momentum is SGD with the heavy ball (Polyak, Some methods of speeding up the convergence
// of iteration methods, 1964). State v per weight.
//
//	v ← Momentum·v + (g + L2·w);  w ← w - η·v
type Momentum struct {
	LR       float32 // > 0; DefaultMomentumRate
	Momentum float32 // in (0, 1); DefaultMomentum
	L2       float32 // ≥ 0; 0
}

func (r Momentum) StateLen(dim int) int    { return dim }
func (r Momentum) Init(state, w []float32) { clear(state) }

func (r Momentum) Apply(w, state, g []float32, scale float32) {
	r.apply(kernel.Best(), w, state, g, scale)
}

func (r Momentum) apply(level kernel.Level, w, state, g []float32, scale float32) {
	check(r, w, state, g)
	eta := clip(r.LR * scale)
	for i := level.Update(kernel.MomentumUpdate, w, state, nil, g, &kernel.Hyper{eta, r.L2, r.Momentum}); i < len(w); i++ {
		x := w[i]
		d := clip(g[i] + float32(r.L2*x))
		v := moment(float32(r.Momentum*state[i]) + d)
		state[i] = v
		w[i] = clip(x - float32(eta*v))
	}
}
