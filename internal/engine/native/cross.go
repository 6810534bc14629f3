package native

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// crossState is what the gradient of the cross layers needs of a forward pass over a block of B
// examples. Layer l has input x[l], x[0] being the deep part's; t[l] = x[l]·W + b, and
// u[l] = x[l]·U of a low rank.
type crossState struct {
	level     kernel.Level
	precision kernel.Precision

	x, t, u [][]float32
	dt, du  [][]float32 // gradients by t and u
	dx      []float32

	layers []crossPanels
}

// crossPanels are the right operands of a layer: of full rank, the weight; of a low one, two.
type crossPanels struct{ left, leftT, leftGrad, right, rightT, rightGrad kernel.Panels }

func newCrossState(c *engine.Cross, level kernel.Level, precision kernel.Precision) *crossState {
	n := len(c.Layers)
	return &crossState{
		level: level, precision: precision,
		x: make([][]float32, n+1), t: make([][]float32, n), u: make([][]float32, n),
		dt: make([][]float32, n), du: make([][]float32, n), layers: make([]crossPanels, n),
	}
}

// reserve makes room for blocks of n examples of in values.
func (st *crossState) reserve(c *engine.Cross, n, in int) {
	for l, layer := range c.Layers {
		st.x[l+1] = grow(st.x[l+1], n*in)
		st.t[l], st.dt[l] = grow(st.t[l], n*in), grow(st.dt[l], n*in)
		st.u[l], st.du[l] = grow(st.u[l], n*layer.Rank), grow(st.du[l], n*layer.Rank)
	}
	st.dx = grow(st.dx, n*in)
}

// begin prepares for the gradients of a block of n examples.
func (st *crossState) begin(c *engine.Cross, n, in int) {
	for l, layer := range c.Layers {
		st.layers[l].rightGrad.Reset(st.level, st.precision, in, n)
		if layer.Rank > 0 {
			st.layers[l].leftGrad.Reset(st.level, st.precision, layer.Rank, n)
		}
	}
}

// planCross adds the tasks of the cross layers.
func (s *stepper) planCross(c *engine.Cross, in int) {
	st := s.cross
	pack := func(p, turned *kernel.Panels, weight, k, n int) {
		s.layouts = append(s.layouts, func(*lane) {
			if s.direct {
				return
			}
			p.Reset(st.level, st.precision, n, k)
			p.Pack(s.p.Dense[weight])
			if s.learn {
				turned.Reset(st.level, st.precision, k, n)
				turned.PackT(s.p.Dense[weight])
			}
		})
	}
	for l, layer := range c.Layers {
		p := &st.layers[l]
		if layer.Rank == 0 {
			pack(&p.right, &p.rightT, layer.Weight, in, in)
			s.addWeightGrad(layer.Weight, in, in, &p.rightGrad, func() (x, g []float32) { return s.crossInput(l), st.dt[l] })
		} else {
			pack(&p.left, &p.leftT, layer.Left, in, layer.Rank)
			pack(&p.right, &p.rightT, layer.Right, layer.Rank, in)
			s.addWeightGrad(layer.Right, layer.Rank, in, &p.rightGrad, func() (x, g []float32) { return st.u[l], st.dt[l] })
			s.addWeightGrad(layer.Left, in, layer.Rank, &p.leftGrad, func() (x, g []float32) { return s.crossInput(l), st.du[l] })
		}
		s.grads = append(s.grads, func(*lane) {
			for i := range s.block.n() {
				s.level.Add(s.res.DenseGrads[layer.Bias], st.dt[l][i*in:(i+1)*in])
			}
		})
	}
	s.grads = append(s.grads, func(ln *lane) {
		b, k := s.block, s.plan.Outputs
		ln.gemm.TN(s.res.DenseGrads[c.Head], st.x[len(c.Layers)][:b.n()*in], b.all(s.dscores, k), in, k, b.n())
	})
}

// crossInput is what cross layer l takes in.
func (s *stepper) crossInput(l int) []float32 {
	if l == 0 {
		return s.deep.acts[0]
	}
	return s.cross.x[l]
}

// multiply writes a·W, with bias added where there is one; w is laid out as p.
func (s *stepper) multiply(ln *lane, c, a []float32, p *kernel.Panels, weight int, bias []float32, m, n, k int) {
	if !s.direct {
		ln.gemm.Dense(c, a, p, bias, m, false)
		return
	}
	clear(c)
	if bias != nil {
		for i := range m {
			copy(c[i*n:(i+1)*n], bias)
		}
	}
	ln.gemm.NN(c, a, s.p.Dense[weight], m, n, k)
}

// multiplyT writes a·Wᵀ.
func (s *stepper) multiplyT(ln *lane, c, a []float32, p *kernel.Panels, weight, m, n, k int) {
	if !s.direct {
		ln.gemm.Back(c, a, p, m, nil)
		return
	}
	clear(c)
	ln.gemm.NT(c, a, s.p.Dense[weight], m, n, k)
}

// crossForward adds the cross layers over the deep part's input: xₗ₊₁ = x₀ ⊙ t + xₗ;
// z += x_last·head.
func (s *stepper) crossForward(ln *lane, sp span, c *engine.Cross, in int) {
	st, n := s.cross, sp.n()
	x0 := sp.rows(s.deep.acts[0], in)
	for l, layer := range c.Layers {
		x, t, next := sp.rows(s.crossInput(l), in), sp.rows(st.t[l], in), sp.rows(st.x[l+1], in)
		p, bias := &st.layers[l], s.p.Dense[layer.Bias]
		if layer.Rank == 0 {
			s.multiply(ln, t, x, &p.right, layer.Weight, bias, n, in, in)
		} else {
			u := sp.rows(st.u[l], layer.Rank)
			s.multiply(ln, u, x, &p.left, layer.Left, nil, n, layer.Rank, in)
			s.multiply(ln, t, u, &p.right, layer.Right, bias, n, in, layer.Rank)
		}
		for i, v := range t {
			next[i] = float32(x0[i]*v) + x[i]
		}
	}
	k := s.plan.Outputs
	ln.gemm.NN(sp.all(s.scores, k), sp.rows(st.x[len(c.Layers)], in), s.p.Dense[c.Head], n, k, in)
}

// crossBackward computes the gradients by what the cross layers' products put out, and adds that
// by the deep part's input to its gradient where that is asked for. With g the gradient by xₗ₊₁:
// dt = g ⊙ x₀, dx₀ += g ⊙ t, dxₗ = g + dt·Wᵀ, and through U and V likewise; planCross adds
// dW += xₗᵀ·dt, db += Σᵢ dtᵢ.
func (s *stepper) crossBackward(ln *lane, sp span, c *engine.Cross, in int, input bool) {
	st, n, k := s.cross, sp.n(), s.plan.Outputs
	dx, x0 := sp.rows(st.dx, in), sp.rows(s.deep.acts[0], in)
	dinput := sp.rows(s.deep.grads[0], in)
	clear(dx)
	ln.gemm.NT(dx, sp.all(s.dscores, k), s.p.Dense[c.Head], n, in, k)
	for l := len(c.Layers) - 1; l >= 0; l-- {
		layer, p := c.Layers[l], &st.layers[l]
		t, dt := sp.rows(st.t[l], in), sp.rows(st.dt[l], in)
		for i, g := range dx {
			dt[i] = g * x0[i]
		}
		if input {
			for i, g := range dx {
				dinput[i] += float32(g * t[i])
			}
		}
		if !s.direct {
			p.rightGrad.PutRows(sp.at, dt)
		}
		// What has been summed is added to dx at once, so that it is the same by panels and without.
		ln.part = grow(ln.part, n*in)
		if layer.Rank == 0 {
			s.multiplyT(ln, ln.part, dt, &p.rightT, layer.Weight, n, in, in)
		} else {
			du := sp.rows(st.du[l], layer.Rank)
			s.multiplyT(ln, du, dt, &p.rightT, layer.Right, n, layer.Rank, in)
			if !s.direct {
				p.leftGrad.PutRows(sp.at, du)
			}
			s.multiplyT(ln, ln.part, du, &p.leftT, layer.Left, n, in, layer.Rank)
		}
		s.level.Add(dx, ln.part)
	}
	if input {
		s.level.Add(dinput, dx)
	}
}
