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
	"github.com/tidemill/tidemill/ps/optim"
)

// idOfHash is the inverse of tidemill.Mix: the id with a given hash.
func idOfHash(x uint64) uint64 {
	x ^= x>>31 ^ x>>62
	x *= 0x319642b2d24d8ec3
	x ^= x>>27 ^ x>>54
	x *= 0x96de1b173f119089
	return x ^ x>>30 ^ x>>60
}

// TestLines compares the matches of a line with a loop over its entries.
func TestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l line
		var tags [lineSlots]uint8
		l.tags[1] = rapid.Uint64().Draw(t, "passed") << 32
		passed := l.passed()
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			e := rapid.IntRange(0, lineSlots-1).Draw(t, "entry")
			tags[e] = uint8(rapid.SampledFrom([]int{0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff}).Draw(t, "tag"))
			l.set(e, tags[e], uint32(e)+1000)
			for _, tag := range append(tags[:], 3) {
				lo, hi := l.match(tag)
				first := -1
				for i, have := range tags {
					in := lo>>(8*i+7)&1 == 1
					if i >= 8 {
						in = hi>>(8*(i-8)+7)&1 == 1
					}
					if in != (have == tag) || have != l.tag(i) {
						t.Fatalf("tags %v: entry %d, tag %d: %v", tags, i, tag, in)
					}
					if in && first < 0 {
						first = i
					}
				}
				if hi>>32 != 0 || lo&low7 != 0 || hi&low7 != 0 {
					t.Fatalf("tags %v, tag %d: bits %x %x", tags, tag, lo, hi)
				}
				if row, ok := l.first(lo, hi); tag != 0 && (ok != (first >= 0) || ok && l.rows[first] != row) {
					t.Fatalf("tags %v: first with tag %d is row %d, %v; want entry %d", tags, tag, row, ok, first)
				}
			}
			if l.passed() != passed {
				t.Fatalf("%d passed, want %d", l.passed(), passed)
			}
		}
	})
}

// TestIndexIsAMap compares an index with a map, over ids that fall everywhere and over ids that
// were chosen to fall into one line or one segment.
func TestIndexIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		same := rapid.SampledFrom([]uint64{0, 0, 0xff, 0xffffffff, 0xffffffffff}).Draw(t, "bits that all hashes share")
		c, x, want := newCells(1, 1, quant.Float32), newIndex(), map[uint64]int{}
		var ids []uint64
		id := func() uint64 { return idOfHash(rng.Uint64N(4000)*0x9e3779b97f4a7c15&^same | 0x5555555555555555&same) }
		for range rapid.IntRange(0, 3000).Draw(t, "steps") {
			k := id()
			row, known := want[k]
			if !known {
				row = -1
			}
			if got := x.find(&c, k, tidemill.Mix(k)); got != row {
				t.Fatalf("id %d is row %d, want %d", k, got, row)
			}
			switch {
			case !known:
				row := c.extend(k)
				x.insert(&c, tidemill.Mix(k), row)
				want[k], ids = row, append(ids, k)
			case rng.IntN(3) == 0:
				x.remove(tidemill.Mix(k), row)
				delete(want, k)
			}
		}
		for _, k := range ids {
			row, known := want[k]
			if !known {
				row = -1
			}
			if got := x.find(&c, k, tidemill.Mix(k)); got != row {
				t.Fatalf("in the end id %d is row %d, want %d", k, got, row)
			}
		}
		n := 0
		for _, s := range x.segments {
			n += int(s.n)
		}
		if n != len(want) {
			t.Fatalf("segments count %d rows, want %d", n, len(want))
		}
		if len(ids) == len(want) { // nothing was removed
			return
		}
		for _, d := range x.dir { // with nothing in it, nothing has passed a line
			for i := range d.lines {
				for e := range lineSlots {
					if l := &d.lines[i]; l.tag(e) != 0 {
						x.remove(tidemill.Mix(c.id(int(l.rows[e]))), int(l.rows[e]))
					}
				}
			}
		}
		for _, d := range x.dir {
			for i, l := range d.lines {
				if l.tags != [2]uint64{} {
					t.Fatalf("line %d of an index of nothing has tags %x", i, l.tags)
				}
			}
		}
	})
}

// TestInsertionsMoveLittle: on the way to many rows no insertion moves more than one segment's, so
// that none takes longer than another would; and the collector has little to follow.
func TestInsertionsMoveLittle(t *testing.T) {
	const n = 400_000
	r := optim.SGD{LR: 1}
	tab := newTable(layout(r, 1, false, 0), r, 0, 7, 0, 1)
	for i := range uint64(n) {
		tab.add(i, []float32{float32(i)})
	}
	if most := segmentLines * lineSlots; tab.index.most == 0 || tab.index.most > most {
		t.Errorf("one insertion moved %d rows, %d are allowed", tab.index.most, most)
	}
	if pointers := len(tab.index.dir) + len(tab.chunks); pointers > n/1000 {
		t.Errorf("%d pointers for %d rows", pointers, n)
	}
	lines := 0
	for i, s := range tab.index.segments {
		in := tab.index.dir[s.low].lines
		lines += len(in)
		if tab.index.dir[s.low].segment != uint32(i) || len(in) > segmentLines {
			t.Errorf("segment %d has %d lines", i, len(in))
		}
	}
	if perRow := 64 * float64(lines) / n; perRow > 9 { // an entry takes 64/12 bytes, and 7 of 12 are in use
		t.Errorf("%.1f bytes of index for a row", perRow)
	}
	for i := range uint64(n) {
		if row := tab.find(i); row < 0 || tab.row(row)[0] != float32(i) {
			t.Fatalf("id %d is row %d", i, row)
		}
	}
}

// TestTableTwin pulls and pushes batches, with ids that come twice and ids that nobody knows, to
// one to seven shards: all rows, and all that is pulled, must be those of a map.
func TestTableTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 5))
		ru, err := optim.New(choices[rng.IntN(len(choices))])
		if err != nil {
			t.Fatal(err)
		}
		dim, v := 1+rng.IntN(20), 1+rng.IntN(7)
		l := layout(ru, dim, rng.IntN(2) == 0, 0)
		l.Values = quant.Names()[rng.IntN(4)]
		j := &job{model: &model.Model{Layout: snapshot.Layout{Tables: []snapshot.TableLayout{l, l}}}}
		refs := make([]*naive, 2)
		for s := range v {
			sh := &shard{number: s}
			for range refs {
				sh.tables = append(sh.tables, newTable(l, ru, 0.99, seed, s, v))
			}
			j.shards = append(j.shards, sh)
		}
		for i := range refs {
			refs[i] = &naive{layout: l, rule: ru, decay: 0.99, rows: map[uint64][]float32{}}
		}
		examples, pulls, pushes := int64(0), int64(0), int64(0)
		known := 1 + rng.Uint64N(3000)
		ids := func() []uint64 {
			out := make([]uint64, rng.IntN(300))
			for i := range out {
				out[i] = tidemill.Mix(rng.Uint64N(known))
			}
			return out
		}
		for range 12 {
			table := rng.IntN(2)
			ref := refs[table]
			in := ids()
			grads := make([]float32, len(in)*dim)
			for i := range grads {
				grads[i] = float32(rng.NormFloat64())
			}
			k := 1 + rng.Int64N(9)
			j.updateRows(table, in, grads, 1, examples, k)
			for i, id := range in {
				ref.apply(seed, id, grads[i*dim:(i+1)*dim], examples, k)
			}
			examples, pushes = examples+k, pushes+int64(len(in))

			in = ids()
			got, want := make([]float32, len(in)*dim), make([]float32, dim)
			if !j.readRows(table, got, in) {
				t.Fatal("a shard is missing")
			}
			pulls += int64(len(in))
			for i, id := range in {
				if row, ok := ref.rows[id]; ok {
					copy(want, row)
				} else {
					l.Init.Fill(want, seed, tidemill.Hash(l.Name), id, 0)
				}
				if !slices.Equal(bitsOf(got[i*dim:(i+1)*dim]), bitsOf(want)) {
					t.Fatalf("pull of %d is %v, want %v", id, got[i*dim:(i+1)*dim], want)
				}
			}
		}
		for table, ref := range refs {
			rows := 0
			for _, s := range j.shards {
				tab := s.tables[table]
				rows += tab.n
				for row := range tab.n {
					if tidemill.ShardOf(tab.id(row), v) != s.number || !slices.Equal(bitsOf(tab.row(row)), bitsOf(ref.rows[tab.id(row)])) {
						t.Fatalf("row %d of shard %d is %v, want %v", tab.id(row), s.number, tab.row(row), ref.rows[tab.id(row)])
					}
				}
			}
			if rows != len(ref.rows) {
				t.Fatalf("%d rows, want %d", rows, len(ref.rows))
			}
		}
		for _, s := range j.shards {
			pulls, pushes = pulls-s.pulled, pushes-s.pushed
		}
		if pulls != 0 || pushes != 0 {
			t.Fatalf("%d pulls and %d pushes are not counted", pulls, pushes)
		}
		if v > 1 { // a shard that is not here
			j.shards[rng.IntN(v)] = nil
			if j.readRows(0, make([]float32, 1000*dim), slices.Repeat([]uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 100)) && v < 4 {
				t.Fatal("ids of a shard that is elsewhere were read")
			}
		}
	})
}
