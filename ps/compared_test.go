package ps

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// move lets another table, with other row numbers, take over the rows and what is known of them, by
// way of a message.
func (h *history) move() {
	s := h.tab.compared()
	h.tab = newTable(h.layout.Tables[0], h.rule, 0.99, 7, 0, 1)
	ids := slices.Sorted(maps.Keys(h.now))
	h.rng.Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
	for _, id := range ids {
		h.tab.add(id, h.now[id])
	}
	if s == nil {
		h.tab.since.forget()
		return
	}
	m, err := sinceMessage(s)
	h.must(err)
	data, err := proto.Marshal(m)
	h.must(err)
	var got pspb.Since
	h.must(proto.Unmarshal(data, &got))
	s, err = sinceOf(&got)
	h.must(err)
	if !h.tab.resume(s) {
		h.t.Fatalf("what came of a table's snapshots does not fit its rows: %+v", s)
	}
}

// A snapshot after a handover writes a few rows on top of what the former owner's snapshots hold.
func TestAMovedTableWritesWhatChanged(t *testing.T) {
	h := newHistory(t, rand.New(rand.NewPCG(3, 4)))
	defer h.bucket.Close()
	h.apply(2000)
	h.snapshot("committed")
	whole := h.part.Blobs[0]
	h.move()
	h.snapshot("written") // and not committed: its rows are written again
	h.move()
	h.snapshot("committed")
	if len(h.part.Blobs) != 2 || h.part.Blobs[0].Name != whole.Name || h.part.Blobs[1].Rows > whole.Rows/2 {
		t.Fatalf("after a few changes of %d rows the moved table was written as %+v", whole.Rows, h.part.Blobs)
	}
}

// What speaks of rows that are not there is refused, and leaves no trace.
func TestWhatDoesNotFitIsForgotten(t *testing.T) {
	h := newHistory(t, rand.New(rand.NewPCG(5, 6)))
	defer h.bucket.Close()
	h.apply(50)
	for _, s := range []*wire.Since{{Rows: []uint64{1 << 40}}, {Tried: &wire.Tried{Rows: []uint64{1 << 40}}}} {
		before := h.tab.since
		if h.tab.resume(s) || h.tab.since.base != before.base || h.tab.since.tried != before.tried || h.tab.since.rows.len() != before.rows.len() {
			t.Errorf("%+v was taken", s)
		}
	}
	if s := h.tab.compared(); s != nil {
		t.Errorf("a table that no snapshot holds says %+v", s)
	}
}
