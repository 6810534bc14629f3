package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// TestLayers writes a history of changes and removals, each snapshot on top of the one before,
// by one or two servers between which shards move. Every snapshot must read back as what it
// was, with the digest of all its rows, and stay readable when later ones are written.
func TestLayers(t *testing.T) {
	layers := 0
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 5))
		s := state{v: 3, layout: Layout{Tables: []TableLayout{{TableSpec: tidemill.TableSpec{Name: "t", Dim: 60}, State: 4, Average: rng.IntN(2) == 0}}},
			rows: []map[int]map[uint64][]float32{{0: {}, 1: {}, 2: {}}}}
		width := s.layout.Tables[0].Width()
		b := memblob.OpenBucket(nil)
		defer b.Close()
		var last []Part // of the committed snapshot
		changed, removed := map[uint64]bool{}, map[uint64]bool{}
		old := map[uint64][]float32{} // rows as in the committed snapshot
		put := func(id uint64) {
			shard := tidemill.ShardOf(id, s.v)
			s.rows[0][shard][id] = values(rng, width)
			changed[id] = true
			delete(removed, id)
		}
		for range 350 {
			put(rng.Uint64N(1200))
		}
		for number := int64(1); number <= 6; number++ {
			var parts []Part
			servers := 1 + rng.IntN(2)
			for p := range servers {
				var images []ShardImage
				for shard := range s.v {
					if (shard+int(number))%servers != p {
						continue
					}
					img := TableImage{Rows: newTestRows(width, s.rows[0][shard], changed, rng)}
					for _, q := range last {
						if slices.Contains(q.Shards, shard) {
							img.Base = q.Base(shard, "t")
							img.Clean, _ = ShardDigest(last, shard)
						}
					}
					for id, row := range old {
						if tidemill.ShardOf(id, s.v) != shard {
							continue
						}
						if changed[id] || removed[id] {
							img.Clean.SubRow(tidemill.Hash("t"), id, row)
						}
						if removed[id] {
							img.Removed = append(img.Removed, id)
						}
					}
					images = append(images, ShardImage{Shard: shard, Tables: []TableImage{img}})
				}
				part, err := WritePart(ctx, b, fmt.Sprintf("p/%09d/ps%d-", number, p), s.layout, images)
				if err != nil {
					r.Fatal(err)
				}
				parts = append(parts, part)
				layers = max(layers, len(part.Blobs))
			}
			c := newCollector(s.layout, s.v)
			if err := ReadParts(ctx, b, parts, s.layout, nil, c); err != nil {
				r.Fatal(err)
			}
			for shard, want := range s.rows[0] {
				if !maps.EqualFunc(c.rows[0][shard], want, sameBits) && len(c.rows[0][shard])+len(want) > 0 {
					r.Fatalf("shard %d of snapshot %d reads back otherwise", shard, number)
				}
			}
			if got, want := SumParts(parts), s.digest(); got != want {
				r.Fatalf("snapshot %d has digest %s, want %s", number, got, want)
			}
			if rng.IntN(4) > 0 { // committed
				last = parts
				clear(changed)
				clear(removed)
				clear(old)
				for _, rows := range s.rows[0] {
					maps.Copy(old, rows)
				}
			}
			for range rng.IntN(60) {
				if id := rng.Uint64N(1200); rng.IntN(3) > 0 {
					put(id)
				} else if shard := tidemill.ShardOf(id, s.v); s.rows[0][shard][id] != nil {
					delete(s.rows[0][shard], id)
					delete(changed, id)
					if old[id] != nil {
						removed[id] = true
					}
				}
			}
		}
	})
	if layers < 3 {
		t.Errorf("at most %d layers: nothing was written on top of anything", layers)
	}
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// TestCompactBounds: whatever is touched, a restore reads at most about twice what is live, and
// only so many blobs; and over time not much more is written than changes.
func TestCompactBounds(t *testing.T) {
	const row = 138
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 6))
		n := 1 + rng.IntN(40)
		shards := make([]Compaction, n)
		hot := rng.IntN(n)
		even := rng.IntN(2) == 0
		for i := range shards {
			shards[i] = Compaction{Shard: i, Rows: 1 + rng.Int64N(20000)}
		}
		for number := range 200 {
			var live int64
			for i := range shards {
				c := &shards[i]
				live += c.Rows * row
				if even || i == hot {
					c.Changed = c.Rows / (1 + rng.Int64N(60))
				} else {
					c.Changed = rng.Int64N(2)
				}
			}
			whole := limits.Compact(row, shards)
			name := fmt.Sprintf("%09d", number)
			blob := Blob{Name: name}
			for i := range shards {
				rows := shards[i].Changed
				if whole[i] {
					rows, shards[i].Base = shards[i].Rows, nil
				}
				if rows > 0 {
					blob.Rows += rows
					blob.Shards, blob.ShardRows = append(blob.Shards, i), append(blob.ShardRows, rows)
				}
			}
			blob.Bytes = blob.Rows * row
			read := map[string]int64{}
			for i := range shards {
				if slices.Contains(blob.Shards, i) {
					shards[i].Base = append(shards[i].Base, blob)
				}
				if len(shards[i].Base) > limits.Layers+limits.Spread {
					r.Fatalf("shard %d has %d layers", i, len(shards[i].Base))
				}
				for _, b := range shards[i].Base {
					read[b.Name] = b.Bytes
				}
			}
			var total int64
			for _, n := range read {
				total += n
			}
			if total > 2*live+limits.Slack {
				r.Fatalf("snapshot %d: %d bytes are live, and a restore reads %d", number, live, total)
			}
		}
	})
}

// TestLayersRefuse: blobs that contradict each other or their entries are damage.
func TestLayersRefuse(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(4)
	base := s.write(t, b, 1, 1, nil)[0]
	rows := newTestRows(3, s.rows[0][0], map[uint64]bool{2: true}, nil)
	p, err := func() (Part, error) {
		q := &piece{blob: Blob{Name: "removed", Kind: KindRemoved, Table: "t"}, shards: []pieceShard{{image: ShardImage{Tables: []TableImage{{Rows: rows, Removed: []uint64{3}}}}}}}
		err := q.write(ctx, b, s.layout.Tables[0], make([]Digest, 1), nil)
		return Part{Shards: base.Shards, Blobs: []Blob{base.Blobs[0], q.blob}}, err
	}()
	must(t, err)
	c := newCollector(s.layout, 1)
	must(t, ReadParts(ctx, b, []Part{p}, s.layout, nil, c))
	if len(c.rows[0][0]) != 3 || c.rows[0][0][3] != nil {
		t.Errorf("row 3 was removed, and %d rows are there", len(c.rows[0][0]))
	}
	for what, spoil := range map[string]func(p *Part){
		"nothing holds any": func(p *Part) { p.Blobs = p.Blobs[1:] },
		"rows of shard 0":   func(p *Part) { p.Blobs[0].ShardRows = []int64{3} },
		"counts of rows":    func(p *Part) { p.Blobs[0].ShardRows = []int64{3, 4} },
		"not ascending":     func(p *Part) { p.Blobs[0].Shards = []int{0, 0}; p.Blobs[0].ShardRows = nil },
	} {
		q := p
		q.Blobs = slices.Clone(p.Blobs)
		spoil(&q)
		err := ReadParts(ctx, b, []Part{q}, s.layout, nil, newCollector(s.layout, 1))
		if !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestReadsFormat1: a store of the first format is read.
func TestReadsFormat1(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := small()
	m := s.manifest(1, s.write(t, b, 1, 2, nil))
	m.Format = 1
	for i := range m.Parts {
		m.Parts[i].Digests = nil
		for k := range m.Parts[i].Blobs {
			m.Parts[i].Blobs[k].ShardRows = nil
		}
	}
	record, err := Seal(m)
	must(t, err)
	got, err := DecodeManifest(record)
	must(t, err)
	must(t, Verify(ctx, b, got))
	if _, known := ShardDigest(got.Parts, 0); known {
		t.Error("a manifest of format 1 has no digest of a shard")
	}
}

// FuzzLayers reads two files on top of each other as if their bytes were what was written:
// whatever they are, reading ends with an error or with rows of the table's width, each once.
func FuzzLayers(f *testing.F) {
	b := memblob.OpenBucket(nil)
	s := oneTable(5)
	base := s.write(f, b, 1, 1, nil)[0]
	low, err := b.ReadAll(ctx, base.Blobs[0].Name)
	must(f, err)
	q := &piece{blob: Blob{Name: "removed", Kind: KindRemoved, Table: "t"}, shards: []pieceShard{{image: ShardImage{Tables: []TableImage{{Removed: []uint64{3, 9}}}}}}}
	must(f, q.write(ctx, b, s.layout.Tables[0], make([]Digest, 1), nil))
	gone, err := b.ReadAll(ctx, "removed")
	must(f, err)
	must(f, b.Close())
	f.Add(low, low, false, int64(5), int64(5))
	f.Add(low, gone, true, int64(5), int64(2))
	f.Add(gone, low, false, int64(2), int64(5))
	f.Fuzz(func(t *testing.T, lower, upper []byte, removed bool, n, k int64) {
		one := func(name string, data []byte, rows int64, removed bool) *layer {
			info := Blob{Name: name, Kind: KindTable, Table: "t", Rows: rows, Shards: []int{0}}
			if removed {
				info.Kind = KindRemoved
			}
			return &layer{info: info, fetch: func(context.Context) ([]byte, error) { return data, nil }}
		}
		r := tableReader{layers: []*layer{one("lower", lower, n, false), one("upper", upper, k, removed)}}
		err := r.read(ctx, s.layout.Tables[0], 0, all, newCollector(s.layout, 1))
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
