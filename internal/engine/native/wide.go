package native

import "github.com/tidemill/tidemill/internal/engine"

// wideForward adds the linear part: z += Σⱼ xⱼ·row[:K] + Σ_w d[w]·dense[w,:]. Rows are dim
// long; only their first K values are linear weights.
func (s *stepper) wideForward(table, dense, dim int, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k := s.plan.Outputs
	if table >= 0 {
		rows, index := p.Rows[table], look[table].Index
		for i := range in.N {
			lo, hi := ids(in, i)
			if k == 1 {
				z := s.scores[i]
				for j := lo; j < hi; j++ {
					z += float32(value(in, j) * rows[int(index[j])*dim])
				}
				s.scores[i] = z
				continue
			}
			z := s.scores[i*k : (i+1)*k]
			for j := lo; j < hi; j++ {
				s.level.Axpy(z, value(in, j), rows[int(index[j])*dim:][:k])
			}
		}
	}
	if dense >= 0 {
		s.gemm.NN(s.scores, in.Dense, p.Dense[dense], in.N, k, in.Width)
	}
}

// wideBackward adds the gradients of wideForward: drow[:K] += xⱼ·dz, ddense[w,:] += d[w]·dz.
func (s *stepper) wideBackward(table, dense, dim int, in *engine.Inputs, look []engine.Lookup) {
	k := s.plan.Outputs
	if table >= 0 {
		rows, index := s.res.RowGrads[table], look[table].Index
		for i := range in.N {
			lo, hi := ids(in, i)
			if k == 1 {
				dz := s.dscores[i]
				for j := lo; j < hi; j++ {
					rows[int(index[j])*dim] += float32(value(in, j) * dz)
				}
				continue
			}
			dz := s.dscores[i*k : (i+1)*k]
			for j := lo; j < hi; j++ {
				s.level.Axpy(rows[int(index[j])*dim:][:k], value(in, j), dz)
			}
		}
	}
	if dense >= 0 {
		s.gemm.TN(s.res.DenseGrads[dense], in.Dense, s.dscores, in.Width, k, in.N)
	}
}
