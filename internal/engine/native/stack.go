package native

import (
	"math"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// stack is a sequence of rectified layers, with what its gradient needs of a forward pass.
type stack struct {
	layers []engine.Layer
	level  kernel.Level
	gemm   *kernel.Gemm

	acts  [][]float32 // the input [N × In], then each layer's output [N × Out]
	grads [][]float32 // gradients by acts
	norms [][]float32 // by layer, with layer norm: what was normalised [N × Out]
	invs  [][]float32 // by layer, with layer norm: 1 / standard deviation [N]

	drop float32  // share of outputs to be 0
	keys []uint64 // [N], of dropout
}

func newStack(layers []engine.Layer, level kernel.Level, gemm *kernel.Gemm) *stack {
	n := len(layers)
	return &stack{
		layers: layers, level: level, gemm: gemm,
		acts: make([][]float32, n+1), grads: make([][]float32, n+1), norms: make([][]float32, n), invs: make([][]float32, n),
	}
}

// out is the last layer's output.
func (s *stack) out() []float32 { return s.acts[len(s.layers)] }

// forward computes the outputs of all layers from acts[0].
func (s *stack) forward(n int, p *engine.Params) {
	for l, layer := range s.layers {
		h := grow(s.acts[l+1], n*layer.Out)
		s.acts[l+1] = h
		for i := range n {
			copy(h[i*layer.Out:(i+1)*layer.Out], p.Dense[layer.Bias])
		}
		s.gemm.NN(h, s.acts[l], p.Dense[layer.Weight], n, layer.Out, layer.In)
		if layer.Gain >= 0 {
			s.norms[l], s.invs[l] = grow(s.norms[l], n*layer.Out), grow(s.invs[l], n)
			normalise(h, s.norms[l], s.invs[l], p.Dense[layer.Gain], p.Dense[layer.Shift])
		}
		s.level.ReLU(h, h)
		if s.drop > 0 {
			s.dropOut(h, l, layer.Out)
		}
	}
}

// dropOut clears the units that the examples' keys say, and scales the others.
func (s *stack) dropOut(h []float32, layer, units int) {
	scale := 1 / (1 - s.drop)
	for at := range h {
		if engine.Keep(s.keys[at/units], layer, at%units, s.drop) {
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

// backward adds the gradients of forward to dense, from grads[len(layers)]. With x a layer's
// input, y its output and g the gradient by y, 0 where y is not positive: dW += xᵀ·g,
// db += Σᵢ gᵢ, dx = g·Wᵀ. The gradient by the stack's input is computed when it is asked for.
func (s *stack) backward(n int, p *engine.Params, dense [][]float32, input bool) {
	for l := len(s.layers) - 1; l >= 0; l-- {
		layer := s.layers[l]
		g := s.grads[l+1]
		s.level.ReLUGrad(g, s.acts[l+1])
		if s.drop > 0 {
			scale := 1 / (1 - s.drop)
			for at := range g {
				g[at] *= scale
			}
		}
		if layer.Gain >= 0 {
			normGrad(g, s.norms[l], s.invs[l], p.Dense[layer.Gain], dense[layer.Gain], dense[layer.Shift])
		}
		bias := dense[layer.Bias]
		for i := range n {
			s.level.Add(bias, g[i*layer.Out:(i+1)*layer.Out])
		}
		s.gemm.TN(dense[layer.Weight], s.acts[l], g, layer.In, layer.Out, n)
		if l == 0 && !input {
			return
		}
		s.grads[l] = zeros(s.grads[l], n*layer.In)
		s.gemm.NT(s.grads[l], g, p.Dense[layer.Weight], n, layer.In, layer.Out)
	}
}

// normGrad turns g, the gradient by the output of normalise, into that by its input, and adds
// those by gain and shift. With q = gain·g: dh = (q - mean(q) - norm·mean(q·norm)) / deviation.
func normGrad(g, norm, inv, gain, dgain, dshift []float32) {
	w := len(gain)
	for i, s := range inv {
		row, x := g[i*w:(i+1)*w], norm[i*w:(i+1)*w]
		var sum, along float64
		for u, v := range row {
			dgain[u] += float32(v * x[u])
			dshift[u] += v
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
