//go:build tensorflow

package tensorflow

import "github.com/tidemill/tidemill/internal/engine"

// forward feeds everything that predictions are made of.
func (s *stepper) forward(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	m := s.m
	plan, k := m.plan, m.plan.Outputs
	for i, f := range m.tensors {
		fill(s.run, f, float32s, p.Dense[i], plan.Tensors[i].Shape...)
	}
	if m.dense != none {
		fill(s.run, m.dense, float32s, in.Dense, in.N, in.Width)
	}
	if w := plan.Wide; w != nil && m.linear != none {
		s.addUp(w.Table, in, look, p)
	}
	if f := plan.FM; f != nil && m.linear != none {
		s.addUp(f.Table, in, look, p)
		s.addFactors(f, in, look, p)
		fill(s.run, m.sums, float32s, s.sums, in.N, k*f.Dim)
		fill(s.run, m.squares, float32s, s.squares, in.N, k*f.Dim)
	}
	if m.linear != none {
		fill(s.run, m.linear, float32s, s.linear, in.N, k)
	}
	if d := plan.Deep; d != nil {
		s.embed(d, in, look, p)
		fill(s.run, m.input, float32s, s.deep, in.N, d.In)
	}
}

// addUp computes linear: each example's Σⱼ xⱼ·r[:K], over all its ids.
func (s *stepper) addUp(table int, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k, dim := s.m.plan.Outputs, s.m.plan.Tables[table].Dim
	rows, index := p.Rows[table], look[table].Index
	s.linear = zeros(s.linear, in.N*k)
	for i := range in.N {
		z := s.linear[i*k : (i+1)*k]
		lo, hi := ids(in, i)
		if k == 1 {
			sum := z[0]
			for j := lo; j < hi; j++ {
				sum += float32(value(in, j) * rows[int(index[j])*dim])
			}
			z[0] = sum
			continue
		}
		for j := lo; j < hi; j++ {
			s.m.level.Axpy(z, value(in, j), rows[int(index[j])*dim:][:k])
		}
	}
}

// addFactors computes sums and squares over all ids of each example.
func (s *stepper) addFactors(f *engine.FM, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k := s.m.plan.Outputs
	width := k * f.Dim
	rows, index := p.Rows[f.Table], look[f.Table].Index
	s.sums, s.squares = zeros(s.sums, in.N*width), zeros(s.squares, in.N*width)
	for i := range in.N {
		sum, squares := s.sums[i*width:(i+1)*width], s.squares[i*width:(i+1)*width]
		lo, hi := ids(in, i)
		for j := lo; j < hi; j++ {
			s.m.level.AxpySquares(sum, squares, value(in, j), rows[int(index[j])*(k+width)+k:][:width])
		}
	}
}

// embed computes the deep part's input: for each field Σⱼ xⱼ·embedding, then the dense numbers.
func (s *stepper) embed(d *engine.Deep, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.deep = zeros(s.deep, in.N*d.In)
	at := len(d.Fields) * d.Dim
	for i := range in.N {
		h := s.deep[i*d.In : (i+1)*d.In]
		copy(h[at:], in.Dense[i*in.Width:(i+1)*in.Width])
		if d.Table < 0 {
			continue
		}
		dim := s.m.plan.Tables[d.Table].Dim
		rows, index := p.Rows[d.Table], look[d.Table].Index
		for x, f := range d.Fields {
			sum := h[x*d.Dim : (x+1)*d.Dim]
			for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
				s.m.level.Axpy(sum, value(in, j), rows[int(index[j])*dim+d.Skip:][:d.Dim])
			}
		}
	}
}

// spread adds to the gradients of the rows what the gradients by the feeds say, in the order of
// examples, fields and ids.
func (s *stepper) spread(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plan := s.m.plan
	if w := plan.Wide; w != nil && w.Table >= 0 {
		s.spreadLinear(w.Table, in, look)
	}
	if f := plan.FM; f != nil && f.Table >= 0 {
		s.spreadLinear(f.Table, in, look)
		s.spreadFactors(f, in, look, p)
	}
	if d := plan.Deep; d != nil && d.Table >= 0 {
		dim := plan.Tables[d.Table].Dim
		grads, index, from := s.res.RowGrads[d.Table], look[d.Table].Index, s.grads[s.m.input]
		for i := range in.N {
			for x, f := range d.Fields {
				g := from[i*d.In+x*d.Dim:][:d.Dim]
				for j := in.Offsets[i*in.Fields+f]; j < in.Offsets[i*in.Fields+f+1]; j++ {
					s.m.level.Axpy(grads[int(index[j])*dim+d.Skip:][:d.Dim], value(in, j), g)
				}
			}
		}
	}
}

// spreadLinear adds xⱼ·dz to dr[:K].
func (s *stepper) spreadLinear(table int, in *engine.Inputs, look []engine.Lookup) {
	k, dim := s.m.plan.Outputs, s.m.plan.Tables[table].Dim
	grads, index, from := s.res.RowGrads[table], look[table].Index, s.grads[s.m.linear]
	for i := range in.N {
		lo, hi := ids(in, i)
		for j := lo; j < hi; j++ {
			s.m.level.Axpy(grads[int(index[j])*dim:][:k], value(in, j), from[i*k:(i+1)*k])
		}
	}
}

// spreadFactors adds to dv, with x an id's value: x·dsums + 2·x²·v·dsquares.
func (s *stepper) spreadFactors(f *engine.FM, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	k := s.m.plan.Outputs
	width := k * f.Dim
	rows, grads, index := p.Rows[f.Table], s.res.RowGrads[f.Table], look[f.Table].Index
	for i := range in.N {
		sums, squares := s.grads[s.m.sums][i*width:(i+1)*width], s.grads[s.m.squares][i*width:(i+1)*width]
		lo, hi := ids(in, i)
		for j := lo; j < hi; j++ {
			x := value(in, j)
			at := int(index[j])*(k+width) + k
			g, v := grads[at:][:width], rows[at:][:width]
			for c := range g {
				g[c] += float32(x * (sums[c] + float32(2*float32(x*float32(v[c]*squares[c])))))
			}
		}
	}
}

// ids returns the range of in.IDs that belongs to example i.
func ids(in *engine.Inputs, i int) (lo, hi int32) {
	return in.Offsets[i*in.Fields], in.Offsets[(i+1)*in.Fields]
}

// value returns the value of the id at position j.
func value(in *engine.Inputs, j int32) float32 {
	if len(in.Values) == 0 {
		return 1
	}
	return in.Values[j]
}
