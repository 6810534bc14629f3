package ps

import (
	"math"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// table is one shard's part of a sparse table: rows by id, collision-free, growing. It
// belongs to whoever holds the lock of its job.
type table struct {
	cells
	holes
	index  index
	layout snapshot.TableLayout
	decay  float64 // of averages
	rule   optim.Rule
	seed   uint64
	name   uint64
	most   int // rows admitted; 0: no bound
	// admission says which ids get a row; nil: all do.
	admission *admission

	// overflow counts look-ups for training that found the table full; they share the row
	// fallbackID, which lies outside the bound.
	overflow int64
	fallback uint64 // id of the fallback row
	fresh    []float32
	rounding uint64 // key of the randomness that weights are rounded by
	watchers []*changes
	images   []*image // captured and not yet released
	since    since    // what changed since the last snapshot
}

// fallbackID is the id that ids without a row of their own share when a shard's table is full.
// Each shard has its own, so that a version that joins all shards keeps them apart.
func fallbackID(shard int) uint64 { return math.MaxUint64 - uint64(shard) }

// newTable returns the empty table of one of v shards.
func newTable(layout snapshot.TableLayout, rule optim.Rule, decay float64, seed uint64, shard, v int) *table {
	format, ok := quant.Parse(layout.Values)
	if !ok {
		panic("ps: a table's values are " + layout.Values + ", which its spec was to refuse")
	}
	t := &table{
		cells: newCells(layout.Width(), layout.Dim, format), index: newIndex(),
		layout: layout, decay: decay, rule: rule, seed: seed, name: tidemill.Hash(layout.Name),
		fresh: make([]float32, layout.Width()), fallback: fallbackID(shard),
	}
	t.rounding = tidemill.Mix(seed^0xa54ff53a5f1d36f1) ^ t.name
	t.admission = newAdmission(layout.Admit, seed, t.name, v)
	if layout.MaxRows > 0 {
		t.most = int(max(1, layout.MaxRows/int64(v)))
	}
	return t
}

// track notes what becomes of rows from now on in c, until untrack.
func (t *table) track(c *changes) { t.watchers = append(t.watchers, c) }

func (t *table) untrack(c *changes) {
	t.watchers = slices.DeleteFunc(t.watchers, func(w *changes) bool { return w == c })
}

// rows returns how many rows there are.
func (t *table) rows() int { return t.n - t.dead.len() }

// find returns the row number of id, or -1.
func (t *table) find(id uint64) int { return t.index.find(&t.cells, id, tidemill.Mix(id)) }

// read copies the weights of id, whose row number is row, to dst [dim] and inserts nothing: an
// unknown id (row -1) has its initial weights, or the fallback row's when the table is full.
func (t *table) read(dst []float32, id uint64, row int) {
	if row < 0 && t.full() {
		row = t.find(t.fallback)
		id = t.fallback
	}
	if row < 0 {
		t.layout.Init.Fill(dst, t.seed, t.name, id, 0)
		return
	}
	t.unpack(dst, row)
}

func (t *table) full() bool { return t.most > 0 && t.rows() >= t.most }

// update updates the row of id, whose number is row, by gradient grad [dim] of a batch of k
// examples after before examples of the job. A row of -1 is inserted, if the id is admitted: it
// must not be there.
func (t *table) update(id uint64, row int, grad []float32, scale float32, before, k int64) {
	if row < 0 && t.admission != nil && !t.admission.admits(id, before) {
		return
	}
	if row < 0 && t.full() {
		t.overflow++
		id = t.fallback
		row = t.find(id)
	}
	var r []float32
	fresh := row < 0
	if fresh {
		r = t.initial(id, before)
	} else {
		r = t.writable(row)
	}
	if t.layout.Uses {
		t.used(r)
	}
	w, state := t.layout.Weight(r), t.layout.StateOf(r)
	avg := t.layout.AverageOf(r)
	if t.layout.Average {
		catchUp(avg, w, t.decay, before-int64(t.layout.At(r)))
	}
	t.rule.Apply(w, state, grad, scale)
	if t.format != quant.Float32 {
		t.format.Round(w, t.rounding^tidemill.Mix(id+uint64(before)*0x9e3779b97f4a7c15))
	}
	if t.layout.Average {
		catchUp(avg, w, t.decay, k)
		t.layout.PutAt(r, uint64(before+k))
	}
	if fresh {
		t.add(id, r)
	} else {
		t.store(row, r)
	}
}

// catchUp lets n examples pass during which the weight stayed w.
func catchUp(avg, w []float32, decay float64, n int64) {
	if n > 0 {
		snapshot.CatchUp(avg, w, avg, decay, uint64(n))
	}
}

// initial returns a row with initial weights and an average that equals them, until the next call.
func (t *table) initial(id uint64, examples int64) []float32 {
	r := t.fresh
	clear(r)
	w := t.layout.Weight(r)
	t.layout.Init.Fill(w, t.seed, t.name, id, 0)
	t.rule.Init(t.layout.StateOf(r), w)
	if t.layout.Average {
		copy(t.layout.AverageOf(r), w)
		t.layout.PutAt(r, uint64(examples))
	}
	return r
}

// remove takes a row away. Whoever watches the table learns of it, and images keep it.
func (t *table) remove(row int) {
	id := t.id(row)
	t.since.removed(t, row, id)
	for _, c := range t.watchers {
		c.removed(row, id)
	}
	t.index.remove(tidemill.Mix(id), row)
	t.dead.add(row)
	if len(t.images) > 0 {
		t.held = append(t.held, row)
	} else {
		t.free = append(t.free, row)
	}
}

// add appends a row as it is; id must be new.
func (t *table) add(id uint64, values []float32) int {
	var row int
	if last := len(t.free) - 1; last >= 0 {
		row, t.free = t.free[last], t.free[:last]
		t.dead.remove(row)
		t.mark(row, id)
	} else {
		row = t.extend(id)
	}
	t.store(row, values)
	t.index.insert(&t.cells, tidemill.Mix(id), row)
	t.since.inserted(row)
	for _, c := range t.watchers {
		c.rows.add(row)
	}
	return row
}

// writable returns a row for writing: whoever watches the table learns that the row changes,
// and images of it keep what it was.
func (t *table) writable(row int) []float32 {
	r := t.row(row)
	t.since.changed(t, row, r)
	for _, c := range t.watchers {
		c.rows.add(row)
	}
	for _, m := range t.images {
		m.keep(row, r)
	}
	return r
}
