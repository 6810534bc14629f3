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
	for _, all := range [][][]float32{r.RowGrads, r.DenseGrads} {
		for _, g := range all {
			for _, v := range g {
				sum += float64(v) * float64(v)
			}
		}
	}
	norm := math.Sqrt(sum)
	if !(norm > limit) {
		return
	}
	Scale(r, float32(limit/norm))
}

// Scale multiplies all gradients of r by f. A gradient of a batch's mean loss times the number of
// its examples is that of the sum.
func Scale(r *Result, f float32) {
	for _, all := range [][][]float32{r.RowGrads, r.DenseGrads} {
		for _, g := range all {
			for i := range g {
				g[i] *= f
			}
		}
	}
}
