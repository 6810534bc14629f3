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
	if table >= 0 {
		for i := s.block.lo; i < s.block.hi; i++ {
			s.linearGrad(i, s.res.RowGrads[table], s.look[table].Index, dim)
		}
	}
	if dense >= 0 {
		s.denseGrad(ln, dense)
	}
}

// linearGrad adds the gradient of example i's linear weights to rows of grads.
func (s *stepper) linearGrad(i int, grads []float32, index []int32, dim int) {
	in, k := s.in, s.plan.Outputs
	lo, hi := ids(in, i)
	if k == 1 {
		dz := s.dscores[i]
		for j := lo; j < hi; j++ {
			grads[int(index[j])*dim] += float32(value(in, j) * dz)
		}
		return
	}
	dz := s.dscores[i*k : (i+1)*k]
	for j := lo; j < hi; j++ {
		s.level.Axpy(grads[int(index[j])*dim:][:k], value(in, j), dz)
	}
}

// denseGrad adds the block's gradient of the dense numbers' linear weights.
func (s *stepper) denseGrad(ln *lane, dense int) {
	in, k, b := s.in, s.plan.Outputs, s.block
	ln.gemm.TN(s.res.DenseGrads[dense], b.all(in.Dense, in.Width), b.all(s.dscores, k), in.Width, k, b.n())
}
