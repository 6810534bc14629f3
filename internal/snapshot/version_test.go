package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// testVersion is a small version with something of every kind in it.
func testVersion(number int64) *VersionFiles {
	return &VersionFiles{
		Version:   tidemill.Version{Model: "model", Number: number, Job: "job", Cut: tidemill.Cut{1, 2}, Created: time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)},
		Spec:      tidemill.Spec{Model: "model"},
		SchemaIPC: []byte("schema"),
		Tables: []Frozen{
			{TableSpec: tidemill.TableSpec{Name: "wide", Dim: 2}, IDs: []uint64{3, 1, math.MaxUint64}, Weights: []float32{5, 6, 1, 2, 7, 8}},
			{TableSpec: tidemill.TableSpec{Name: "empty", Dim: 3}},
		},
		Tensors:    []FrozenTensor{{TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{2, 2}}, Values: []float32{1, 2, 3, float32(math.Inf(1))}}},
		Transforms: []byte("learned"),
		Probes:     Probes{Rows: []byte("rows"), Expected: []float32{0.5, 0.25}},
	}
}

func TestVersionRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 4))
		v := &VersionFiles{Version: tidemill.Version{Model: "m.1", Number: 1 + rng.Int64N(1e9-2), Cut: tidemill.Cut{rng.Int64()}}, Spec: tidemill.Spec{Model: "m.1", Seed: rng.Uint64()}}
		for i := range rng.IntN(3) {
			f := Frozen{TableSpec: tidemill.TableSpec{Name: fmt.Sprintf("t%d", i), Dim: 1 + rng.IntN(4)}}
			for id := range rng.IntN(40) {
				f.IDs = append(f.IDs, uint64(id)*uint64(1+i))
			}
			f.Weights = values(rng, len(f.IDs)*f.Dim)
			v.Tables = append(v.Tables, f)
		}
		for i := range rng.IntN(3) {
			f := FrozenTensor{TensorSpec: tidemill.TensorSpec{Name: fmt.Sprintf("w%d", i), Shape: []int{1 + rng.IntN(3), 1 + rng.IntN(tidemill.BlockSize)}}}
			f.Values = values(rng, f.Len())
			v.Tensors = append(v.Tensors, f)
		}
		if rng.IntN(2) == 0 {
			v.SchemaIPC, v.Transforms = []byte("s"), []byte("t")
			v.Probes = Probes{Rows: []byte("r"), Expected: values(rng, 5)}
		}
		b := memblob.OpenBucket(nil)
		defer b.Close()
		if err := WriteVersion(ctx, b, v); err != nil {
			r.Fatal(err)
		}
		got, err := ReadVersion(ctx, b, "m.1", v.Version.Number)
		if err != nil {
			r.Fatal(err)
		}
		if dumpVersion(got) != dumpVersion(v) {
			r.Fatalf("read %s\nwritten %s", dumpVersion(got), dumpVersion(v))
		}
	})
}

// dumpVersion writes v out with the bits of every value.
func dumpVersion(v *VersionFiles) string {
	bits := func(v []float32) (out []uint32) {
		for _, x := range v {
			out = append(out, math.Float32bits(x))
		}
		return out
	}
	s := fmt.Sprintf("%+v %s %x %x %x %x\n", v.Version, v.Spec.Hash(), v.SchemaIPC, v.Transforms, v.Probes.Rows, bits(v.Probes.Expected))
	for _, t := range v.Tables {
		s += fmt.Sprintf("%+v %d %x\n", t.TableSpec, t.IDs, bits(t.Weights))
	}
	for _, t := range v.Tensors {
		s += fmt.Sprintf("%+v %x\n", t.TensorSpec, bits(t.Values))
	}
	return s
}

// TestVersionOrder: rows in any order give the same bytes, and come back by id.
func TestVersionOrder(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	must(t, WriteVersion(ctx, b, testVersion(1)))
	got, err := ReadVersion(ctx, b, "model", 1)
	must(t, err)
	if !slices.Equal(got.Tables[0].IDs, []uint64{1, 3, math.MaxUint64}) || !slices.Equal(got.Tables[0].Weights, []float32{1, 2, 5, 6, 7, 8}) {
		t.Errorf("read %v %v", got.Tables[0].IDs, got.Tables[0].Weights)
	}
	if len(got.Tables[1].IDs) != 0 || got.Tables[1].Name != "empty" {
		t.Errorf("the empty table came back as %+v", got.Tables[1])
	}
}

func TestVersionCreateOnly(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			v := testVersion(1)
			v.Tensors[0].Values[0] = float32(i)
			errs[i] = WriteVersion(ctx, b, v)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Fatalf("writers %d and %d both made version 1", winner, i)
		case !errors.Is(err, tidemill.ErrExists):
			t.Fatalf("writer %d: %v", i, err)
		}
	}
	got, err := ReadVersion(ctx, b, "model", 1)
	must(t, err)
	if got.Tensors[0].Values[0] != float32(winner) {
		t.Errorf("writer %d won, and %v is stored", winner, got.Tensors[0].Values[0])
	}
}

// TestVersionAfterCrash leaves the blobs of a version without its manifest: the version does
// not exist, and its number can be used for another one.
func TestVersionAfterCrash(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	must(t, WriteVersion(ctx, b, testVersion(1)))
	must(t, b.Delete(ctx, "models/model/version/000000001/manifest.json"))
	if _, err := ReadVersion(ctx, b, "model", 1); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if got, err := ListVersions(ctx, b, "model"); err != nil || len(got) != 0 {
		t.Errorf("list: %v %v", got, err)
	}
	other := testVersion(1)
	other.Tables[0].Weights[0] = 100
	must(t, WriteVersion(ctx, b, other))
	must(t, WriteVersion(ctx, b, testVersion(12)))
	if got, err := ListVersions(ctx, b, "model"); err != nil || !slices.Equal(got, []int64{1, 12}) {
		t.Errorf("list: %v %v", got, err)
	}
}

func TestVersionRefuses(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	for name, spoil := range map[string]func(v *VersionFiles){
		"model":      func(v *VersionFiles) { v.Version.Model = "../x" },
		"no model":   func(v *VersionFiles) { v.Version.Model = "" },
		"number":     func(v *VersionFiles) { v.Version.Number = 0 },
		"too large":  func(v *VersionFiles) { v.Version.Number = 1e9 },
		"weights":    func(v *VersionFiles) { v.Tables[0].Weights = v.Tables[0].Weights[1:] },
		"id twice":   func(v *VersionFiles) { v.Tables[0].IDs[0] = 1 },
		"name twice": func(v *VersionFiles) { v.Tables[1].Name = "wide" },
		"values":     func(v *VersionFiles) { v.Tensors[0].Values = nil },
	} {
		v := testVersion(1)
		spoil(v)
		if err := WriteVersion(ctx, b, v); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := ListVersions(ctx, b, "model"); err != nil || len(got) != 0 {
		t.Errorf("a refused version exists: %v %v", got, err)
	}
}

// TestExport compares an export with the definition, value by value.
func TestExport(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := randomState(rapid.Uint64().Draw(r, "seed"), 40)
		examples := rapid.Int64Range(1000, 1e9).Draw(r, "examples")
		rng := rand.New(rand.NewPCG(uint64(examples), 5))
		for i, l := range s.layout.Tables {
			for _, rows := range s.rows[i] {
				for _, row := range rows {
					if l.Average {
						l.PutAt(row, rng.Uint64N(uint64(examples)+1))
					}
				}
			}
		}
		for _, blocks := range s.blocks {
			for k, b := range blocks {
				if b.Average != nil {
					b.At = rng.Uint64N(uint64(examples) + 1)
					blocks[k] = b
				}
			}
		}
		b := memblob.OpenBucket(nil)
		defer b.Close()
		m := s.manifest(3, s.write(t, b, 3, 2, rng))
		m.Examples = examples
		must(t, Verify(ctx, b, m))
		v, err := Export(ctx, b, m)
		must(t, err)
		want := func(w, avg float32, at uint64) uint32 {
			a := float64(avg)
			return math.Float32bits(float32(a + (float64(w)-a)*(1-math.Pow(0.999, float64(uint64(examples)-at)))))
		}
		for i, l := range s.layout.Tables {
			n := 0
			for _, rows := range s.rows[i] {
				n += len(rows)
				for id, row := range rows {
					k, ok := slices.BinarySearch(v.Tables[i].IDs, id)
					if !ok {
						r.Fatalf("id %d of table %d is missing", id, i)
					}
					for d := range l.Dim {
						expect := math.Float32bits(row[d])
						if l.Average {
							expect = want(row[d], l.AverageOf(row)[d], l.At(row))
						}
						if got := v.Tables[i].Weights[k*l.Dim+d]; math.Float32bits(got) != expect && !(got != got) {
							r.Fatalf("value %d of id %d is %v", d, id, got)
						}
					}
				}
			}
			if n != len(v.Tables[i].IDs) {
				r.Fatalf("table %d has %d ids, want %d", i, len(v.Tables[i].IDs), n)
			}
		}
		for _, blocks := range s.blocks {
			for _, k := range blocks {
				got := v.Tensors[k.Tensor].Values[k.Block*tidemill.BlockSize:]
				for i, w := range k.Weight {
					expect := math.Float32bits(w)
					if k.Average != nil {
						expect = want(w, k.Average[i], k.At)
					}
					if math.Float32bits(got[i]) != expect && !(got[i] != got[i]) {
						r.Fatalf("value %d of block %d is %v", i, k.Block, got[i])
					}
				}
			}
		}
		if !bytes.Equal(v.Transforms, s.aux[tidemill.HomeShard(s.v)][AuxTransforms]) || !bytes.Equal(v.SchemaIPC, m.Schema) {
			r.Fatalf("transforms %q, schema %q", v.Transforms, v.SchemaIPC)
		}
		if v.Version.Snapshot != 3 || v.Version.Digest != s.digest().String() || v.Version.Examples != examples {
			r.Fatalf("version %+v", v.Version)
		}
	})
}

func TestExportRefuses(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(3)
	s.layout.Tables[0].Average = true
	for id := range s.rows[0][0] {
		row := make([]float32, s.layout.Tables[0].Width())
		s.layout.Tables[0].PutAt(row, 100)
		s.rows[0][0][id] = row
	}
	m := s.manifest(1, s.write(t, b, 1, 1, nil))
	m.Examples = 99
	if _, err := Export(ctx, b, m); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), "example 100") {
		t.Errorf("an average of the future: %v", err)
	}
	m.Examples = 100
	if _, err := Export(ctx, b, m); err != nil {
		t.Errorf("an average of now: %v", err)
	}
	m.Spec.Optimizer.Average = nil
	if _, err := Export(ctx, b, m); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("averages without a decay: %v", err)
	}
	if _, err := Export(ctx, b, &Manifest{Format: Format, Job: "job", Number: 1, Fence: &Fence{}}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a fence: %v", err)
	}
}

func TestCatchUp(t *testing.T) {
	// Step by step: avg ← decay·avg + (1−decay)·w, age times.
	const decay, age = 0.9, 37
	avg, w := []float32{3, -1, 0}, []float32{1, 1, 0}
	want := []float64{3, -1, 0}
	for range age {
		for i := range want {
			want[i] = decay*want[i] + (1-decay)*float64(w[i])
		}
	}
	got := make([]float32, 3)
	CatchUp(got, w, avg, decay, age)
	for i := range got {
		if math.Abs(float64(got[i])-want[i]) > 1e-6 {
			t.Errorf("value %d is %v, want %v", i, got[i], want[i])
		}
	}
	CatchUp(got, w, avg, decay, 0)
	if !slices.Equal(got, avg) {
		t.Errorf("caught up by nothing it is %v", got)
	}
}

func TestDecisions(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	if _, err := ReadDecision(ctx, b, "m", 1); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("none yet: %v", err)
	}
	held := tidemill.Decision{Model: "m", Version: 1, Decision: tidemill.Held, Reason: "rows are missing", By: "gate", At: time.Unix(5, 0).UTC(),
		Evidence: []tidemill.Check{{Name: "margin", Status: "missing", Values: map[string]float64{"wealth": math.Inf(1), "rows": 3}}}}
	published := held
	published.Decision, published.Reason = tidemill.Published, "better"
	for i, d := range []tidemill.Decision{held, published} {
		n, err := WriteDecision(ctx, b, d)
		must(t, err)
		if n != int64(i+1) {
			t.Errorf("decision %d got number %d", i+1, n)
		}
	}
	if !math.IsInf(held.Evidence[0].Values["wealth"], 1) {
		t.Error("the caller's evidence was changed")
	}
	last, err := ReadDecision(ctx, b, "m", 1)
	must(t, err)
	all, err := ReadDecisions(ctx, b, "m", 1)
	must(t, err)
	held.Evidence = []tidemill.Check{{Name: "margin", Status: "missing", Values: map[string]float64{"rows": 3}}}
	published.Evidence = held.Evidence
	if !reflect.DeepEqual(all, []tidemill.Decision{held, published}) || !reflect.DeepEqual(last, published) {
		t.Errorf("read %+v, last %+v", all, last)
	}
	if all, err := ReadDecisions(ctx, b, "m", 11); err != nil || len(all) != 0 {
		t.Errorf("another version's: %v %v", all, err)
	}
	for _, d := range []tidemill.Decision{{Model: "m", Version: 1, Decision: "liked"}, {Model: "a/b", Version: 1, Decision: tidemill.Held}, {Model: "m", Decision: tidemill.Held}} {
		if _, err := WriteDecision(ctx, b, d); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

func TestChampions(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	c, err := Champions(b, "m")
	must(t, err)
	if last, serves, err := LastChampion(ctx, c); last != 0 || serves != nil || err != nil {
		t.Errorf("none yet: %d %v %v", last, serves, err)
	}
	must(t, AppendChampion(ctx, c, tidemill.Champion{Model: "m", Seq: 1, Kind: ChampionFence, Fence: 4}))
	if last, serves, err := LastChampion(ctx, c); last != 1 || serves != nil || err != nil {
		t.Errorf("a fence only: %d %v %v", last, serves, err)
	}
	must(t, AppendChampion(ctx, c, tidemill.Champion{Model: "m", Seq: 2, Version: 7, Kind: "gate"}))
	must(t, AppendChampion(ctx, c, tidemill.Champion{Model: "m", Seq: 3, Kind: ChampionFence, Fence: 5}))
	if last, serves, err := LastChampion(ctx, c); last != 3 || err != nil || serves == nil || serves.Version != 7 {
		t.Errorf("after a fence: %d %+v %v", last, serves, err)
	}
	if err := AppendChampion(ctx, c, tidemill.Champion{Model: "m", Seq: 3, Version: 8, Kind: "gate"}); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a taken number: %v", err)
	}
	for _, rec := range []tidemill.Champion{{Model: "m", Seq: 4, Kind: "gate"}, {Model: "m", Seq: 4, Kind: ChampionFence, Version: 1}, {Model: "", Seq: 4, Version: 1, Kind: "gate"}, {Model: "m", Seq: 0, Version: 1, Kind: "gate"}, {Model: "m", Seq: 6, Version: 1, Kind: "gate"}} {
		if err := AppendChampion(ctx, c, rec); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", rec, err)
		}
	}
}
