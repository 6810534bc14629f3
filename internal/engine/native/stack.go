package native

import (
	"math"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// stack is a sequence of rectified layers, with what its gradient needs of a forward pass over a
// block of B examples.
type stack struct {
	layers    []engine.Layer
	level     kernel.Level
	precision kernel.Precision

	acts  [][]float32 // the input [B × In], then each layer's output [B × Out]
	grads [][]float32 // gradients by acts; by layer, in the end, by what the layer's product put out
	norms [][]float32 // by layer, with layer norm: what was normalised [B × Out]
	invs  [][]float32 // by layer, with layer norm: 1 / standard deviation [B]
	outs  [][]float32 // by layer, with layer norm: gradient by what normalise put out [B × Out]

	weights []kernel.Panels // by layer: W
	turned  []kernel.Panels // by layer: Wᵀ
	packed  []kernel.Panels // by layer: grads [B × Out], the right operand of the gradient of W
}

func newStack(layers []engine.Layer, level kernel.Level, precision kernel.Precision) *stack {
	n := len(layers)
	return &stack{
		layers: layers, level: level, precision: precision,
		acts: make([][]float32, n+1), grads: make([][]float32, n+1),
		norms: make([][]float32, n), invs: make([][]float32, n), outs: make([][]float32, n),
		weights: make([]kernel.Panels, n), turned: make([]kernel.Panels, n), packed: make([]kernel.Panels, n),
	}
}

// out is the last layer's output.
func (s *stack) out() []float32 { return s.acts[len(s.layers)] }

// reserve makes room for blocks of n examples.
func (s *stack) reserve(n int) {
	for l, layer := range s.layers {
		if l == 0 {
			s.acts[0], s.grads[0] = grow(s.acts[0], n*layer.In), grow(s.grads[0], n*layer.In)
		}
		s.acts[l+1], s.grads[l+1] = grow(s.acts[l+1], n*layer.Out), grow(s.grads[l+1], n*layer.Out)
		if layer.Gain >= 0 {
			s.norms[l], s.outs[l], s.invs[l] = grow(s.norms[l], n*layer.Out), grow(s.outs[l], n*layer.Out), grow(s.invs[l], n)
		}
	}
}

// begin prepares for the gradients of a block of n examples.
func (s *stack) begin(n int) {
	for l, layer := range s.layers {
		s.packed[l].Reset(s.level, s.precision, layer.Out, n)
	}
}

// planTasks adds the stack's tasks to st's; input says whether the gradient by its input is asked for.
func (s *stack) planTasks(st *stepper, input bool) {
	for l, layer := range s.layers {
		st.layouts = append(st.layouts, func(*lane) {
			if !st.direct {
				s.weights[l].Reset(s.level, s.precision, layer.Out, layer.In)
				s.weights[l].Pack(st.p.Dense[layer.Weight])
			}
		})
		if l > 0 || input {
			st.layouts = append(st.layouts, func(*lane) {
				if st.learn && !st.direct {
					s.turned[l].Reset(s.level, s.precision, layer.In, layer.Out)
					s.turned[l].PackT(st.p.Dense[layer.Weight])
				}
			})
		}
		st.addWeightGrad(layer.Weight, layer.In, layer.Out, &s.packed[l], func() (x, g []float32) { return s.acts[l], s.grads[l+1] })
		st.grads = append(st.grads, func(*lane) { s.sumGrads(st, l) })
	}
}

// addWeightGrad adds the tasks dW += xᵀ·g of a weight [in × out]; x and g [B × in] and [B × out] are
// known when they run, packed is g laid out.
func (s *stepper) addWeightGrad(weight, in, out int, packed *kernel.Panels, operands func() (x, g []float32)) {
	for from := 0; from < in; from += weightRows {
		s.grads = append(s.grads, func(ln *lane) {
			n := s.block.n()
			x, g := operands()
			dw := s.res.DenseGrads[weight]
			switch {
			case !s.direct:
				ln.gemm.WeightGrad(dw, x[:n*in], packed, in, from, min(from+weightRows, in))
			case from == 0:
				ln.gemm.TN(dw, x[:n*in], g[:n*out], in, out, n)
			}
		})
	}
}

// sumGrads adds the gradients of a layer's bias, gain and shift.
func (s *stack) sumGrads(st *stepper, l int) {
	layer, n, dense := s.layers[l], st.block.n(), st.res.DenseGrads
	for i := range n {
		s.level.Add(dense[layer.Bias], s.grads[l+1][i*layer.Out:(i+1)*layer.Out])
	}
	if layer.Gain < 0 {
		return
	}
	gain, shift := dense[layer.Gain], dense[layer.Shift]
	for i := range n {
		g, x := s.outs[l][i*layer.Out:(i+1)*layer.Out], s.norms[l][i*layer.Out:(i+1)*layer.Out]
		for u, v := range g {
			gain[u] += float32(v * x[u])
			shift[u] += v
		}
	}
}

// forward computes the outputs of all layers from acts[0], a share drop of them 0.
func (s *stack) forward(st *stepper, ln *lane, sp span, drop float32) {
	n := sp.n()
	for l, layer := range s.layers {
		x, h := sp.rows(s.acts[l], layer.In), sp.rows(s.acts[l+1], layer.Out)
		bias := st.p.Dense[layer.Bias]
		norm := layer.Gain >= 0
		if st.direct {
			for i := range n {
				copy(h[i*layer.Out:(i+1)*layer.Out], bias)
			}
			ln.gemm.NN(h, x, st.p.Dense[layer.Weight], n, layer.Out, layer.In)
		} else {
			ln.gemm.Dense(h, x, &s.weights[l], bias, n, !norm)
		}
		if norm {
			normalise(h, sp.rows(s.norms[l], layer.Out), sp.rows(s.invs[l], 1), st.p.Dense[layer.Gain], st.p.Dense[layer.Shift])
		}
		if norm || st.direct {
			s.level.ReLU(h, h)
		}
		if drop > 0 {
			dropOut(h, st.in.Keys[sp.lo:sp.hi], l, layer.Out, drop)
		}
	}
}

// dropOut clears the units that the examples' keys say, and scales the others.
func dropOut(h []float32, keys []uint64, layer, units int, drop float32) {
	scale := 1 / (1 - drop)
	for at := range h {
		if engine.Keep(keys[at/units], layer, at%units, drop) {
			h[at] *= scale
		} else {
			h[at] = 0
		}
	}
}

// normalise brings each row of h to mean 0 and variance 1, kept in norm with 1 / deviation in
// inv, and writes gain·norm + shift to h. Sums are in float64, so that rows of any width agree
// with the formula.
func normalise(h, norm, inv, gain, shift []float32) {
	w := len(gain)
	for i := range inv {
		row := h[i*w : (i+1)*w]
		var sum, squares float64
		for _, v := range row {
			sum += float64(v)
		}
		mean := sum / float64(w)
		for _, v := range row {
			d := float64(v) - mean
			squares += float64(d * d)
		}
		s := 1 / math.Sqrt(squares/float64(w)+engine.NormEpsilon)
		inv[i] = float32(s)
		for u, v := range row {
			x := float32((float64(v) - mean) * s)
			norm[i*w+u] = x
			row[u] = float32(gain[u]*x) + shift[u]
		}
	}
}

// backward computes the gradients by the layers' products from grads[len(layers)], that by the
// last one's output. With y a layer's output and g the gradient by it, 0 where y is not positive:
// dx = g·Wᵀ; planTasks adds dW += xᵀ·g, db += Σᵢ gᵢ. The gradient by the stack's input is computed
// when it is asked for.
func (s *stack) backward(st *stepper, ln *lane, sp span, drop float32, input bool) {
	n := sp.n()
	last := len(s.layers) - 1
	for l := last; l >= 0; l-- {
		layer := s.layers[l]
		g := sp.rows(s.grads[l+1], layer.Out)
		if l == last || st.direct {
			s.level.ReLUGrad(g, sp.rows(s.acts[l+1], layer.Out))
		}
		if drop > 0 {
			scale := 1 / (1 - drop)
			for at := range g {
				g[at] *= scale
			}
		}
		if layer.Gain >= 0 {
			copy(sp.rows(s.outs[l], layer.Out), g)
			normGrad(g, sp.rows(s.norms[l], layer.Out), sp.rows(s.invs[l], 1), st.p.Dense[layer.Gain])
		}
		if !st.direct {
			s.packed[l].PutRows(sp.at, g)
		}
		if l == 0 && !input {
			return
		}
		dx := sp.rows(s.grads[l], layer.In)
		if st.direct {
			clear(dx)
			ln.gemm.NT(dx, g, st.p.Dense[layer.Weight], n, layer.In, layer.Out)
			continue
		}
		var y []float32
		if l > 0 {
			y = sp.rows(s.acts[l], layer.In)
		}
		ln.gemm.Back(dx, g, &s.turned[l], n, y)
	}
}

// normGrad turns g, the gradient by the output of normalise, into that by its input. With
// q = gain·g: dh = (q - mean(q) - norm·mean(q·norm)) / deviation.
func normGrad(g, norm, inv, gain []float32) {
	w := len(gain)
	for i, s := range inv {
		row, x := g[i*w:(i+1)*w], norm[i*w:(i+1)*w]
		var sum, along float64
		for u, v := range row {
			q := float64(v) * float64(gain[u])
			sum += q
			along += float64(q * float64(x[u]))
		}
		sum, along = sum/float64(w), along/float64(w)
		for u, v := range row {
			q := float64(v) * float64(gain[u])
			row[u] = float32((q - sum - float64(along*float64(x[u]))) * float64(s))
		}
	}
}
