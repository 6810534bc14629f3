package native

// wideForward adds the linear part: z += Σⱼ xⱼ·row[:K] + Σ_w d[w]·dense[w,:]. Rows are dim
// long; only their first K values are linear weights.
func (s *stepper) wideForward(ln *lane, sp span, table, dense, dim int) {
	in, k := s.in, s.plan.Outputs
	if table >= 0 {
		rows, index := s.p.Rows[table], s.look[table].Index
		for i := sp.lo; i < sp.hi; i++ {
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
		ln.gemm.NN(sp.all(s.scores, k), sp.all(in.Dense, in.Width), s.p.Dense[dense], sp.n(), k, in.Width)
	}
}

// wideGrad adds the block's gradients of wideForward: drow[:K] += xⱼ·dz, ddense[w,:] += d[w]·dz.
func (s *stepper) wideGrad(ln *lane, table, dense, dim int) {
	in, k := s.in, s.plan.Outputs
	b := s.block
	if table >= 0 {
		rows, index := s.res.RowGrads[table], s.look[table].Index
		for i := b.lo; i < b.hi; i++ {
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
		ln.gemm.TN(s.res.DenseGrads[dense], b.all(in.Dense, in.Width), b.all(s.dscores, k), in.Width, k, b.n())
	}
}
