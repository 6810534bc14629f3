package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// clock answers pulls with the time of the pull in every value, and refuses some.
type clock struct {
	wire.PS
	now    float32
	refuse error
	pulled int
}

func (c *clock) Pull(_ context.Context, req *wire.PullRequest, into *wire.PullReply) error {
	if c.refuse != nil {
		return c.refuse
	}
	for len(into.Rows) < len(req.IDs) {
		into.Rows = append(into.Rows, nil)
	}
	for t, ids := range req.IDs {
		into.Rows[t] = into.Rows[t][:0]
		for _, id := range ids {
			into.Rows[t] = append(into.Rows[t], float32(id), c.now)
			c.pulled++
		}
	}
	return nil
}

var twoTables = []snapshot.TableLayout{{TableSpec: tidemill.TableSpec{Name: "a", Dim: 2}}, {TableSpec: tidemill.TableSpec{Name: "b", Dim: 2}}}

// A batch gets each of its rows in its place, as it was at a pull that it may use, and exactly
// those that no copy may be used of are asked for.
func TestKeptRowsFillTheirPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most, peers := rapid.IntRange(1, 20).Draw(t, "most"), rapid.IntRange(1, 3).Draw(t, "peers")
		h := newHotRows(most, peers, twoTables)
		servers := make([]*clock, peers)
		replies := make([]wire.PullReply, peers)
		for i := range servers {
			servers[i] = &clock{}
		}
		for number := int64(1); number <= 40; number++ {
			b := Batch{Number: number, Oldest: number - int64(rapid.IntRange(-1, 4).Draw(t, "age"))}
			for i, ps := range servers {
				ps.now = float32(number)
				var ids [2][]uint64
				for k := range ids {
					for _, x := range rapid.SliceOfNDistinct(rapid.IntRange(0, 15), 0, 10, rapid.ID[int]).Draw(t, "ids") {
						ids[k] = append(ids[k], uint64(x*peers+i))
					}
				}
				want := [][]uint64{append([]uint64(nil), ids[0]...), append([]uint64(nil), ids[1]...)}
				req := wire.PullRequest{IDs: [][]uint64{ids[0], ids[1]}}
				if rapid.IntRange(0, 5).Draw(t, "refuse") == 0 {
					ps.refuse = tidemill.ErrNotReady
					if _, err := h.pull(t.Context(), ps, i, &b, &req, &replies[i]); !errors.Is(err, tidemill.ErrNotReady) {
						t.Fatalf("a refused pull: %v", err)
					}
					ps.refuse = nil
					req = wire.PullRequest{IDs: [][]uint64{ids[0], ids[1]}}
				}
				before := ps.pulled
				kept, err := h.pull(t.Context(), ps, i, &b, &req, &replies[i])
				if err != nil {
					t.Fatal(err)
				}
				if n := len(want[0]) + len(want[1]); ps.pulled-before+kept != n {
					t.Fatalf("%d rows pulled and %d kept of %d", ps.pulled-before, kept, n)
				}
				for k := range want {
					rows := replies[i].Rows[k]
					if len(rows) != 2*len(want[k]) {
						t.Fatalf("%d values for %d rows", len(rows), len(want[k]))
					}
					for j, id := range want[k] {
						if rows[2*j] != float32(id) {
							t.Fatalf("row %d of table %d is %v, not %d's", j, k, rows[2*j], id)
						}
						if at := int64(rows[2*j+1]); at != number && at < b.Oldest {
							t.Fatalf("batch %d uses a row pulled for %d, the oldest it may is %d", number, at, b.Oldest)
						}
					}
				}
			}
			if len(h.rows) > most || len(h.index[0])+len(h.index[1]) != len(h.rows) {
				t.Fatalf("%d rows are kept, %d known, at most %d", len(h.rows), len(h.index[0])+len(h.index[1]), most)
			}
		}
	})
}

// Of many rows, those that batches ask for most stay, although each batch brings others.
func TestTheHottestRowsStay(t *testing.T) {
	const hot = 50
	h := newHotRows(hot, 1, twoTables[:1])
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 10, 1_000_000)
	ps, reply := &clock{}, wire.PullReply{}
	var asked, kept int
	for number := int64(1); number <= 400; number++ {
		seen := map[uint64]bool{}
		var ids []uint64
		for range 500 {
			if id := zipf.Uint64(); !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
		n, err := h.pull(t.Context(), ps, 0, &Batch{Number: number, Oldest: number - 4}, &wire.PullRequest{IDs: [][]uint64{ids}}, &reply)
		if err != nil {
			t.Fatal(err)
		}
		if number > 100 {
			kept += n
			for id := range uint64(20) {
				if seen[id] {
					asked++
				}
			}
		}
	}
	// The twenty hottest are in almost every batch, and a copy serves four of five.
	if kept < asked/2 {
		t.Errorf("%d rows came from copies; the twenty hottest alone were asked for %d times", kept, asked)
	}
}

func TestKeeps(t *testing.T) {
	for _, c := range []struct {
		t    tidemill.TrainSpec
		want int
	}{
		{tidemill.TrainSpec{Staleness: 4}, 0},
		{tidemill.TrainSpec{Staleness: 4, HotRows: 10}, 4},
		{tidemill.TrainSpec{Staleness: 4, HotRows: 10, HotBatches: 2}, 2},
		{tidemill.TrainSpec{Staleness: -1, HotRows: 10, HotBatches: 7}, 7},
		{tidemill.TrainSpec{Staleness: -1, HotRows: 10}, 0},
		{tidemill.TrainSpec{HotRows: 10, HotBatches: 2}, 0},
	} {
		if got := Keeps(&c.t); got != c.want {
			t.Errorf("%+v: %d, not %d", c.t, got, c.want)
		}
	}
}

// At staleness 0, or without Keep, no batch may use what another one pulled.
func TestNothingIsKeptInRounds(t *testing.T) {
	for _, cfg := range []CoreConfig{{PS: 1, Keep: 3}, {PS: 1, Staleness: 3}} {
		c := NewCore(cfg)
		c.Step(&Event{Kind: Begin})
		c.Step(&Event{Kind: Fenced})
		es := c.Step(&Event{Kind: Granted, Run: run(1, 3, tidemill.PartRun{Step: 4})})
		for range 3 {
			if b := es[len(es)-1].Batch; es[len(es)-1].Kind != SendPull || b.Oldest <= b.Number {
				t.Fatalf("%+v: batch %d may use what was pulled for %d", cfg, b.Number, b.Oldest)
			}
			c.Step(&Event{Kind: Pulled})
			c.Step(&Event{Kind: Computed})
			es = c.Step(&Event{Kind: Pushed})
		}
	}
}
