package native

import (
	"github.com/tidemill/tidemill/internal/engine"
)

// crossState is what the gradient of the cross layers needs of a forward pass. Layer l has
// input x[l], x[0] being the deep part's; t[l] = x[l]·W + b, and u[l] = x[l]·U of a low rank.
type crossState struct {
	x, t, u    [][]float32
	dx, dt, du []float32
}

func newCrossState(c *engine.Cross) *crossState {
	n := len(c.Layers)
	return &crossState{x: make([][]float32, n+1), t: make([][]float32, n), u: make([][]float32, n)}
}

// crossForward adds the cross layers over the deep part's input: xₗ₊₁ = x₀ ⊙ t + xₗ;
// z += x_last·head.
func (s *stepper) crossForward(c *engine.Cross, n, in int, p *engine.Params) {
	st := s.cross
	st.x[0] = s.deep.acts[0]
	for l, layer := range c.Layers {
		t := grow(st.t[l], n*in)
		st.t[l] = t
		for i := range n {
			copy(t[i*in:(i+1)*in], p.Dense[layer.Bias])
		}
		if layer.Rank == 0 {
			s.gemm.NN(t, st.x[l], p.Dense[layer.Weight], n, in, in)
		} else {
			st.u[l] = zeros(st.u[l], n*layer.Rank)
			s.gemm.NN(st.u[l], st.x[l], p.Dense[layer.Left], n, layer.Rank, in)
			s.gemm.NN(t, st.u[l], p.Dense[layer.Right], n, in, layer.Rank)
		}
		next := grow(st.x[l+1], n*in)
		st.x[l+1] = next
		x0, x := st.x[0][:len(next)], st.x[l][:len(next)]
		for i, v := range t {
			next[i] = float32(x0[i]*v) + x[i]
		}
	}
	s.gemm.NN(s.scores, st.x[len(c.Layers)], p.Dense[c.Head], n, s.plan.Outputs, in)
}

// crossBackward adds the gradients of crossForward, that of the input to dinput unless it is
// nil. With g the gradient by xₗ₊₁: dt = g ⊙ x₀, dx₀ += g ⊙ t, dxₗ = g + dt·Wᵀ, dW += xₗᵀ·dt,
// db += Σᵢ dtᵢ, and through U and V likewise.
func (s *stepper) crossBackward(c *engine.Cross, n, in int, dinput []float32, p *engine.Params) {
	st, dense := s.cross, s.res.DenseGrads
	k := s.plan.Outputs
	s.gemm.TN(dense[c.Head], st.x[len(c.Layers)], s.dscores, in, k, n)
	st.dx = zeros(st.dx, n*in)
	s.gemm.NT(st.dx, s.dscores, p.Dense[c.Head], n, in, k)
	st.dt = grow(st.dt, n*in)
	for l := len(c.Layers) - 1; l >= 0; l-- {
		layer := c.Layers[l]
		x0, t := st.x[0][:len(st.dx)], st.t[l][:len(st.dx)]
		for i, g := range st.dx {
			st.dt[i] = g * x0[i]
		}
		if dinput != nil {
			for i, g := range st.dx {
				dinput[i] += float32(g * t[i])
			}
		}
		for i := range n {
			s.level.Add(dense[layer.Bias], st.dt[i*in:(i+1)*in])
		}
		if layer.Rank == 0 {
			s.gemm.TN(dense[layer.Weight], st.x[l], st.dt, in, in, n)
			s.gemm.NT(st.dx, st.dt, p.Dense[layer.Weight], n, in, in)
			continue
		}
		s.gemm.TN(dense[layer.Right], st.u[l], st.dt, layer.Rank, in, n)
		st.du = zeros(st.du, n*layer.Rank)
		s.gemm.NT(st.du, st.dt, p.Dense[layer.Right], n, layer.Rank, in)
		s.gemm.TN(dense[layer.Left], st.x[l], st.du, in, layer.Rank, n)
		s.gemm.NT(st.dx, st.du, p.Dense[layer.Left], n, in, layer.Rank)
	}
	if dinput != nil {
		s.level.Add(dinput, st.dx)
	}
}
