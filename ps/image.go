package ps

import (
	"iter"
	"slices"
	"sync"
	"unsafe"

	"github.com/tidemill/tidemill/internal/kernel"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// image is a table as it was when captured. Capturing copies nothing: a row that changes while
// the image is held leaves its former values with the image, so what is held twice is what
// training touches meanwhile, and a row that is written to costs one copy of a row.
type image struct {
	// cells are the table's as they were: their number, and ids, which never change. Values are
	// to be read from the table.
	cells
	dead dirty // cells without a row then
	t    *table
	mu   sync.Locker // guards the table, and touched, at and kept

	touched dirty            // rows that changed since
	at      map[uint32]int32 // row → which of the kept rows it is
	// kept are the former values, keptRows rows each: growing copies nothing, so no update pays
	// for those before it.
	kept  [][]float32
	keeps int // how many rows are kept
}

// keptRows is how many rows' former values are allocated at a time.
const keptRows = 128

// capture freezes the present rows. mu is the lock that guards the table; it is held. The
// image must be released once it is done with.
func (t *table) capture(mu sync.Locker) *image {
	m := &image{cells: t.cells, dead: t.dead.clone(), t: t, mu: mu}
	t.images = append(t.images, m)
	return m
}

// release lets go of the image. The lock is held. Releasing twice does no harm.
func (m *image) release() {
	m.t.images = slices.DeleteFunc(m.t.images, func(o *image) bool { return o == m })
	m.kept, m.keeps, m.at, m.touched = nil, 0, nil, dirty{}
	if len(m.t.images) == 0 {
		m.t.free, m.t.held = append(m.t.free, m.t.held...), nil
	}
}

// keep saves the values of a row that is about to change. The lock is held.
func (m *image) keep(row int, values []float32) {
	if row >= m.n || !m.touched.add(row) {
		return
	}
	if m.at == nil {
		m.at = map[uint32]int32{}
	}
	at := m.keeps % keptRows
	if at == 0 {
		m.kept = append(m.kept, make([]float32, keptRows*m.width))
	}
	copy(m.kept[len(m.kept)-1][at*m.width:], values)
	m.at[uint32(row)] = int32(m.keeps)
	m.keeps++
}

// was returns the former values of a row that changed.
func (m *image) was(row uint32) []float32 {
	k := int(m.at[row])
	return m.kept[k/keptRows][k%keptRows*m.width:][:m.width]
}

// Len returns the number of rows.
func (m *image) Len() int { return m.n - m.dead.len() }

// numbers yields the numbers of all rows, ascending.
func (m *image) numbers() iter.Seq[int] {
	return func(yield func(int) bool) {
		for row := range m.n {
			if !m.dead.has(row) && !yield(row) {
				return
			}
		}
	}
}

// lockedRows is how many rows are copied under the lock at a time: training waits for that
// long, some tens of microseconds.
const lockedRows = 512

// Copy copies rows, by number, to dst [len(rows) × width]. It takes the lock, again and again
// for a few rows, so training goes on beside it.
func (m *image) Copy(dst []float32, rows []uint32) {
	var at [blockRows]unsafe.Pointer
	lines := (4*m.stride-1)/kernel.LineBytes + 2
	for part := range slices.Chunk(rows, lockedRows) {
		m.mu.Lock()
		for i, row := range part {
			if i%blockRows == 0 { // rows come in the order of their ids, so they lie anywhere
				some := part[i:min(len(part), i+blockRows)]
				for k, row := range some {
					at[k] = m.t.address(int(row))
				}
				kernel.Prefetch(at[:len(some)], lines)
			}
			into := dst[i*m.width : (i+1)*m.width]
			if m.touched.has(int(row)) {
				copy(into, m.was(row))
				continue
			}
			copy(into, m.t.row(int(row)))
		}
		m.mu.Unlock()
		dst = dst[len(part)*m.width:]
	}
}

// since is what a table knows of its rows in comparison with the last snapshots: which ones
// changed, and what they contributed to the digest. The lock of the job guards it.
//
// A snapshot's rows are either as they were in its base or among those that changed, so its
// digest is the base's, less what the changed rows were in the base, plus what they are now.
// The first is known, the second is summed up here as rows change, the third by whoever writes
// them.
type since struct {
	rows dirty           // changed since the last capture
	was  snapshot.Digest // what those of them that tried does not hold were
	// again is what those that tried holds were when it was captured: they count when it is
	// committed, and not when it fails.
	again snapshot.Digest
	gone  []uint64 // ids whose rows went since the last capture, and that the base may have

	base  *base // of the last committed snapshot; nil: nothing is known, everything must be written
	tried *tried
}

// base is what a committed snapshot holds of a table's rows.
type base struct {
	blobs  []snapshot.Blob
	digest snapshot.Digest // of the rows
}

// tried is a capture that is not known to be committed yet.
type tried struct {
	rows  *dirty // that differ from the base
	was   snapshot.Digest
	sum   snapshot.Digest // of all rows, once they were read
	gone  []uint64
	wrote *base // nil: it was not written
}

func (s *since) inserted(row int) {
	s.rows.add(row)
}

// changed notes that a row is about to change; r is what it still is.
func (s *since) changed(t *table, row int, r []float32) {
	if !s.rows.add(row) || s.base == nil && s.tried == nil {
		return
	}
	d := snapshot.RowDigest(t.name, t.id(row), r)
	if s.tried != nil && s.tried.rows.has(row) {
		s.again.Add(d)
	} else {
		s.was.Add(d)
	}
}

// removed notes that the row of id is about to go.
func (s *since) removed(t *table, row int, id uint64) {
	s.changed(t, row, t.row(row))
	s.rows.remove(row)
	if s.base != nil || s.tried != nil {
		s.gone = append(s.gone, id)
	}
}

// loaded says that the rows are those of a committed snapshot.
func (s *since) loaded(b *base) { *s = since{base: b} }

// forget says that no snapshot is known that the rows could be compared with.
func (s *since) forget() { *s = since{} }

// settle says what became of the capture before: it was committed, or what it held must be
// written again.
func (s *since) settle(committed bool) {
	t := s.tried
	s.tried = nil
	switch {
	case t == nil:
	case committed && t.wrote == nil:
		s.forget()
	case committed:
		s.base = t.wrote
		s.was.Add(s.again)
	case s.base != nil:
		s.rows.merge(t.rows)
		s.was.Add(t.was)
		s.gone = append(t.gone, s.gone...)
	}
	s.again = snapshot.Digest{}
}

// take begins the next capture, of a settled table.
func (s *since) take() *tried {
	s.tried = &tried{rows: s.rows.take(), was: s.was, gone: s.gone}
	s.was, s.gone = snapshot.Digest{}, nil
	return s.tried
}

// tableImage is a table for snapshot.WritePart.
type tableImage struct {
	*image
	tried *tried
}

// freeze captures a table for a snapshot. mu is the lock that guards the table; it is held.
// What became of the capture before is settled.
func (t *table) freeze(mu sync.Locker) (snapshot.TableImage, tableImage) {
	t.since.rows.minus(&t.dead) // what a failed capture had of rows that are gone
	rows := tableImage{t.capture(mu), t.since.take()}
	out := snapshot.TableImage{Rows: rows}
	if b := t.since.base; b != nil {
		out.Base, out.Clean = b.blobs, b.digest
		out.Clean.Sub(rows.tried.was)
		out.Removed = rows.tried.gone
	}
	return out, rows
}

// List yields numbers and ids of all rows, or of those that differ from the base. It needs no
// lock.
func (m tableImage) List(changed bool) iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		if changed {
			for row := range m.tried.rows.rows() {
				if !yield(uint32(row), m.id(row)) {
					return
				}
			}
			return
		}
		for row := range m.numbers() {
			if !yield(uint32(row), m.id(row)) {
				return
			}
		}
	}
}

// Changed reports whether a row differs from the base.
func (m tableImage) Changed(row uint32) bool { return m.tried.rows.has(int(row)) }

// CountChanged returns how many rows do.
func (m tableImage) CountChanged() int { return m.tried.rows.len() }

// Done releases the image: what else is to be written of the part needs it no more.
func (m tableImage) Done(sum snapshot.Digest) {
	m.mu.Lock()
	m.release()
	m.tried.sum = sum
	m.mu.Unlock()
}
