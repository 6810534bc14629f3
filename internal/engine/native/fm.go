package native

import "github.com/tidemill/tidemill/internal/engine"

// fmForward adds the pairwise interactions, in time linear in ids and factors (Rendle,
// Factorization Machines, ICDM 2010, Lemma 3.1): with S[f] = Σⱼ xⱼ·v[f] and
// Q[f] = Σⱼ (xⱼ·v[f])² over the ids, then the dense numbers, z[c] += ½ Σ_f (S[f]² - Q[f]),
// where f runs over the factors of output c.
func (s *stepper) fmForward(ln *lane, sp span, fm *engine.FM) {
	in, k := s.in, s.plan.Outputs
	width := k * fm.Dim
	sums := sp.rows(s.sums, width)
	ln.squares = grow(ln.squares, width)
	clear(sums)
	for i := range sp.n() {
		e := sp.lo + i
		sum, sq := sums[i*width:(i+1)*width], ln.squares
		clear(sq)
		if fm.Table >= 0 {
			rows, index := s.p.Rows[fm.Table], s.look[fm.Table].Index
			lo, hi := ids(in, e)
			for j := lo; j < hi; j++ {
				s.level.AxpySquares(sum, sq, value(in, j), rows[int(index[j])*(k+width)+k:][:width])
			}
		}
		if fm.DenseFactors >= 0 {
			factors := s.p.Dense[fm.DenseFactors]
			for w, d := range in.Dense[e*in.Width : (e+1)*in.Width] {
				s.level.AxpySquares(sum, sq, d, factors[w*width:(w+1)*width])
			}
		}
		for c := range k {
			var z float32
			for f := c * fm.Dim; f < (c+1)*fm.Dim; f++ {
				z += float32(sum[f]*sum[f]) - sq[f]
			}
			s.scores[e*k+c] += float32(0.5 * z)
		}
	}
}

// fmGrad adds the block's gradients of fmForward: dv[f] += dz[c]·xⱼ·(S[f] - xⱼ·v[f]).
func (s *stepper) fmGrad(fm *engine.FM) {
	in, k := s.in, s.plan.Outputs
	width := k * fm.Dim
	for i := range s.block.n() {
		e := s.block.lo + i
		sum := s.sums[i*width : (i+1)*width]
		dz := s.dscores[e*k : (e+1)*k]
		if fm.Table >= 0 {
			rows, grads, index := s.p.Rows[fm.Table], s.res.RowGrads[fm.Table], s.look[fm.Table].Index
			lo, hi := ids(in, e)
			for j := lo; j < hi; j++ {
				at := int(index[j])*(k+width) + k
				s.factorGrads(grads[at:][:width], rows[at:][:width], sum, dz, value(in, j))
			}
		}
		if fm.DenseFactors >= 0 {
			factors, grads := s.p.Dense[fm.DenseFactors], s.res.DenseGrads[fm.DenseFactors]
			for w, d := range in.Dense[e*in.Width : (e+1)*in.Width] {
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
