package engine

import "math"

// ClipNorm scales all gradients of r down so that their Euclidean norm together is at most
// limit (Pascanu, Mikolov, Bengio, ICML 2013); a limit of 0 does nothing. The squares are
// added in float64, tables first, each in order.
func ClipNorm(r *Result, limit float64) {
	if limit <= 0 {
		return
	}
	var sum float64
	r.gradients(func(g []float32) {
		for _, v := range g {
			sum += float64(v) * float64(v)
		}
	})
	norm := math.Sqrt(sum)
	if !(norm > limit) {
		return
	}
	Scale(r, float32(limit/norm))
}

// Scale multiplies all gradients of r by f. A gradient of a batch's mean loss times the number of
// its examples is that of the sum.
func Scale(r *Result, f float32) {
	r.gradients(func(g []float32) {
		for i := range g {
			g[i] *= f
		}
	})
}

// gradients calls f for every gradient of r, tables first, each in order.
func (r *Result) gradients(f func(g []float32)) {
	for _, g := range r.RowGrads {
		f(g)
	}
	for k, g := range r.DenseGrads {
		if r.Moving == nil || !r.Moving[k] {
			f(g)
		}
	}
}
