package ps

import (
	"unsafe"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// blockRows is how many rows are looked up together. Each look-up waits for memory twice, for a
// line of the index and for the row; together they wait twice in all.
const blockRows = 64

// found are the rows of up to blockRows ids of one table, of whatever shards.
type found struct {
	shards [blockRows]*shard
	tables [blockRows]*table
	hashes [blockRows]uint64
	// rows are numbers that the rows may have: whoever uses one compares the id. -1: there is none.
	rows [blockRows]int
}

// look finds the rows of ids, at least one and at most blockRows, in table t, and asks for their
// cells, whole or up to the weights. It is false when the shard of one of them is not here.
func (j *job) look(f *found, t int, ids []uint64, whole bool) bool {
	var at [blockRows]unsafe.Pointer
	v := uint64(len(j.shards))
	for i, id := range ids {
		hash := tidemill.Mix(id)
		s := j.shards[(hash>>32)*v>>32] // as tidemill.ShardOf
		if s == nil {
			return false
		}
		tab := s.tables[t]
		in, first := tab.index.at(hash)
		f.shards[i], f.tables[i], f.hashes[i] = s, tab, hash
		at[i] = unsafe.Pointer(&in[first])
	}
	kernel.Prefetch(at[:len(ids)], 1)
	n := 0
	for i, id := range ids {
		l, hash := (*line)(at[i]), f.hashes[i]
		row, ok := l.first(l.match(tagOf(hash)))
		switch tab := f.tables[i]; {
		case ok:
			f.rows[i] = int(row)
		case l.passed() == 0:
			f.rows[i] = -1
			continue
		default:
			if f.rows[i] = tab.index.find(&tab.cells, id, hash); f.rows[i] < 0 {
				continue
			}
		}
		at[n] = f.tables[i].address(f.rows[i])
		n++
	}
	floats := idFloats + f.tables[0].words
	if whole {
		floats = f.tables[0].stride
	}
	kernel.Prefetch(at[:n], (4*floats-1)/kernel.LineBytes+2) // a cell begins anywhere in a line
	return true
}

// row returns the number of the row of ids[i], or -1.
func (f *found) row(i int, id uint64) int {
	t, row := f.tables[i], f.rows[i]
	if row >= 0 && t.id(row) != id {
		return t.index.find(&t.cells, id, f.hashes[i])
	}
	return row
}

// readRows copies the weights of ids in table t to dst [len(ids) × dim]. It is false when the shard
// of one of them is not here. mu is held.
func (j *job) readRows(t int, dst []float32, ids []uint64) bool {
	var f found
	dim := j.model.Layout.Tables[t].Dim
	for len(ids) > 0 {
		some := ids[:min(len(ids), blockRows)]
		if !j.look(&f, t, some, false) {
			return false
		}
		for i, id := range some {
			f.shards[i].pulled++
			f.tables[i].read(dst[i*dim:(i+1)*dim], id, f.row(i, id))
		}
		ids, dst = ids[len(some):], dst[len(some)*dim:]
	}
	return true
}

// updateRows applies gradients grads [len(ids) × dim] to the rows of ids in table t, whose shards
// are all here, in the order of ids. mu is held.
func (j *job) updateRows(t int, ids []uint64, grads []float32, scale float32, before, k int64) {
	var f found
	dim := j.model.Layout.Tables[t].Dim
	for len(ids) > 0 {
		some := ids[:min(len(ids), blockRows)]
		j.look(&f, t, some, true)
		for i, id := range some {
			f.shards[i].pushed++
			tab, row := f.tables[i], f.row(i, id)
			if row < 0 { // an id may come twice, and have a row by now
				row = tab.index.find(&tab.cells, id, f.hashes[i])
			}
			tab.update(id, row, grads[i*dim:(i+1)*dim], scale, before, k)
		}
		ids, grads = ids[len(some):], grads[len(some)*dim:]
	}
}
