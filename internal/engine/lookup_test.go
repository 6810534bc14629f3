package engine

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// drawInputs makes a batch of ids only.
func drawInputs(t *rapid.T) *Inputs {
	in := new(Inputs)
	in.Reset(rapid.IntRange(0, 4).Draw(t, "fields"), 0)
	in.N = rapid.IntRange(0, 20).Draw(t, "n")
	id := rapid.OneOf(rapid.Uint64Range(0, 9), rapid.Uint64())
	for range in.N * in.Fields {
		in.IDs = append(in.IDs, rapid.SliceOfN(id, 0, 5).Draw(t, "ids")...)
		in.Offsets = append(in.Offsets, int32(len(in.IDs)))
	}
	return in
}

// naiveLookup is BuildLookup with a map.
func naiveLookup(in *Inputs, uses []bool) Lookup {
	var look Lookup
	at := make(map[uint64]int32)
	for i := range in.N {
		for f := range in.Fields {
			for _, id := range in.IDs[in.Offsets[i*in.Fields+f]:in.Offsets[i*in.Fields+f+1]] {
				if !uses[f] {
					look.Index = append(look.Index, -1)
					continue
				}
				if _, ok := at[id]; !ok {
					at[id] = int32(len(look.Unique))
					look.Unique = append(look.Unique, id)
				}
				look.Index = append(look.Index, at[id])
			}
		}
	}
	return look
}

// One scratch and one lookup serve any batches and tables, one after the other.
func TestBuildLookup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var look Lookup
		var scratch Scratch
		if rapid.Bool().Draw(t, "stamp about to wrap") {
			scratch.slots = make([]uint64, 1024)
			for i := range scratch.slots {
				scratch.slots[i] = uint64(i) << 32 // stale stamps, the small ones returning
			}
			scratch.stamp = math.MaxUint32 - 1
		}
		for range 4 {
			in := drawInputs(t)
			if err := in.Check(false); err != nil {
				t.Fatal(err)
			}
			uses := rapid.SliceOfN(rapid.Bool(), in.Fields, in.Fields).Draw(t, "uses")
			BuildLookup(&look, &scratch, in, func(f int) bool { return uses[f] })
			want := naiveLookup(in, uses)
			if !slices.Equal(look.Unique, want.Unique) || !slices.Equal(look.Index, want.Index) {
				t.Fatalf("got %v, want %v", look, want)
			}
		}
	})
}

func TestBuildLookupAllocatesNothing(t *testing.T) {
	in := &Inputs{N: 100, Fields: 2, Offsets: []int32{0}}
	for i := range 200 {
		in.IDs = append(in.IDs, tidemill.Mix(uint64(i%70)))
		in.Offsets = append(in.Offsets, int32(i+1))
	}
	var look Lookup
	var scratch Scratch
	skip := 0
	run := func() { BuildLookup(&look, &scratch, in, func(f int) bool { return f != skip }) }
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestInputsCheck(t *testing.T) {
	good := func() *Inputs {
		return &Inputs{N: 2, Fields: 1, Width: 1, Dense: []float32{1, 2}, IDs: []uint64{5, 6, 7}, Offsets: []int32{0, 1, 3}}
	}
	if err := good().Check(false); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(in *Inputs){
		"negative":          func(in *Inputs) { in.N = -1 },
		"dense":             func(in *Inputs) { in.Dense = in.Dense[:1] },
		"offsets":           func(in *Inputs) { in.Offsets = in.Offsets[:2] },
		"first offset":      func(in *Inputs) { in.Offsets[0] = 1 },
		"last offset":       func(in *Inputs) { in.Offsets[2] = 2 },
		"descending offset": func(in *Inputs) { in.Offsets[1] = 4 },
		"values":            func(in *Inputs) { in.Values = []float32{1} },
		"weights":           func(in *Inputs) { in.Weights = []float32{1} },
		"labels":            func(in *Inputs) {},
	} {
		in := good()
		spoil(in)
		if in.Check(name == "labels") == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkBuildLookup(b *testing.B) {
	in := &Inputs{N: 1, Fields: 20, Offsets: []int32{0}}
	for i := range 20 {
		in.IDs = append(in.IDs, tidemill.Mix(uint64(i)))
		in.Offsets = append(in.Offsets, int32(i+1))
	}
	var look Lookup
	var scratch Scratch
	for b.Loop() {
		BuildLookup(&look, &scratch, in, func(int) bool { return true })
	}
}

// Sorting changes the order of the distinct ids, and neither which there are nor who uses them.
func TestSortLookup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var look Lookup
		var scratch Scratch
		for range 3 {
			in := drawInputs(t)
			uses := rapid.SliceOfN(rapid.Bool(), in.Fields, in.Fields).Draw(t, "uses")
			v := rapid.IntRange(1, 9).Draw(t, "shards")
			BuildLookup(&look, &scratch, in, func(f int) bool { return uses[f] })
			scratch.Sort(&look, v)
			want := naiveLookup(in, uses)
			order := slices.Clone(want.Unique)
			slices.SortStableFunc(order, func(a, b uint64) int { return tidemill.ShardOf(a, v) - tidemill.ShardOf(b, v) })
			if !slices.Equal(look.Unique, order) || len(look.Index) != len(want.Index) {
				t.Fatalf("got %v, want %v", look.Unique, order)
			}
			for j, k := range want.Index {
				if (k < 0) != (look.Index[j] < 0) || k >= 0 && look.Unique[look.Index[j]] != want.Unique[k] {
					t.Fatalf("occurrence %d has row %d", j, look.Index[j])
				}
			}
		}
	})
}
