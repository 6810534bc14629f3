package feature

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/bitutil"

	"github.com/tidemill/tidemill"
)

// AppendDelta appends to dst what rows add to the learned state: moments of the standardized
// columns, and values for the edges and vocabularies that are not frozen yet. It leaves out
// values for those that the state last given to w by Sparse or Numeric had frozen; freezing
// is for good, so nobody will need them. Where the plan learns nothing it appends nothing.
// Rows must have passed Check.
func (p *Plan) AppendDelta(dst []byte, w *Workspace, rows arrow.RecordBatch) ([]byte, error) {
	if !p.Learns() {
		return dst, nil
	}
	if err := w.bind(p, rows); err != nil {
		return dst, err
	}
	start := len(dst)
	n := int(rows.NumRows())
	dst = p.appendHeader(dst, formDelta)
	for i := range p.standardized {
		var err error
		if dst, err = p.appendBatchMoments(dst, w, rows, &p.standardized[i], n); err != nil {
			return dst[:start], err
		}
	}
	for i := range p.quantiles {
		var err error
		if dst, err = p.appendSamples(dst, w, rows, i, n); err != nil {
			return dst[:start], err
		}
	}
	for i := range p.vocabs {
		var err error
		if dst, err = p.appendValues(dst, w, rows, i, n); err != nil {
			return dst[:start], err
		}
	}
	return dst, nil
}

// appendBatchMoments appends the moments of one numeric column.
func (p *Plan) appendBatchMoments(dst []byte, w *Workspace, rows arrow.RecordBatch, d *number, n int) ([]byte, error) {
	arr, err := w.column(rows, d.col)
	if err != nil {
		return dst, err
	}
	x := grow(&w.x, n)
	if err := d.load(x, w, arr); err != nil {
		return dst, columnError(p.columns[d.col].Name, err)
	}
	bitmap, off := nulls(arr)
	if d.imputes {
		bitmap = nil
	}
	m := momentsOf(x, bitmap, off)
	if !m.sane() {
		return dst, tidemill.Invalid("column %q holds a value that is not finite or too large", "drop the rows that Check reports first", p.columns[d.col].Name)
	}
	return putMoments(dst, &m), nil
}

// appendSamples appends the values of quantile feature i, at most as many as it learns from.
func (p *Plan) appendSamples(dst []byte, w *Workspace, rows arrow.RecordBatch, i, n int) ([]byte, error) {
	if w.quantileFrozen[i] {
		return putUint(dst, 0), nil
	}
	f := &p.fields[p.quantiles[i].field]
	arr, err := w.column(rows, f.col)
	if err != nil {
		return dst, err
	}
	x := grow(&w.x, n)
	if err := f.number.load(x, w, arr); err != nil {
		return dst, columnError(p.columns[f.col].Name, err)
	}
	if bitmap, off := nulls(arr); bitmap != nil && !f.imputes {
		kept := x[:0]
		for k, v := range x {
			if bitutil.BitIsSet(bitmap, off+k) {
				kept = append(kept, v)
			}
		}
		x = kept
	}
	x = x[:min(len(x), p.quantiles[i].rows)]
	dst = putUint(dst, uint64(len(x)))
	for _, v := range x {
		if !finite(v) {
			return dst, tidemill.Invalid("column %q holds a value that is not finite", "drop the rows that Check reports first", p.columns[f.col].Name)
		}
		dst = putU64(dst, math.Float64bits(v))
	}
	return dst, nil
}

// appendValues appends the raw ids of vocabulary feature i, row by row, at most as many rows
// as it learns from.
func (p *Plan) appendValues(dst []byte, w *Workspace, rows arrow.RecordBatch, i, n int) ([]byte, error) {
	if w.vocabFrozen[i] {
		return putUint(dst, 0), nil
	}
	fi := p.vocabs[i].field
	f, out := &p.fields[fi], &w.fields[fi]
	arr, err := w.column(rows, f.col)
	if err != nil {
		return dst, err
	}
	if f.role == roleMulti {
		err = f.multi.raw(out, w, arr)
	} else {
		out.offs = out.offs[:0]
		err = f.category.raw(grow(&out.ids, n), w, arr, 0)
	}
	if err != nil {
		return dst, columnError(p.columns[f.col].Name, err)
	}
	// A row counts when it has a value; a null never does.
	limit, count := p.vocabs[i].rows, 0
	row := func(k int) []uint64 {
		lo, hi := k, k+1
		if f.role == roleMulti {
			lo, hi = int(out.offs[k]), int(out.offs[k+1])
		}
		if hi == lo || hi == lo+1 && out.ids[lo] == f.category.null {
			return nil
		}
		return out.ids[lo:hi]
	}
	for k := 0; k < n && count < limit; k++ {
		if row(k) != nil {
			count++
		}
	}
	dst = putUint(dst, uint64(count))
	for k := 0; count > 0; k++ {
		ids := row(k)
		if ids == nil {
			continue
		}
		count--
		dst = putUint(dst, uint64(len(ids)))
		for _, id := range ids {
			dst = putU64(dst, id)
		}
	}
	return dst, nil
}

// Merge adds a batch's delta to s. The caller merges deltas in partition order: the same
// deltas in the same order give the same bits. It refuses, with tidemill.ErrCorrupt and
// without changing s, bytes that are no delta of s's plan. An empty delta adds nothing.
func (s *State) Merge(delta []byte) error {
	if len(delta) == 0 {
		return nil
	}
	if s.partial {
		return tidemill.Invalid("a transform state without samples cannot learn", "merge into the state at its home")
	}
	if err := s.readDelta(delta, false); err != nil {
		return err
	}
	return s.readDelta(delta, true)
}

// readDelta checks a delta and, if apply is set, merges it.
func (s *State) readDelta(delta []byte, apply bool) error {
	r := reader{b: delta}
	s.plan.readHeader(&r, formDelta)
	for i := range s.moments {
		m := r.moments()
		if s.moments[i].n > maxRows-m.n {
			return corrupt("more rows than can be counted")
		}
		if apply {
			s.moments[i].merge(m)
		}
	}
	for i := range s.quantiles {
		q, p := &s.quantiles[i], &s.plan.quantiles[i]
		n := r.count(8, p.rows)
		for range n {
			v := r.float()
			if apply && !q.frozen {
				if q.samples = append(q.samples, v); len(q.samples) == p.rows {
					s.freezeQuantiles(i)
				}
			}
		}
	}
	for i := range s.vocabs {
		v, p := &s.vocabs[i], &s.plan.vocabs[i]
		n := r.count(9, p.rows)
		for range n {
			k := r.count(8, s.plan.perRow(i))
			if r.err == nil && k == 0 {
				return corrupt("a row without values")
			}
			learn := apply && !v.frozen
			if learn && v.counts == nil {
				v.counts = make(map[uint64]uint64)
			}
			for range k {
				if id := r.u64(); learn {
					v.counts[id]++
				}
			}
			if learn {
				if v.rows++; v.rows == p.rows {
					s.freezeVocab(i)
				}
			}
		}
	}
	return r.end()
}

// perRow is how many values a row of vocabulary i has at most.
func (p *Plan) perRow(i int) int {
	if f := &p.fields[p.vocabs[i].field]; f.role == roleMulti {
		return f.max
	}
	return 1
}
