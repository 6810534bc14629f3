package predict

import (
	"math"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// table is a frozen sparse table: open addressing over the version's ids. It is immutable.
type table struct {
	dim     int
	init    tidemill.Init
	seed    uint64
	name    uint64 // Hash of the table's name
	ids     []uint64
	weights []float32
	slots   []uint32 // row+1, 0 is empty; a power of two, at most half full
	mask    uint64

	// Only where the table had a bound: which shards were full.
	shards int
	full   []bool
}

// fallbackID is the id of the row that a full shard's unknown ids share.
func fallbackID(shard int) uint64 { return math.MaxUint64 - uint64(shard) }

func newTable(f *snapshot.Frozen, seed uint64, shards int) (*table, error) {
	n := len(f.IDs)
	if n >= math.MaxUint32/2 {
		return nil, tidemill.Invalid("table %q has %d rows", "at most 2147483646 can be served; bound it with train.max_rows", f.Name, n)
	}
	if len(f.Weights) != n*f.Dim {
		return nil, tidemill.Invalid("table %q has %d ids and %d weights", "each id has as many weights as the table has dimensions", f.Name, n, len(f.Weights))
	}
	t := &table{dim: f.Dim, init: f.Init, seed: seed, name: tidemill.Hash(f.Name), ids: f.IDs, weights: f.Weights}
	size := 16
	for size < 2*n {
		size *= 2
	}
	t.slots, t.mask = make([]uint32, size), uint64(size-1)
	for i, id := range f.IDs {
		h := tidemill.Mix(id)
		for ; t.slots[h&t.mask] != 0; h++ {
			if f.IDs[t.slots[h&t.mask]-1] == id {
				return nil, tidemill.Invalid("table %q has id %d twice", "", f.Name, id)
			}
		}
		t.slots[h&t.mask] = uint32(i + 1)
	}
	if f.MaxRows > 0 {
		t.bound(f.MaxRows, shards)
	}
	return t, nil
}

// bound finds out which shards were full when the version was made.
func (t *table) bound(maxRows int64, shards int) {
	rows := make([]int64, shards)
	for _, id := range t.ids {
		rows[tidemill.ShardOf(id, shards)]++
	}
	most := max(1, maxRows/int64(shards))
	t.shards, t.full = shards, make([]bool, shards)
	for s := range rows {
		t.full[s] = rows[s] >= most
	}
}

// find returns the row of id, or -1.
func (t *table) find(id uint64) int {
	for h := tidemill.Mix(id); ; h++ {
		row := t.slots[h&t.mask]
		if row == 0 {
			return -1
		}
		if t.ids[row-1] == id {
			return int(row - 1)
		}
	}
}

// gather writes the rows of ids to dst [len(ids) × dim].
func (t *table) gather(dst []float32, ids []uint64) {
	d := t.dim
	for i, id := range ids {
		out := dst[i*d : (i+1)*d]
		row := t.find(id)
		if row < 0 && t.full != nil {
			if s := tidemill.ShardOf(id, t.shards); t.full[s] {
				id = fallbackID(s)
				row = t.find(id)
			}
		}
		if row < 0 {
			t.init.Fill(out, t.seed, t.name, id, 0)
			continue
		}
		copy(out, t.weights[row*d:])
	}
}

func (t *table) bytes() int64 {
	return int64(8*len(t.ids) + 4*len(t.weights) + 4*len(t.slots) + len(t.full))
}
