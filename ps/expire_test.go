package ps

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/optim"
)

// naiveExpiry is what Expiry says, row by row and example by example.
type naiveExpiry struct {
	rule tidemill.Expiry
	uses map[uint64]int
	old  map[uint64]bool // looked at before
}

func sliceOf(id uint64) int64 {
	h := tidemill.Mix(id)
	return int64(h&15 | uint64(tagOf(h)>>4)<<4)
}

// after looks at rows once a batch of k examples after before was applied, and calls remove.
func (n *naiveExpiry) after(before, k int64, remove func(id uint64)) {
	for id := range n.uses {
		due := false
		for e := before + 1; e <= before+k && !due; e++ {
			// The slice's moment is the first example by which a share of Every has passed.
			for look := (e - 1) * slicesOfRows / n.rule.Every; look < e*slicesOfRows/n.rule.Every; look++ {
				due = due || look%slicesOfRows == sliceOf(id)
			}
		}
		switch {
		case !due:
		case n.old[id] && n.uses[id] < max(1, n.rule.Uses):
			delete(n.uses, id)
			delete(n.old, id)
			remove(id)
		default:
			n.uses[id], n.old[id] = 0, true
		}
	}
}

// TestRowsExpire applies batches to one to five shards: at every moment the rows that are there
// must be those that a loop over all of them would leave, whatever the number of shards.
func TestRowsExpire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 6))
		r := optim.SGD{LR: 0.5}
		l := layout(r, 2, false, 0)
		l.Expire, l.Uses = tidemill.Expiry{Every: 100 + rng.Int64N(2000), Uses: rng.IntN(3)}, true
		v := 1 + rng.IntN(5)
		j := &job{model: &model.Model{Layout: snapshot.Layout{Tables: []snapshot.TableLayout{l}}}}
		for s := range v {
			j.shards = append(j.shards, &shard{number: s, tables: []*table{newTable(l, r, 0, seed, s, v)}})
		}
		plain := layout(r, 2, false, 0)
		ref := &naive{layout: plain, rule: r, rows: map[uint64][]float32{}}
		exp := &naiveExpiry{l.Expire, map[uint64]int{}, map[uint64]bool{}}
		examples, gone, back := int64(0), map[uint64]bool{}, 0
		for range 40 {
			k := 1 + rng.Int64N(200)
			ids := make([]uint64, rng.IntN(60))
			for i := range ids {
				ids[i] = rng.Uint64N(1 + rng.Uint64N(3000))
			}
			grads := make([]float32, 2*len(ids))
			for i := range grads {
				grads[i] = float32(rng.NormFloat64())
			}
			j.updateRows(0, ids, grads, 1, examples, k)
			for i, id := range ids {
				if gone[id] {
					back++
					delete(gone, id)
				}
				ref.apply(seed, id, grads[2*i:2*i+2], examples, k)
				exp.uses[id]++
			}
			for _, s := range j.shards {
				s.tables[0].expire(examples, k)
			}
			exp.after(examples, k, func(id uint64) {
				delete(ref.rows, id)
				gone[id] = true
			})
			examples += k
			rows := 0
			for _, s := range j.shards {
				rows += s.tables[0].rows()
			}
			if rows != len(ref.rows) {
				t.Fatalf("%d rows after %d examples, want %d", rows, examples, len(ref.rows))
			}
			for id, want := range ref.rows {
				tab := j.shards[tidemill.ShardOf(id, v)].tables[0]
				row := tab.find(id)
				if row < 0 || !slices.Equal(bitsOf(tab.row(row)[:2]), bitsOf(want)) {
					t.Fatalf("after %d examples id %d is row %d", examples, id, row)
				}
			}
		}
		for _, s := range j.shards {
			if tab := s.tables[0]; len(tab.free)+len(tab.held) != tab.dead.len() || tab.rows()+len(tab.free)+len(tab.held) != tab.n {
				t.Fatalf("%d cells, %d rows, %d free", tab.n, tab.rows(), len(tab.free))
			}
		}
	})
}

// TestCellsOfImages: the cell of a row that went is used again, but not while an image may read it.
func TestCellsOfImages(t *testing.T) {
	r := optim.SGD{LR: 1}
	l := layout(r, 1, false, 0)
	l.Uses = true
	tab := newTable(l, r, 0, 1, 0, 1)
	h := &history{}
	for id := range uint64(10) {
		tab.apply(id, []float32{1}, 1, 0, 1)
	}
	first := slices.Clone(tab.row(tab.find(3)))
	img := tab.capture(&h.mu)
	tab.remove(tab.find(3))
	tab.apply(100, []float32{1}, 1, 0, 1)
	if tab.n != 11 || tab.rows() != 10 || tab.find(3) >= 0 {
		t.Fatalf("%d cells and %d rows while an image is held", tab.n, tab.rows())
	}
	late := tab.capture(&h.mu)
	found := false
	for id, row := range img.all() {
		found = found || id == 3 && slices.Equal(bitsOf(row), bitsOf(first))
	}
	if !found || img.Len() != 10 {
		t.Errorf("an image of %d rows lost the one that went", img.Len())
	}
	img.release()
	late.release()
	late = tab.capture(&h.mu)
	tab.apply(101, []float32{1}, 1, 0, 1)
	if tab.n != 11 || tab.rows() != 11 || tab.id(3) != 101 {
		t.Errorf("the free cell was not used again: %d cells, %d rows", tab.n, tab.rows())
	}
	if late.Len() != 10 {
		t.Errorf("an image of 10 rows has %d", late.Len())
	}
	for id := range late.all() {
		if id == 101 || id == 3 {
			t.Errorf("an image has row %d", id)
		}
	}
}

// TestCopiesLoseRowsToo: what is copied of a shard while rows come, change, go and come back is, in
// the end, what the shard is.
func TestCopiesLoseRowsToo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 7))
		r := optim.Adagrad{LR: 0.1, Initial: 0.1, Epsilon: 1e-10}
		l := layout(r, 3, false, 0)
		l.Uses, l.Values = true, quant.Names()[rng.IntN(4)]
		m := &model.Model{Layout: snapshot.Layout{Tables: []snapshot.TableLayout{l}}}
		shardOf := func() *shard { return &shard{tables: []*table{newTable(l, r, 0, seed, 0, 1)}} }
		j := &job{model: m, shards: []*shard{shardOf()}, handouts: map[int]*handout{}}
		from, to := j.shards[0].tables[0], &arrival{model: m, shard: shardOf()}
		change := func() {
			for range rng.IntN(200) {
				id := rng.Uint64N(150)
				if row := from.find(id); row >= 0 && rng.IntN(3) == 0 {
					from.remove(row)
				} else {
					from.apply(id, []float32{1, 2, float32(rng.NormFloat64())}, 1, 0, 1)
				}
			}
		}
		change()
		passes := 2 + rng.IntN(4)
		for pass := range passes {
			e := &Effect{Kind: Give, Whole: pass == 0, Copy: uint64(pass + 1)}
			if pass == passes-1 {
				e.Kind, e.Ledger = GiveRest, &wire.Ledger{}
			}
			g, err := j.give(e)
			if err != nil {
				t.Fatal(err)
			}
			if e.Kind == Give {
				change() // while it is sent
			}
			if err := g.send(func() int64 { return 0 }, func(p *wire.Piece) error {
				message, err := pieceMessage(p)
				if err != nil {
					return err
				}
				got, err := pieceOf(message)
				if err != nil {
					return err
				}
				return to.take(got)
			}); err != nil {
				t.Fatal(err)
			}
			g.release()
			if e.Kind == Give {
				change()
			}
		}
		copied := to.shard.tables[0]
		for row := range from.n {
			if id := from.id(row); !from.dead.has(row) {
				if at := copied.find(id); at < 0 || !slices.Equal(bitsOf(copied.row(at)), bitsOf(from.row(row))) {
					t.Fatalf("row %d is not in the copy as it is", id)
				}
			}
		}
		if copied.rows() != from.rows() {
			t.Fatalf("%d rows in the copy of %d", copied.rows(), from.rows())
		}
	})
}
