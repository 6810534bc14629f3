package ps

import (
	"math"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

const pageRows = 256

// page is pageRows rows of a table. Ids never change once they are in.
type page struct {
	ids  []uint64  // [pageRows]
	data []float32 // [pageRows × width]
}

// table is one shard's part of a sparse table: rows by id, collision-free, growing. It
// belongs to whoever holds the lock of its job.
type table struct {
	layout snapshot.TableLayout
	width  int
	decay  float64 // of averages
	rule   optim.Rule
	seed   uint64
	name   uint64
	most   int // rows admitted; 0: no bound

	pages []*page
	n     int      // rows
	slots []uint32 // open addressing, linear probing: row number + 1
	// overflow counts look-ups for training that found the table full; they share the row
	// fallbackID, which lies outside the bound.
	overflow int64
	fallback uint64 // id of the fallback row
	fresh    []float32
	watchers []*dirty
	images   []*image // captured and not yet released
	since    since    // what changed since the last snapshot
}

// fallbackID is the id that ids without a row of their own share when a shard's table is full.
// Each shard has its own, so that a version that joins all shards keeps them apart.
func fallbackID(shard int) uint64 { return math.MaxUint64 - uint64(shard) }

// newTable returns the empty table of one of v shards.
func newTable(layout snapshot.TableLayout, rule optim.Rule, decay float64, seed uint64, shard, v int) *table {
	t := &table{
		layout: layout, width: layout.Width(), decay: decay, rule: rule, seed: seed, name: tidemill.Hash(layout.Name),
		slots: make([]uint32, 64), fresh: make([]float32, layout.Width()), fallback: fallbackID(shard),
	}
	if layout.MaxRows > 0 {
		t.most = int(max(1, layout.MaxRows/int64(v)))
	}
	return t
}

func (t *table) id(row int) uint64 { return t.pages[row/pageRows].ids[row%pageRows] }

func (t *table) row(row int) []float32 {
	at := row % pageRows * t.width
	return t.pages[row/pageRows].data[at : at+t.width : at+t.width]
}

// track marks the rows that change from now on in d, until untrack.
func (t *table) track(d *dirty) { t.watchers = append(t.watchers, d) }

func (t *table) untrack(d *dirty) {
	t.watchers = slices.DeleteFunc(t.watchers, func(w *dirty) bool { return w == d })
}

// find returns the row number of id, or -1.
func (t *table) find(id uint64) int {
	mask := uint64(len(t.slots) - 1)
	for at := tidemill.Mix(id) & mask; ; at = (at + 1) & mask {
		s := t.slots[at]
		if s == 0 {
			return -1
		}
		if t.id(int(s-1)) == id {
			return int(s - 1)
		}
	}
}

// weights copies the weights of id to dst [dim] and inserts nothing: an unknown id has its
// initial weights, or the fallback row's when the table is full.
func (t *table) weights(dst []float32, id uint64) {
	row := t.find(id)
	if row < 0 && t.full() {
		row = t.find(t.fallback)
		id = t.fallback
	}
	if row < 0 {
		t.layout.Init.Fill(dst, t.seed, t.name, id, 0)
		return
	}
	copy(dst, t.row(row))
}

func (t *table) full() bool { return t.most > 0 && t.n >= t.most }

// apply updates the row of id, inserting it if need be, by gradient grad [dim] of a batch of k
// examples after before examples of the job.
func (t *table) apply(id uint64, grad []float32, scale float32, before, k int64) {
	row := t.find(id)
	if row < 0 && t.full() {
		t.overflow++
		id = t.fallback
		row = t.find(id)
	}
	if row < 0 {
		row = t.insert(id, before)
	}
	r := t.writable(row)
	w, state := t.layout.Weight(r), t.layout.StateOf(r)
	if !t.layout.Average {
		t.rule.Apply(w, state, grad, scale)
		return
	}
	avg := t.layout.AverageOf(r)
	catchUp(avg, w, t.decay, before-int64(t.layout.At(r)))
	t.rule.Apply(w, state, grad, scale)
	catchUp(avg, w, t.decay, k)
	t.layout.PutAt(r, uint64(before+k))
}

// catchUp lets n examples pass during which the weight stayed w.
func catchUp(avg, w []float32, decay float64, n int64) {
	if n > 0 {
		snapshot.CatchUp(avg, w, avg, decay, uint64(n))
	}
}

// insert adds a row with initial weights and an average that equals them.
func (t *table) insert(id uint64, examples int64) int {
	r := t.fresh
	clear(r)
	w := t.layout.Weight(r)
	t.layout.Init.Fill(w, t.seed, t.name, id, 0)
	t.rule.Init(t.layout.StateOf(r), w)
	if t.layout.Average {
		copy(t.layout.AverageOf(r), w)
		t.layout.PutAt(r, uint64(examples))
	}
	return t.add(id, r)
}

// add appends a row as it is; id must be new.
func (t *table) add(id uint64, values []float32) int {
	if t.n%pageRows == 0 {
		t.pages = append(t.pages, &page{ids: make([]uint64, pageRows), data: make([]float32, pageRows*t.width)})
	}
	row := t.n
	t.n++
	t.pages[row/pageRows].ids[row%pageRows] = id
	copy(t.row(row), values)
	t.since.inserted(row)
	for _, d := range t.watchers {
		d.add(row)
	}
	if 4*t.n > 3*len(t.slots) {
		t.grow()
	}
	t.place(id, row)
	return row
}

func (t *table) place(id uint64, row int) {
	mask := uint64(len(t.slots) - 1)
	at := tidemill.Mix(id) & mask
	for t.slots[at] != 0 {
		at = (at + 1) & mask
	}
	t.slots[at] = uint32(row + 1)
}

func (t *table) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	for row := range t.n - 1 { // the newest row is placed by the caller
		t.place(t.id(row), row)
	}
}

// writable returns a row for writing: whoever watches the table learns that the row changes,
// and images of it keep what it was.
func (t *table) writable(row int) []float32 {
	r := t.row(row)
	t.since.changed(t, row, r)
	for _, d := range t.watchers {
		d.add(row)
	}
	for _, m := range t.images {
		m.keep(row, r)
	}
	return r
}
