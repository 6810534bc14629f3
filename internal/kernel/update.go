package kernel

import "math"

// Hyper holds an optimizer's hyper-parameters in the order that its update's comment names.
type Hyper [12]float32

// Update is the loop of an optimizer of ps/optim, whose plain Go is the reference and says what
// it computes. No product is fused with a sum, so the bits are the same at every level.
type Update uint8

// Updates, with their state beside w and their hyper-parameters; eta is the rate times its scale.
const (
	SGDUpdate      Update = iota // eta, L2
	MomentumUpdate               // v; eta, L2, Momentum
	AdagradUpdate                // n; eta, L2, Epsilon
	RMSPropUpdate                // n; eta, L2, Epsilon, Rho, 1-Rho
	AdamUpdate                   // m, v; eta, L2, Epsilon, Beta1, 1-Beta1, Beta2, 1-Beta2, 1/(1-Beta1ᵗ), 1/(1-Beta2ᵗ)
	FTRLUpdate                   // z, n; scale, Alpha, Beta, L1, L2, -L1
)

// groups of state values beside each weight.
var groups = [...]int{SGDUpdate: 0, MomentumUpdate: 1, AdagradUpdate: 1, RMSPropUpdate: 1, AdamUpdate: 2, FTRLUpdate: 2}

// Update changes the first values of a row, its weights w and the groups s0 and s1 of its state as
// far as the update has them, by the gradient g, and returns how many: those that its vectors
// cover well. The rest, all at Generic, is for the caller's plain loop.
func (l Level) Update(u Update, w, s0, s1, g []float32, h *Hyper) (done int) {
	checkLen("Update", len(w), len(g))
	if groups[u] > 0 {
		checkLen("Update", len(w), len(s0))
	}
	if groups[u] > 1 {
		checkLen("Update", len(w), len(s1))
	}
	// A masked vector of a few values costs more than they do one by one: what follows them in
	// memory was written a moment ago.
	const few = 4
	lanes := 16
	switch l {
	case Generic:
		return 0
	case AVX2:
		lanes = 8
	}
	done = len(w)
	if rest := done % lanes; rest <= few {
		done -= rest
	}
	if done == 0 {
		return 0
	}
	all := [16]float32{12: math.MaxFloat32, 13: -math.MaxFloat32, 14: 0x1p-126, 15: math.Float32frombits(0x7fffffff)}
	copy(all[:], h[:])
	updateAt(l, u, w[:done], s0, s1, g, &all)
	return done
}
