package native

import "github.com/tidemill/tidemill/internal/engine"

// fmForward adds the pairwise interactions, in time linear in ids and factors (Rendle,
// Factorization Machines, ICDM 2010, Lemma 3.1): with S[f] = Σⱼ xⱼ·v[f] and
// Q[f] = Σⱼ (xⱼ·v[f])² over the ids, then the dense numbers, z[c] += ½ Σ_f (S[f]² - Q[f]),
// where f runs over the factors of output c.
func (s *stepper) fmForward(fm *engine.FM, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k := s.plan.Outputs
	width := k * fm.Dim
	s.sums = grow(s.sums, in.N*width)
	s.squares = grow(s.squares, width)
	clear(s.sums)
	for i := range in.N {
		sum, sq := s.sums[i*width:(i+1)*width], s.squares
		clear(sq)
		if fm.Table >= 0 {
			rows, index := p.Rows[fm.Table], look[fm.Table].Index
			lo, hi := ids(in, i)
			for j := lo; j < hi; j++ {
				s.level.AxpySquares(sum, sq, value(in, j), rows[int(index[j])*(k+width)+k:][:width])
			}
		}
		if fm.DenseFactors >= 0 {
			factors := p.Dense[fm.DenseFactors]
			for w, d := range in.Dense[i*in.Width : (i+1)*in.Width] {
				s.level.AxpySquares(sum, sq, d, factors[w*width:(w+1)*width])
			}
		}
		for c := range k {
			var z float32
			for f := c * fm.Dim; f < (c+1)*fm.Dim; f++ {
				z += float32(sum[f]*sum[f]) - sq[f]
			}
			s.scores[i*k+c] += float32(0.5 * z)
		}
	}
}

// fmBackward adds the gradients of fmForward: dv[f] += dz[c]·xⱼ·(S[f] - xⱼ·v[f]).
func (s *stepper) fmBackward(fm *engine.FM, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k := s.plan.Outputs
	width := k * fm.Dim
	for i := range in.N {
		sum := s.sums[i*width : (i+1)*width]
		dz := s.dscores[i*k : (i+1)*k]
		if fm.Table >= 0 {
			rows, grads, index := p.Rows[fm.Table], s.res.RowGrads[fm.Table], look[fm.Table].Index
			lo, hi := ids(in, i)
			for j := lo; j < hi; j++ {
				at := int(index[j])*(k+width) + k
				s.factorGrads(grads[at:][:width], rows[at:][:width], sum, dz, value(in, j))
			}
		}
		if fm.DenseFactors >= 0 {
			factors, grads := p.Dense[fm.DenseFactors], s.res.DenseGrads[fm.DenseFactors]
			for w, d := range in.Dense[i*in.Width : (i+1)*in.Width] {
				s.factorGrads(grads[w*width:(w+1)*width], factors[w*width:(w+1)*width], sum, dz, d)
			}
		}
	}
}

// factorGrads adds the gradient of one feature's factors: grad[f] += dz[c]·x·(sum[f] - x·v[f]).
func (s *stepper) factorGrads(grad, v, sum, dz []float32, x float32) {
	dim := len(v) / len(dz)
	for c, d := range dz {
		lo, hi := c*dim, (c+1)*dim
		s.level.FactorGrad(grad[lo:hi], v[lo:hi], sum[lo:hi], float32(d*x), x)
	}
}
