package ps

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// history is a table whose snapshots are taken, and a map of what the table must hold.
type history struct {
	t      rapid.TB
	rng    *rand.Rand
	bucket *blob.Bucket
	layout snapshot.Layout
	rule   optim.Rule
	mu     sync.Mutex
	tab    *table
	now    map[uint64][]float32
	number int64
	base   int64 // committed last
	tries  int   // blobs' names differ by it
	// Of the committed snapshot.
	held map[uint64][]float32
	part snapshot.Part
	// layers is the largest number of blobs that a part had.
	layers int
}

func newHistory(t rapid.TB, rng *rand.Rand) *history {
	r := optim.Adagrad{LR: 0.1, Initial: 0.1, Epsilon: 1e-10}
	// Wide rows, so that a few hundred are more than the size below which everything is written.
	l := layout(r, 64, rng.IntN(2) == 0, 0)
	l.Uses = rng.IntN(2) == 0
	l.Values = quant.Names()[rng.IntN(4)]
	h := &history{t: t, rng: rng, bucket: memblob.OpenBucket(nil), layout: snapshot.Layout{Tables: []snapshot.TableLayout{l}}, rule: r,
		now: map[uint64][]float32{}, held: map[uint64][]float32{}}
	h.tab = newTable(l, r, 0.99, 7, 0, 1)
	return h
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) apply(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	grad := make([]float32, 64)
	for range n {
		id := h.rng.Uint64N(600)
		for i := range grad {
			grad[i] = float32(h.rng.NormFloat64())
		}
		h.tab.apply(id, grad, 1, 0, 1)
		h.now[id] = slices.Clone(h.tab.row(h.tab.find(id)))
	}
}

// remove takes a few rows away, where rows can go.
func (h *history) remove(n int) {
	if !h.layout.Tables[0].Uses {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for range n {
		id := h.rng.Uint64N(600)
		if row := h.tab.find(id); row >= 0 {
			h.tab.remove(row)
			delete(h.now, id)
		}
	}
}

// snapshot captures, trains on while it is written, and ends as fate says: "committed",
// "written" and never committed, or "lost" before it was written.
func (h *history) snapshot(fate string) {
	h.number++
	h.mu.Lock()
	h.tab.since.settle(h.base == h.number-1)
	img, rows := h.tab.freeze(&h.mu)
	want := maps.Clone(h.now)
	h.mu.Unlock()
	h.remove(h.rng.IntN(9))
	h.apply(h.rng.IntN(80))
	h.remove(h.rng.IntN(9))
	if fate != "lost" {
		h.tries++
		prefix := fmt.Sprintf("p/%09d/a%d-", h.number, h.tries)
		part, err := snapshot.WritePart(context.Background(), h.bucket, prefix, h.layout, []snapshot.ShardImage{{Tables: []snapshot.TableImage{img}}})
		h.must(err)
		h.compare(part, want)
		rows.tried.wrote = &base{part.Base(0, "t"), rows.tried.sum}
		h.layers = max(h.layers, len(part.Blobs))
		if fate == "committed" {
			h.base, h.part, h.held = h.number, part, want
		}
	}
	h.mu.Lock()
	rows.release()
	h.mu.Unlock()
}

// compare reads a part back: it must hold want, and have want's digest.
func (h *history) compare(part snapshot.Part, want map[uint64][]float32) {
	h.t.Helper()
	got := rowSink{width: h.layout.Tables[0].Width(), rows: map[uint64][]float32{}}
	h.must(snapshot.ReadParts(context.Background(), h.bucket, []snapshot.Part{part}, h.layout, nil, &got))
	if !maps.EqualFunc(got.rows, want, func(a, b []float32) bool { return slices.Equal(bitsOf(a), bitsOf(b)) }) {
		h.t.Fatalf("snapshot %d holds %d rows that differ from the %d there were", h.number, len(got.rows), len(want))
	}
	var sum snapshot.Digest
	for id, row := range want {
		sum.AddRow(h.tab.name, id, row)
	}
	if part.Digest != sum {
		h.t.Fatalf("snapshot %d has digest %s, want %s", h.number, part.Digest, sum)
	}
}

// restore begins again from the committed snapshot, as another process would.
func (h *history) restore() {
	h.tab = newTable(h.layout.Tables[0], h.rule, 0.99, 7, 0, 1)
	h.now = map[uint64][]float32{}
	if h.base == 0 {
		return
	}
	got := rowSink{width: h.tab.width, rows: map[uint64][]float32{}, load: h.tab}
	h.must(snapshot.ReadParts(context.Background(), h.bucket, []snapshot.Part{h.part}, h.layout, nil, &got))
	h.tab.since.loaded(&base{h.part.Base(0, "t"), h.part.Digest})
	h.now = maps.Clone(h.held)
	h.number = h.base
	if h.rng.IntN(2) == 0 {
		h.number += 3 // fence records took numbers
		h.base = h.number
	}
}

type rowSink struct {
	width int
	rows  map[uint64][]float32
	load  *table
}

func (s *rowSink) Rows(_, _ int, ids []uint64, rows []float32) error {
	for i, id := range ids {
		row := rows[i*s.width : (i+1)*s.width]
		if s.rows[id] != nil {
			return fmt.Errorf("row %d twice", id)
		}
		s.rows[id] = slices.Clone(row)
		if s.load != nil {
			s.load.add(id, row)
		}
	}
	return nil
}
func (*rowSink) Block(int, snapshot.Block) error { return nil }
func (*rowSink) Aux(int, string, []byte) error   { return nil }

// TestSnapshotsOfWhatChanged: whatever is trained while a snapshot is written, whichever
// snapshots fail, and wherever training begins again, what is read back is the table as it was
// when captured, and its digest that of all rows.
func TestSnapshotsOfWhatChanged(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.Uint64().Draw(r, "seed")
		h := newHistory(r, rand.New(rand.NewPCG(seed, 9)))
		defer h.bucket.Close()
		h.apply(300)
		for range 12 {
			switch h.rng.IntN(9) {
			case 0:
				h.restore()
			case 8:
				h.move()
			case 1:
				h.snapshot("lost")
			case 2:
				h.snapshot("written")
			default:
				h.snapshot("committed")
			}
			h.remove(h.rng.IntN(30))
			h.apply(h.rng.IntN(60))
			h.remove(h.rng.IntN(9))
		}
	})
}

// TestOnlyWhatChanged: a snapshot after a few changes writes a few rows on top of what is there,
// and in the end everything is written anew instead.
func TestOnlyWhatChanged(t *testing.T) {
	h := newHistory(t, rand.New(rand.NewPCG(3, 4)))
	defer h.bucket.Close()
	h.apply(2000)
	h.snapshot("committed")
	full := h.part.Blobs[0].Bytes
	reset := 0
	for range 150 {
		h.apply(5)
		before := len(h.part.Blobs)
		h.snapshot("committed")
		var total int64
		for _, b := range h.part.Blobs {
			total += b.Bytes
		}
		if total > 2*full+(512<<10) {
			t.Fatalf("a restore of %d bytes reads %d", full, total)
		}
		if len(h.part.Blobs) < before {
			reset++
		} else if last := h.part.Blobs[len(h.part.Blobs)-1]; last.Bytes > full/2 {
			t.Fatalf("%d bytes written of %d after a few changes", last.Bytes, full)
		}
	}
	if h.layers < 3 || reset == 0 {
		t.Errorf("at most %d layers, and %d times all was written anew", h.layers, reset)
	}
}
