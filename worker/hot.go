package worker

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// hotRows keeps copies of the rows that a partition asks for most often, so that not every batch
// pulls them from the one shard that owns them. Which batch may use which copy is its Core's to
// say (Batch.Oldest); what is kept is only ever read, gradients still go to the owner.
//
// Rows are kept by how often batches asked for them lately, as a small sketch estimates: one that
// is asked for more often takes the place of one that is less. The choice depends on the batches
// alone. Memory: about 8·(dim+8) bytes a row.
type hotRows struct {
	most int   // rows kept, over all tables
	dims []int // by table

	mu     sync.Mutex // guards the rest: the pulls of a batch go to all ps at once
	index  []map[uint64]int32
	rows   []hotRow
	hand   int // where the next row to be replaced is looked for
	counts sketch
	seen   int64 // the newest batch that was counted
	asked  []hotAsk
}

type hotRow struct {
	table  int
	id     uint64
	pulled int64 // number of the batch that it was pulled for
	values []float32
}

// hotAsk is one ps's share of the batch in hand.
type hotAsk struct {
	ids  [][]uint64  // by table: what has to be pulled
	full [][]float32 // by table: all rows that are needed
	at   [][]int32   // by table and needed row: index of its copy, or -1
}

// newHotRows returns an empty store of at most most rows, at least one, of tables that peers hold.
func newHotRows(most, peers int, tables []snapshot.TableLayout) *hotRows {
	dims := make([]int, len(tables))
	for t := range tables {
		dims[t] = tables[t].Dim
	}
	h := &hotRows{most: most, dims: dims, index: make([]map[uint64]int32, len(dims)), counts: newSketch(most), asked: make([]hotAsk, peers)}
	for t := range h.index {
		h.index[t] = map[uint64]int32{}
	}
	for i := range h.asked {
		h.asked[i] = hotAsk{make([][]uint64, len(dims)), make([][]float32, len(dims)), make([][]int32, len(dims))}
	}
	return h
}

// pull asks ps number peer for those of ids that b may not use a copy of, and fills reply as if
// all had been pulled. Different ps may be asked at the same time. It returns how many rows came
// from copies.
func (h *hotRows) pull(ctx context.Context, ps wire.PS, peer int, b *Batch, req *wire.PullRequest, reply *wire.PullReply) (kept int, err error) {
	a, ids := &h.asked[peer], req.IDs
	h.mu.Lock()
	for t, ids := range ids {
		a.ids[t], a.at[t] = a.ids[t][:0], a.at[t][:0]
		dim := h.dims[t]
		a.full[t] = grown(a.full[t], len(ids)*dim)
		for k, id := range ids {
			at, ok := h.index[t][id]
			if ok && h.rows[at].pulled >= b.Oldest {
				// Copied now: another ps's answer may give its place to another row.
				copy(a.full[t][k*dim:(k+1)*dim], h.rows[at].values)
				a.at[t] = append(a.at[t], at)
				kept++
				continue
			}
			a.at[t] = append(a.at[t], -1)
			a.ids[t] = append(a.ids[t], id)
		}
	}
	h.mu.Unlock()
	req.IDs = a.ids
	if err := ps.Pull(ctx, req, reply); err != nil {
		return 0, err
	}
	if len(reply.Rows) != len(ids) {
		return 0, fmt.Errorf("pull: %d tables instead of %d: %w", len(reply.Rows), len(ids), tidemill.ErrCorrupt)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.age(b.Number)
	for t, ids := range ids {
		dim, n := h.dims[t], 0
		got := reply.Rows[t]
		if len(got) != len(a.ids[t])*dim {
			return 0, fmt.Errorf("pull: %d values for %d rows of %d: %w", len(got), len(a.ids[t]), dim, tidemill.ErrCorrupt)
		}
		for k, id := range ids {
			times := h.counts.add(uint64(t), id)
			if a.at[t][k] >= 0 {
				continue
			}
			values := got[n*dim : (n+1)*dim]
			n++
			copy(a.full[t][k*dim:(k+1)*dim], values)
			h.keep(t, id, values, b.Number, times)
		}
		// The reply owns what it is filled with, and this ps's share is filled anew next time.
		reply.Rows[t], a.full[t] = a.full[t], got
	}
	return kept, nil
}

// keep stores a row that was pulled for a batch, asked for times lately, if it is or becomes one
// of those that are kept. mu is held.
func (h *hotRows) keep(table int, id uint64, values []float32, batch int64, times uint8) {
	at, ok := h.index[table][id]
	switch {
	case ok:
	case times < 2:
		return // most ids are never seen again
	case len(h.rows) < h.most:
		at = int32(len(h.rows))
		h.rows = append(h.rows, hotRow{table: table, id: id})
		h.index[table][id] = at
	default:
		if at = h.coldest(); h.counts.of(uint64(h.rows[at].table), h.rows[at].id) >= times {
			return
		}
		delete(h.index[h.rows[at].table], h.rows[at].id)
		h.rows[at].table, h.rows[at].id = table, id
		h.index[table][id] = at
	}
	r := &h.rows[at]
	r.pulled = batch
	r.values = append(r.values[:0], values...)
}

// coldest returns the least asked for of a few rows in turn. mu is held.
func (h *hotRows) coldest() int32 {
	const look = 8
	best, least := int32(0), 256
	for range min(look, len(h.rows)) {
		r := &h.rows[h.hand]
		if n := int(h.counts.of(uint64(r.table), r.id)); n < least {
			best, least = int32(h.hand), n
		}
		h.hand = (h.hand + 1) % len(h.rows)
	}
	return best
}

// forget is how many batches pass until what was counted weighs half.
const forget = 16

// age lets counts fade. mu is held.
func (h *hotRows) age(batch int64) {
	if batch > h.seen && batch/forget > h.seen/forget {
		h.counts.halve()
	}
	h.seen = max(h.seen, batch)
}

func grown(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

// sketch estimates how often a key was added: never less than it was since the counts were
// halved, up to 255 (Cormode and Muthukrishnan, J. Algorithms 2005, with conservative update).
type sketch struct {
	mask  uint64
	lines [sketchDepth][]uint8
}

const sketchDepth = 4

// newSketch returns a sketch that tells the n most frequent of many keys from the others.
func newSketch(n int) sketch {
	width := uint64(64)
	for width < 8*uint64(n) {
		width *= 2
	}
	s := sketch{mask: width - 1}
	for i := range s.lines {
		s.lines[i] = make([]uint8, width)
	}
	return s
}

// at returns where key has its counts: two halves of one hash make all.
func (s *sketch) at(table, id uint64) (at [sketchDepth]uint64) {
	x := tidemill.Mix(id ^ tidemill.Mix(table+1))
	step := x>>32 | 1
	for i := range at {
		at[i] = x & s.mask
		x += step
	}
	return at
}

// of returns the estimate for a key.
func (s *sketch) of(table, id uint64) uint8 {
	least := uint8(255)
	for i, at := range s.at(table, id) {
		least = min(least, s.lines[i][at])
	}
	return least
}

// add counts a key once and returns the estimate.
func (s *sketch) add(table, id uint64) uint8 {
	places := s.at(table, id)
	least := uint8(255)
	for i, at := range places {
		least = min(least, s.lines[i][at])
	}
	if least == 255 {
		return least
	}
	for i, at := range places {
		s.lines[i][at] = max(s.lines[i][at], least+1)
	}
	return least + 1
}

func (s *sketch) halve() {
	for i := range s.lines {
		for k := range s.lines[i] {
			s.lines[i][k] /= 2
		}
	}
}
