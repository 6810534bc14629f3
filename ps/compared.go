package ps

import "github.com/tidemill/tidemill/internal/wire"

// This file lets what a table knows of the last snapshots travel with its rows, so that the next
// snapshot by their new owner writes what changed, as the old one's would have.

// mostCompared bounds the ids that travel so at a quiet point; beyond it the shard is written whole.
const mostCompared = 1 << 19

// compared returns what t knows, by ids, since its rows have other numbers elsewhere; nil where
// that is nothing, or so much that little would be saved. The lock of the job is held.
func (t *table) compared() *wire.Since {
	s := &t.since
	if s.base == nil && s.tried == nil {
		return nil
	}
	// What the last capture wrote on top of nothing is of no use if it was not committed.
	again := s.tried != nil && s.base != nil
	n := s.rows.len() + len(s.gone)
	if again {
		n += s.tried.rows.len() + len(s.tried.gone)
	}
	if n > mostCompared || s.rows.len() > t.rows()/2 {
		return nil
	}
	out := &wire.Since{Rows: t.idsOf(&s.rows), Gone: append([]uint64(nil), s.gone...), Was: s.was, Again: s.again, Base: s.base.stored()}
	if s.tried != nil {
		out.Tried = &wire.Tried{Was: s.tried.was, Sum: s.tried.sum, Wrote: s.tried.wrote.stored()}
	}
	if again {
		out.Tried.Rows, out.Tried.Gone = t.idsOf(s.tried.rows), append([]uint64(nil), s.tried.gone...)
	}
	return out
}

// idsOf returns the ids of those of rows that are there.
func (t *table) idsOf(rows *dirty) []uint64 {
	ids := make([]uint64, 0, rows.len())
	for row := range rows.rows() {
		if !t.dead.has(row) {
			ids = append(ids, t.id(row))
		}
	}
	return ids
}

func (b *base) stored() *wire.Stored {
	if b == nil {
		return nil
	}
	return &wire.Stored{Blobs: b.blobs, Digest: b.digest}
}

func baseOf(s *wire.Stored) *base {
	if s == nil {
		return nil
	}
	return &base{blobs: s.Blobs, digest: s.Digest}
}

// resume takes over what the former owner of t's rows knew. It reports false, and has changed
// nothing, when that speaks of rows which are not here.
func (t *table) resume(w *wire.Since) bool {
	s := since{was: w.Was, again: w.Again, gone: w.Gone, base: baseOf(w.Base)}
	if !t.rowsOf(&s.rows, w.Rows) {
		return false
	}
	if w.Tried != nil {
		s.tried = &tried{rows: &dirty{}, was: w.Tried.Was, sum: w.Tried.Sum, gone: w.Tried.Gone, wrote: baseOf(w.Tried.Wrote)}
		if !t.rowsOf(s.tried.rows, w.Tried.Rows) {
			return false
		}
	}
	t.since = s
	return true
}

// rowsOf puts the rows of ids into d; false: one is not there.
func (t *table) rowsOf(d *dirty, ids []uint64) bool {
	for _, id := range ids {
		row := t.find(id)
		if row < 0 {
			return false
		}
		d.add(row)
	}
	return true
}
