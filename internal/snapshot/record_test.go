package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestManifestRoundTrip(t *testing.T) {
	s := small()
	b := memblob.OpenBucket(nil)
	defer b.Close()
	m := s.manifest(4, s.write(t, b, 4, 2, nil))
	m.Parent = 3
	data, err := m.Encode()
	must(t, err)
	got, err := DecodeManifest(data)
	must(t, err)
	if !reflect.DeepEqual(got, m) {
		t.Errorf("decoded %+v\nencoded %+v", got, m)
	}
	again, err := got.Encode()
	must(t, err)
	if !bytes.Equal(again, data) {
		t.Error("encoded again it has other bytes")
	}
	m.Metrics["auc"] = math.NaN()
	data, err = m.Encode()
	must(t, err)
	got, err = DecodeManifest(data)
	must(t, err)
	if _, ok := got.Metrics["auc"]; ok || len(got.Metrics) != 1 || !math.IsNaN(m.Metrics["auc"]) {
		t.Errorf("metrics %v, the caller's %v", got.Metrics, m.Metrics)
	}
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil || object["job"] != "job" {
		t.Errorf("a manifest is no plain JSON: %v", err)
	}
}

func TestManifestRefuses(t *testing.T) {
	s := oneTable(2)
	b := memblob.OpenBucket(nil)
	defer b.Close()
	parts := s.write(t, b, 1, 1, nil)
	for name, spoil := range map[string]func(m *Manifest){
		"job":         func(m *Manifest) { m.Job = "a/b" },
		"number":      func(m *Manifest) { m.Number = 0 },
		"parent":      func(m *Manifest) { m.Parent = m.Number },
		"examples":    func(m *Manifest) { m.Examples = -1 },
		"cut":         func(m *Manifest) { m.Cut = tidemill.Cut{-1} },
		"layout":      func(m *Manifest) { m.Layout.Tables = append(slices.Clone(m.Layout.Tables), m.Layout.Tables[0]) },
		"shards":      func(m *Manifest) { m.Spec.Shards = 2 },
		"shard range": func(m *Manifest) { m.Parts = []Part{{Shards: []int{1}}}; m.Digest = Digest{} },
		"shard twice": func(m *Manifest) { m.Parts = append(slices.Clone(m.Parts), m.Parts...); m.Spec.Shards = 2 },
		"digest":      func(m *Manifest) { m.Digest[0]++ },
		"fence":       func(m *Manifest) { m.Fence = &Fence{} },
		"schedule":    func(m *Manifest) { m.Schedule = Schedule{{Round: 1, Rounds: 0}} },
		"overlap":     func(m *Manifest) { m.Schedule = append(slices.Clone(m.Schedule), m.Schedule...) },
		"empty step":  func(m *Manifest) { m.Schedule = Schedule{{Round: 1, Rounds: 1, Steps: []Step{{0, 5, 5, 1}}}} },
		"step order": func(m *Manifest) {
			m.Schedule = Schedule{{Round: 1, Rounds: 1, Steps: []Step{{1, 0, 5, 5}, {0, 0, 5, 5}}}}
		},
		"infinite run": func(m *Manifest) {
			m.Schedule = Schedule{{Round: 1, Rounds: math.MaxInt64, Steps: []Step{{1, 0, 5, 5}}}}
		},
	} {
		m := s.manifest(1, parts)
		spoil(m)
		if _, err := m.Encode(); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer, err := Seal(map[string]any{"format": Format + 1, "job": 5})
	must(t, err)
	if _, err := DecodeManifest(newer); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer format: %v", err)
	}
	impossible, err := Seal(&Manifest{Format: Format, Job: "j"})
	must(t, err)
	if _, err := DecodeManifest(impossible); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a sealed contradiction: %v", err)
	}
}

func TestSchedule(t *testing.T) {
	var s Schedule
	for round := int64(1); round <= 10; round++ {
		s = s.Append(round, []Step{{0, 5 * (round - 1), 5 * round, 5}, {2, 7 * (round - 1), 7 * round, 3}})
	}
	s = s.Append(11, []Step{{0, 50, 52, 2}}) // partition 2 has left, partition 0 is at its end
	s = s.Append(12, nil)
	s = s.Append(14, []Step{{0, 52, 54, 2}})
	want := Schedule{
		{1, 10, []Step{{0, 0, 50, 5}, {2, 0, 70, 3}}},
		{11, 1, []Step{{0, 50, 52, 2}}},
		{14, 1, []Step{{0, 52, 54, 2}}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("schedule %+v", s)
	}
	must(t, s.Validate())
}

func TestChain(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	c := NewChain(b, "p/", "/manifest.json")
	if n, data, err := c.Last(ctx); n != 0 || data != nil || err != nil {
		t.Errorf("empty: %d %q %v", n, data, err)
	}
	if err := c.Append(ctx, 2, []byte("x")); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a gap: %v", err)
	}
	for n := int64(1); n <= 12; n++ {
		must(t, c.Append(ctx, n, fmt.Append(nil, n)))
		must(t, b.WriteAll(ctx, fmt.Sprintf("p/%09d/table.arrow", n+1), nil, nil)) // of a snapshot never committed
	}
	if err := c.Append(ctx, 12, []byte("x")); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a taken number: %v", err)
	}
	other := NewChain(b, "p/", "/manifest.json")
	for _, c := range []*Chain{c, other} {
		if n, data, err := c.Last(ctx); n != 12 || string(data) != "12" || err != nil {
			t.Errorf("last: %d %q %v", n, data, err)
		}
	}
	must(t, other.Append(ctx, 13, []byte("13")))
	if n, _, err := c.Last(ctx); n != 13 || err != nil {
		t.Errorf("after another's append: %d %v", n, err)
	}
	if _, err := c.Read(ctx, 14); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("read beyond the end: %v", err)
	}
	if got, err := c.List(ctx, 11); err != nil || !slices.Equal(got, []int64{11, 12, 13}) {
		t.Errorf("list: %v %v", got, err)
	}
	must(t, b.Delete(ctx, c.Name(1))) // from the front: allowed
	if got, err := c.List(ctx, 0); err != nil || len(got) != 12 {
		t.Errorf("list without the first: %v %v", got, err)
	}
	must(t, b.Delete(ctx, c.Name(5)))
	if _, err := c.List(ctx, 0); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), "000000005") {
		t.Errorf("a gap: %v", err)
	}
	if _, _, err := NewChain(b, "p/", "/manifest.json").Last(ctx); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("last of a chain with a gap: %v", err)
	}
}

// TestChainRace lets 16 leaders append to one chain until it has 50 records: each record has
// one author, nobody's success is lost.
func TestChainRace(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrote := map[int64]string{}
	for i := range 16 {
		wg.Go(func() {
			c := NewChain(b, "p/", ".json")
			for k := 0; ; k++ {
				last, _, err := c.Last(ctx)
				if err != nil || last >= 50 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				record := fmt.Sprintf("%d/%d", i, k)
				err = c.Append(ctx, last+1, []byte(record))
				if errors.Is(err, tidemill.ErrExists) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if was, ok := wrote[last+1]; ok {
					t.Errorf("record %d was appended by %s and %s", last+1, was, record)
				}
				wrote[last+1] = record
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	c := NewChain(b, "p/", ".json")
	for n, record := range wrote {
		if got, err := c.Read(ctx, n); err != nil || string(got) != record {
			t.Errorf("record %d is %q, %v; want %q", n, got, err, record)
		}
	}
}

func TestLatest(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	c, err := Snapshots(b, "job")
	must(t, err)
	if last, m, err := Latest(ctx, c); last != 0 || m != nil || err != nil {
		t.Errorf("nothing yet: %d %v %v", last, m, err)
	}
	fence := func(n int64) *Manifest {
		return &Manifest{Job: "job", Number: n, Generation: uint64(n), Fence: &Fence{Generation: uint64(n), Holder: "a"}}
	}
	must(t, Commit(ctx, c, fence(1)))
	if last, m, err := Latest(ctx, c); last != 1 || m != nil || err != nil {
		t.Errorf("a fence only: %d %v %v", last, m, err)
	}
	s := oneTable(2)
	must(t, Commit(ctx, c, s.manifest(2, s.write(t, b, 2, 1, nil))))
	must(t, Commit(ctx, c, fence(3)))
	must(t, Commit(ctx, c, fence(4)))
	if last, m, err := Latest(ctx, c); last != 4 || err != nil || m == nil || m.Number != 2 {
		t.Errorf("behind fences: %d %v %v", last, m, err)
	}
	// The predecessor wakes up.
	if err := Commit(ctx, c, s.manifest(3, nil)); !errors.Is(err, tidemill.ErrInvalid) && !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a fenced commit: %v", err)
	}
	if err := Commit(ctx, c, s.manifest(3, s.write(t, b, 3, 1, nil))); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a fenced commit: %v", err)
	}
	// A record under another's number is found.
	data, err := c.Read(ctx, 2)
	must(t, err)
	must(t, c.Append(ctx, 5, data))
	if _, _, err := Latest(ctx, c); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a copied record: %v", err)
	}
}

func TestDigest(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 6))
		type item struct {
			id  uint64
			row []float32
		}
		var items []item
		for range rng.IntN(20) + 2 {
			items = append(items, item{rng.Uint64N(100), values(rng, rng.IntN(130))})
		}
		var a, b Digest
		for _, it := range items {
			a.AddRow(1, it.id, it.row)
		}
		for _, i := range rng.Perm(len(items)) {
			b.AddRow(1, items[i].id, items[i].row)
		}
		if a != b {
			r.Fatal("the order matters")
		}
		back, err := ParseDigest(a.String())
		if err != nil || back != a {
			r.Fatalf("%s parsed as %s, %v", a, back, err)
		}
		for _, it := range items {
			a.SubRow(1, it.id, it.row)
		}
		if a != (Digest{}) {
			r.Fatalf("all taken out, it is %s", a)
		}
		// A flipped bit of one value shows, in the row of any length.
		row := values(rng, 1+rng.IntN(1100))
		was := RowDigest(1, 2, row)
		i, bit := rng.IntN(len(row)), rng.IntN(32)
		row[i] = math.Float32frombits(math.Float32bits(row[i]) ^ 1<<bit)
		if RowDigest(1, 2, row) == was {
			r.Fatal("a flipped bit does not show")
		}
	})
	row := []float32{1, 2}
	d := RowDigest(1, 2, row)
	k := Block{Weight: []float32{1, 2}, State: []float32{3}}
	moved := Block{Weight: []float32{1}, State: []float32{2, 3}}
	for name, same := range map[string]bool{
		"another table":        d == RowDigest(2, 2, row),
		"another id":           d == RowDigest(1, 3, row),
		"swapped":              d == RowDigest(2, 1, row),
		"negative zero":        RowDigest(1, 2, []float32{0}) == RowDigest(1, 2, []float32{float32(math.Copysign(0, -1))}),
		"moved group":          BlockDigest(1, k) == BlockDigest(1, moved),
		"another count":        BlockDigest(1, k) == BlockDigest(1, Block{Weight: k.Weight, State: k.State, At: 1}),
		"another block":        BlockDigest(1, k) == BlockDigest(1, Block{Block: 1, Weight: k.Weight, State: k.State}),
		"another tensor":       BlockDigest(1, k) == BlockDigest(2, k),
		"name runs into bytes": AuxDigest("ab", []byte("c")) == AuxDigest("a", []byte("bc")),
	} {
		if same {
			t.Errorf("%s does not show", name)
		}
	}
	// 128 bits wide: the carry is carried.
	x := Digest{math.MaxUint64, 1}
	x.Add(Digest{1, 0})
	if x != (Digest{0, 2}) {
		t.Errorf("carry: %v", x)
	}
	x.Sub(Digest{1, 0})
	if x != (Digest{math.MaxUint64, 1}) {
		t.Errorf("borrow: %v", x)
	}
	for _, bad := range []string{"", "0", strings.Repeat("g", 32), strings.Repeat("0", 33)} {
		if _, err := ParseDigest(bad); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { d.AddRow(1, 2, row) }); n != 0 {
		t.Errorf("adding a row allocates %v times", n)
	}
}

func TestLayoutAt(t *testing.T) {
	l := TableLayout{TableSpec: tidemill.TableSpec{Name: "t", Dim: 2}, State: 3, Average: true}
	row := make([]float32, l.Width())
	for i := range row {
		row[i] = float32(i)
	}
	for _, at := range []uint64{0, 1, math.MaxUint32, 1 << 32, 0x7f800001_ff800001, math.MaxUint64} {
		l.PutAt(row, at)
		if got := l.At(row); got != at {
			t.Errorf("put %d, got %d", at, got)
		}
	}
	if l.Width() != 9 || !slices.Equal(l.Weight(row), []float32{0, 1}) || !slices.Equal(l.StateOf(row), []float32{2, 3, 4}) || !slices.Equal(l.AverageOf(row), []float32{5, 6}) {
		t.Errorf("groups of %v", row)
	}
}

func TestOpenBucket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	b, err := OpenBucket(ctx, "file://"+dir)
	must(t, err)
	if _, err := OpenBucket(ctx, "file://"+dir); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a store in use: %v", err)
	}
	must(t, b.WriteAll(ctx, "a", []byte("x"), nil))
	must(t, b.Close())
	b, err = OpenBucket(ctx, "file://"+dir)
	must(t, err)
	if got, err := b.ReadAll(ctx, "a"); err != nil || string(got) != "x" {
		t.Errorf("read %q, %v", got, err)
	}
	must(t, b.Close())
	b, err = OpenBucket(ctx, "mem://")
	must(t, err)
	must(t, b.Close())
	for _, bad := range []string{"", "store", "file://", "file://store", "file:///", "s3://bucket", "gs://b", "mem://x", "file:///x?create=1", "://", "file://u:p@/x"} {
		if _, err := OpenBucket(ctx, bad); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDecodeManifest(f *testing.F) {
	s := small()
	b := memblob.OpenBucket(nil)
	data, err := s.manifest(1, s.write(f, b, 1, 1, nil)).Encode()
	must(f, err)
	must(f, b.Close())
	f.Add(data[recordMid+2:], true)
	f.Add(data, false)
	f.Add([]byte(`"format":1,"job":"j","number":1,"fence":{}}`), true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // past the checksum
			sealed, err := Seal(json.RawMessage(append([]byte("{"), data...)))
			if err != nil {
				return
			}
			data = sealed
		}
		m, err := DecodeManifest(data)
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		if m.Format < 2 && m.Fence == nil {
			return // read, and never written again: it lacks what is required now
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("it decodes and does not encode: %v", err)
		}
		if _, err := DecodeManifest(again); err != nil {
			t.Fatalf("encoded again it does not decode: %v", err)
		}
	})
}

func FuzzDecodeVersion(f *testing.F) {
	b := memblob.OpenBucket(nil)
	must(f, WriteVersion(ctx, b, testVersion(1)))
	for name, data := range contents(f, b) {
		if strings.HasSuffix(name, ".json") {
			f.Add(data[recordMid+2:], KindAux)
			continue
		}
		for _, kind := range []string{KindTable, KindDense, KindExpected} {
			f.Add(data, kind)
		}
	}
	must(f, b.Close())
	f.Fuzz(func(t *testing.T, data []byte, kind string) {
		if kind == KindAux {
			if sealed, err := Seal(json.RawMessage(append([]byte("{"), data...))); err == nil {
				_, _ = decodeVersion(sealed)
			}
			return
		}
		v := testVersion(1)
		for i := range v.Tensors {
			v.Tensors[i].Values = nil
		}
		v.Probes = Probes{}
		info := Blob{Name: "x", Kind: kind, Table: "wide", Bytes: int64(len(data)), Rows: 3}
		if err := v.decode(info, data); err == nil && kind == KindTable && (len(v.Tables[0].IDs) != 3 || len(v.Tables[0].Weights) != 6) {
			t.Fatalf("decoded %v", v.Tables[0])
		}
	})
}
