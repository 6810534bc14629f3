package snapshot

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// TestRoundTrip writes random states in a random number of parts, in random order, and reads
// all or some shards back: every bit must be there, and the digest must be the definition's.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := randomState(rapid.Uint64().Draw(r, "seed"), 60)
		n := rapid.IntRange(1, 3).Draw(r, "parts")
		b := memblob.OpenBucket(nil)
		defer b.Close()
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "order"), 2))
		parts := s.write(t, b, 1, n, order)
		if got, want := SumParts(parts), s.digest(); got != want {
			r.Fatalf("digest %s, want %s", got, want)
		}
		skip := rapid.IntRange(-1, s.v-1).Draw(r, "skip")
		want := func(shard int) bool { return shard != skip }
		c := newCollector(s.layout, s.v)
		if err := ReadParts(ctx, b, parts, s.layout, want, c); err != nil {
			r.Fatal(err)
		}
		if got, want := c.dump(all), s.dump(want); got != want {
			r.Fatalf("read\n%s\nwritten\n%s", got, want)
		}
	})
}

// TestSameBytes writes the same state twice, in other orders and as other pages: the stores
// must be equal, byte for byte, and so must the manifests.
func TestSameBytes(t *testing.T) {
	for seed := range uint64(30) {
		s := randomState(seed, 60)
		one, two := memblob.OpenBucket(nil), memblob.OpenBucket(nil)
		a := s.write(t, one, 1, 2, nil)
		b := s.write(t, two, 1, 2, rand.New(rand.NewPCG(seed, 3)))
		first, second := contents(t, one), contents(t, two)
		if !maps.EqualFunc(first, second, bytes.Equal) {
			t.Fatalf("seed %d: two stores of one state differ", seed)
		}
		x, err := s.manifest(1, a).Encode()
		must(t, err)
		y, err := s.manifest(1, b).Encode()
		must(t, err)
		if !bytes.Equal(x, y) {
			t.Fatalf("seed %d: two manifests of one state differ", seed)
		}
		// Repeating a write finds its own blobs.
		if c := s.write(t, one, 1, 2, nil); SumParts(c) != SumParts(a) {
			t.Fatalf("seed %d: repeated, another digest", seed)
		}
		must(t, errors.Join(one.Close(), two.Close()))
	}
}

// TestTaken writes another state under the same names: it must be refused, and what was there
// must stay.
func TestTaken(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(3)
	before := s.write(t, b, 1, 1, nil)
	s.rows[0][0][1][0]++
	prefix, err := PartName{Job: "job", Number: 1, Generation: 2, Epoch: 3, Attempt: 1, Member: "ps0"}.Prefix()
	must(t, err)
	if _, err := WritePart(ctx, b, prefix, s.layout, s.images(all, nil)); !errors.Is(err, tidemill.ErrExists) {
		t.Fatalf("write over another state: %v", err)
	}
	s.rows[0][0][1][0]--
	c := newCollector(s.layout, s.v)
	must(t, ReadParts(ctx, b, before, s.layout, nil, c))
	if c.dump(all) != s.dump(all) {
		t.Error("what was there has changed")
	}
}

// oneTable is a state of one shard and one table with ids 1…n.
func oneTable(n int) state {
	s := state{v: 1, layout: Layout{Tables: []TableLayout{{TableSpec: tidemill.TableSpec{Name: "t", Dim: 2}, State: 1}}},
		rows: []map[int]map[uint64][]float32{{0: {}}}}
	for i := range n {
		s.rows[0][0][uint64(i+1)] = []float32{float32(i), 1, 2}
	}
	return s
}

// TestManyBatches has shards of more rows than one record batch holds.
func TestManyBatches(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(1<<16 + 5)
	parts := s.write(t, b, 1, 1, nil)
	pages := 0
	seen := &countingSink{}
	must(t, ReadParts(ctx, b, parts, s.layout, nil, seen))
	for _, n := range seen.pages {
		pages++
		if n > 1<<16 {
			t.Errorf("a page of %d rows", n)
		}
	}
	if pages != 2 || seen.rows != 1<<16+5 || seen.sum != uint64(seen.rows)*uint64(seen.rows+1)/2 {
		t.Errorf("%d pages, %d rows, sum of ids %d", pages, seen.rows, seen.sum)
	}
}

type countingSink struct {
	pages []int
	rows  int
	sum   uint64
}

func (c *countingSink) Rows(_, _ int, ids []uint64, _ []float32) error {
	c.pages = append(c.pages, len(ids))
	c.rows += len(ids)
	for _, id := range ids {
		c.sum += id
	}
	return nil
}
func (c *countingSink) Block(int, Block) error        { return nil }
func (c *countingSink) Aux(int, string, []byte) error { return nil }

func TestWritePartRefuses(t *testing.T) {
	table := TableLayout{TableSpec: tidemill.TableSpec{Name: "t", Dim: 2}}
	tensor := TensorLayout{TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{3}}}
	twice := &testRows{width: 2, ids: []uint64{1, 1}, rows: map[uint64][]float32{1: {1, 2}}}
	w := []float32{1, 2, 3}
	for _, c := range []struct {
		name   string
		layout Layout
		shards []ShardImage
	}{
		{"shard twice", Layout{}, []ShardImage{{Shard: 1}, {Shard: 1}}},
		{"negative shard", Layout{}, []ShardImage{{Shard: -1}}},
		{"large shard", Layout{}, []ShardImage{{Shard: 1 << 16}}},
		{"tables", Layout{Tables: []TableLayout{table}}, []ShardImage{{Tables: make([]TableImage, 2)}}},
		{"id twice", Layout{Tables: []TableLayout{table}}, []ShardImage{{Tables: []TableImage{{Rows: twice}}}}},
		{"no dimension", Layout{Tables: []TableLayout{{TableSpec: tidemill.TableSpec{Name: "t"}}}}, nil},
		{"no name", Layout{Tables: []TableLayout{{TableSpec: tidemill.TableSpec{Dim: 1}}}}, nil},
		{"name twice", Layout{Tables: []TableLayout{table, table}}, nil},
		{"tensor twice", Layout{Tensors: []TensorLayout{tensor, tensor}}, nil},
		{"empty tensor", Layout{Tensors: []TensorLayout{{TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{0}}}}}, nil},
		{"unknown tensor", Layout{Tensors: []TensorLayout{tensor}}, []ShardImage{{Blocks: []Block{{Tensor: 1, Weight: w}}}}},
		{"unknown block", Layout{Tensors: []TensorLayout{tensor}}, []ShardImage{{Blocks: []Block{{Block: 1, Weight: w}}}}},
		{"short block", Layout{Tensors: []TensorLayout{tensor}}, []ShardImage{{Blocks: []Block{{Weight: w[:2]}}}}},
		{"average unasked", Layout{Tensors: []TensorLayout{tensor}}, []ShardImage{{Blocks: []Block{{Weight: w, Average: w}}}}},
		{"block twice", Layout{Tensors: []TensorLayout{tensor}}, []ShardImage{{Shard: 0, Blocks: []Block{{Weight: w}}}, {Shard: 1, Blocks: []Block{{Weight: w}}}}},
		{"aux without name", Layout{}, []ShardImage{{Aux: map[string][]byte{"": nil}}}},
		{"aux no UTF-8", Layout{}, []ShardImage{{Aux: map[string][]byte{"\xff": nil}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := memblob.OpenBucket(nil)
			defer b.Close()
			if _, err := WritePart(ctx, b, "p-", c.layout, c.shards); !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if left := contents(t, b); len(left) != 0 {
				t.Errorf("it left %d blobs", len(left))
			}
		})
	}
}

func TestReadPartsRefuses(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(4)
	s.aux = map[int]map[string][]byte{0: {"a": []byte("x")}}
	good := s.write(t, b, 1, 1, nil)
	for _, c := range []struct {
		name  string
		spoil func(p *Part)
		text  string
	}{
		{"kind", func(p *Part) { p.Blobs[0].Kind = "chart" }, "kind"},
		{"table", func(p *Part) { p.Blobs[0].Table = "u" }, "layout lacks"},
		{"rows", func(p *Part) { p.Blobs[0].Rows++ }, "rows"},
		{"size", func(p *Part) { p.Blobs[0].Bytes++ }, "bytes"},
		{"hash", func(p *Part) { p.Blobs[0].SHA256 = p.Blobs[1].SHA256 }, "SHA-256"},
		{"name", func(p *Part) { p.Blobs[0].Name = "gone" }, "missing"},
		{"swapped", func(p *Part) { p.Blobs[0].Kind, p.Blobs[1].Kind = p.Blobs[1].Kind, p.Blobs[0].Kind }, "corrupt"},
		{"foreign shard", func(p *Part) { p.Blobs[0].Shards = []int{1} }, "shard 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := good[0]
			p.Blobs = slices.Clone(p.Blobs)
			c.spoil(&p)
			err := ReadParts(ctx, b, []Part{p}, s.layout, nil, newCollector(s.layout, 1))
			if !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "job") && c.name != "name" {
				t.Errorf("error %v", err)
			}
		})
	}
	if err := ReadParts(ctx, b, append(good, good...), s.layout, nil, newCollector(s.layout, 1)); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("the same shard in two parts: %v", err)
	}
	// The sink's own error comes back as it is, and stops the reading.
	stop := errors.New("enough")
	if err := ReadParts(ctx, b, good, s.layout, nil, failing{stop}); err != stop {
		t.Errorf("the sink's error came back as %v", err)
	}
}

type failing struct{ err error }

func (f failing) Rows(int, int, []uint64, []float32) error { return f.err }
func (f failing) Block(int, Block) error                   { return f.err }
func (f failing) Aux(int, string, []byte) error            { return f.err }

// TestVerifiedFirst damages the last blob: the sink must not have been called for the others.
func TestVerifiedFirst(t *testing.T) {
	mem := memblob.OpenBucket(nil)
	defer mem.Close()
	s := oneTable(4)
	s.aux = map[int]map[string][]byte{0: {"a": []byte("x")}}
	parts := s.write(t, mem, 1, 1, nil)
	last := parts[0].Blobs[len(parts[0].Blobs)-1].Name
	must(t, mem.WriteAll(ctx, last, []byte("damaged"), nil))
	called := errors.New("called")
	if err := ReadParts(ctx, mem, parts, s.layout, nil, failing{called}); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

func FuzzReadParts(f *testing.F) {
	s := randomState(12, 20)
	b := memblob.OpenBucket(nil)
	for _, p := range s.write(f, b, 1, 1, nil) {
		for _, info := range p.Blobs {
			data, err := b.ReadAll(ctx, info.Name)
			must(f, err)
			f.Add(data, info.Kind, info.Table)
		}
	}
	must(f, b.Close())
	l := s.layout
	f.Fuzz(func(t *testing.T, data []byte, kind, table string) {
		// As if the bytes were what was written: whatever they are, decoding ends with an error
		// or with values that fit the layout.
		info := Blob{Name: "x", Kind: kind, Table: table, Bytes: int64(len(data)), Shards: []int{0, 1, 2, 3, 4, 5}}
		err := deliver(ctx, info, data, l, all, newCollector(l, 6))
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) && !strings.Contains(err.Error(), "twice") {
			t.Fatalf("error %v", err)
		}
	})
}

func BenchmarkWritePart(b *testing.B) {
	const n, dim = 200_000, 16
	l := Layout{Tables: []TableLayout{{TableSpec: tidemill.TableSpec{Name: "t", Dim: dim}, State: dim}}}
	rows := map[uint64][]float32{}
	for i := range uint64(n) {
		rows[tidemill.Mix(i)] = make([]float32, 2*dim)
	}
	img := []ShardImage{{Tables: []TableImage{{Rows: newTestRows(2*dim, rows, nil, nil)}}}}
	b.SetBytes(n * 2 * dim * 4)
	for b.Loop() {
		mem := memblob.OpenBucket(&memblob.Options{NoMD5: true})
		if _, err := WritePart(ctx, mem, "p-", l, img); err != nil {
			b.Fatal(err)
		}
		mem.Close()
	}
}
