package native

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// fmForward adds the pairwise interactions, in time linear in ids and factors (Rendle,
// Factorization Machines, ICDM 2010, Lemma 3.1): with S[f] = Σⱼ xⱼ·v[f] and
// Q[f] = Σⱼ (xⱼ·v[f])² over the ids, then the dense numbers, z[c] += ½ Σ_f (S[f]² - Q[f]),
// where f runs over the factors of output c. Where deep embeds the same factors of every field,
// and each field of the batch has one id, it fills in that part of its input too, and says so.
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
			var embedded []float32
			if s.embedsFactors() {
				embedded = s.deep.acts[0][(sp.at+i)*s.plan.Deep.In:][:in.Fields*width]
			}
			s.level.SumFactors(sum, sq, embedded, s.factors(fm, e, s.p.Rows[fm.Table]))
		}
		if fm.DenseFactors >= 0 {
			s.level.SumFactors(sum, sq, nil, s.denseFactors(fm, e))
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

// embedsFactors reports whether the deep part's input begins with the factors of the batch's ids,
// in their order.
func (s *stepper) embedsFactors() bool { return s.single && s.plan.Deep != nil }

// factors are those of an example's ids in v, which lies as the table's rows.
func (s *stepper) factors(fm *engine.FM, e int, v []float32) kernel.Rows {
	k := s.plan.Outputs
	lo, hi := ids(s.in, e)
	r := kernel.Rows{Index: s.look[fm.Table].Index[lo:hi], X: s.values(lo, hi), Stride: k * (1 + fm.Dim), Dim: k * fm.Dim}
	if len(v) > 0 {
		r.V = v[k:]
	}
	return r
}

// denseFactors are those of an example's numbers.
func (s *stepper) denseFactors(fm *engine.FM, e int) kernel.Rows {
	w, width := s.in.Width, s.plan.Outputs*fm.Dim
	return kernel.Rows{V: s.p.Dense[fm.DenseFactors], Index: s.counting[:w], X: s.in.Dense[e*w : (e+1)*w], Stride: width, Dim: width}
}

// fmGrad adds the block's gradients of fmForward, dv[f] += dz[c]·xⱼ·(S[f] - xⱼ·v[f]), and that of
// the linear part and of the embedding of the same row beside it, example by example: a row of the
// gradients is touched once.
func (s *stepper) fmGrad(ln *lane, fm *engine.FM) {
	in, k := s.in, s.plan.Outputs
	width := k * fm.Dim
	deep := s.plan.Deep
	for i := range s.block.n() {
		e := s.block.lo + i
		sum := s.sums[i*width : (i+1)*width]
		dz := s.dscores[e*k : (e+1)*k]
		if fm.Table >= 0 {
			grads := s.res.RowGrads[fm.Table]
			s.linearGrad(e, grads, s.look[fm.Table].Index, k+width)
			r := s.factors(fm, e, s.p.Rows[fm.Table])
			var dh []float32
			stride := 0
			if deep != nil {
				dh, stride = s.deep.grads[0][i*deep.In:][:in.Fields*width], width
				if !s.single {
					dh = s.spread(ln, e, dh, width)
				}
			}
			if len(r.Index) > 0 {
				for c, d := range dz {
					part := r
					part.V, part.Dim = r.V[c*fm.Dim:], fm.Dim
					var dpart []float32
					if dh != nil {
						dpart = dh[c*fm.Dim:]
					}
					s.level.ScatterFactors(grads[k+c*fm.Dim:], part, sum[c*fm.Dim:(c+1)*fm.Dim], d, dpart, stride)
				}
			}
		}
		if fm.DenseFactors >= 0 {
			r, grads := s.denseFactors(fm, e), s.res.DenseGrads[fm.DenseFactors]
			for c, d := range dz {
				part := r
				part.V, part.Dim = r.V[c*fm.Dim:], fm.Dim
				s.level.ScatterFactors(grads[c*fm.Dim:], part, sum[c*fm.Dim:(c+1)*fm.Dim], d, nil, 0)
			}
		}
	}
	if fm.Dense >= 0 {
		s.denseGrad(ln, fm.Dense)
	}
}

// spread repeats the gradient by each field's embedding for each id of the field.
func (s *stepper) spread(ln *lane, e int, dh []float32, width int) []float32 {
	offsets := s.in.Offsets[e*s.in.Fields:]
	ln.spread = ln.spread[:0]
	for f := range s.in.Fields {
		for range offsets[f+1] - offsets[f] {
			ln.spread = append(ln.spread, dh[f*width:(f+1)*width]...)
		}
	}
	return ln.spread
}
