package feature

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

func mustAppend(t interface{ Fatal(...any) }, f func([]byte) ([]byte, error)) []byte {
	b, err := f(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// However a batch is cut, the merged deltas give the same state: moments up to rounding, the
// rest exactly. And the same deltas give the same bits.
func TestMergeOfSplits(t *testing.T) {
	p := compile(t, wideSpec(), wideSchema())
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(rt, "rows")
		text := make([]string, n)
		for i := range text {
			text[i] = drawRow(rt)
		}
		rows := batch(t, wideSchema(), text...)
		whole, split, again := p.NewState(), p.NewState(), p.NewState()
		learn(t, p, whole, rows)
		w := p.NewWorkspace()
		for lo := 0; lo < n; {
			hi := rapid.IntRange(lo+1, n).Draw(rt, "cut")
			part := rows.NewSlice(int64(lo), int64(hi))
			// A worker that knows what is frozen sends less, and nothing changes.
			if rapid.Bool().Draw(rt, "told") {
				if err := p.Numeric(w, new(engine.Inputs), part, split); err != nil {
					rt.Fatal(err)
				}
			}
			delta, err := p.AppendDelta(nil, w, part)
			if err != nil {
				rt.Fatal(err)
			}
			if err := errors.Join(split.Merge(delta), again.Merge(delta)); err != nil {
				rt.Fatal(err)
			}
			part.Release()
			lo = hi
		}
		for i := range whole.moments {
			a, b := whole.moments[i], split.moments[i]
			// Rounding is relative to the values that were added up, not to what is left of them.
			scale := math.Abs(a.mean)
			if a.n > 0 {
				scale += math.Sqrt(a.m2 / float64(a.n))
			}
			if a.n != b.n || math.Abs(a.mean-b.mean) > 1e-12*scale || math.Abs(a.m2-b.m2) > 1e-12*float64(a.n)*scale*scale {
				rt.Fatalf("moments %d: %+v and %+v", i, a, b)
			}
		}
		one, two := mustAppend(rt, split.AppendBinary), mustAppend(rt, again.AppendBinary)
		if !bytes.Equal(one, two) {
			rt.Fatal("the same deltas give different bits")
		}
		copy(split.moments, whole.moments)
		if a, b := mustAppend(rt, whole.AppendBinary), mustAppend(rt, split.AppendBinary); !bytes.Equal(a, b) {
			rt.Fatal("edges or vocabularies depend on how the batch was cut")
		}
		if whole.Frozen() != split.Frozen() {
			rt.Fatal("Frozen differs")
		}
	})
}

// A state read back continues exactly as the one written would have.
func TestStateRoundTrip(t *testing.T) {
	p := compile(t, wideSpec(), wideSchema())
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(name string) arrow.RecordBatch {
			text := make([]string, rapid.IntRange(1, 25).Draw(rt, name))
			for i := range text {
				text[i] = drawRow(rt)
			}
			return batch(t, wideSchema(), text...)
		}
		first, second := draw("first"), draw("second")
		st := p.NewState()
		learn(t, p, st, first)
		full, public := mustAppend(rt, st.AppendBinary), mustAppend(rt, st.AppendPublic)
		back, err := p.LoadState(full)
		if err != nil {
			rt.Fatal(err)
		}
		worker, err := p.LoadState(public)
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(full, mustAppend(rt, back.AppendBinary)) || !bytes.Equal(public, mustAppend(rt, worker.AppendPublic)) {
			rt.Fatal("written again, the bytes differ")
		}
		if back.Frozen() != st.Frozen() || worker.Frozen() != st.Frozen() || p.SparseFrozen(st) != p.SparseFrozen(worker) {
			rt.Fatal("what is frozen differs")
		}
		learn(t, p, st, second)
		learn(t, p, back, second)
		if !bytes.Equal(mustAppend(rt, st.AppendBinary), mustAppend(rt, back.AppendBinary)) {
			rt.Fatal("the state that was read learns otherwise")
		}

		// The worker follows with what changed alone.
		news := mustAppend(rt, func(b []byte) ([]byte, error) { return st.AppendPublicSince(b, worker.Frozen()) })
		if err := p.ReadState(worker, news); err != nil {
			rt.Fatal(err)
		}
		want, got := inputs(t, p, second, st), inputs(t, p, second, worker)
		if !slices.Equal(want.IDs, got.IDs) || !slices.Equal(want.Dense, got.Dense) {
			rt.Fatal("the worker's inputs differ")
		}
	})
}

// Learned edges freeze after learn_rows values, whatever the batches, and change all ids.
func TestQuantilesFreeze(t *testing.T) {
	schema := fields("x", arrow.PrimitiveTypes.Float64, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(tidemill.FeatureSpec{Column: "x", Bucketize: &tidemill.Bucketize{Quantiles: 2, LearnRows: 4}}), schema)
	rows := batch(t, schema, `{"x":1}`, `{"x":null}`, `{"x":2}`, `{"x":3}`, `{"x":4}`, `{"x":1000}`)
	st := p.NewState()
	seed := seedOf("x")
	if p.SparseFrozen(nil) || p.SparseFrozen(st) || st.Frozen() != 0 || !p.Learns() {
		t.Error("an empty state counts as frozen")
	}
	learn(t, p, st, rows.NewSlice(0, 4)) // three values
	in := inputs(t, p, rows, st)
	for i := range in.N {
		want := special(seed, tagUnknown)
		if i == 1 {
			want = special(seed, tagNull)
		}
		if one(t, in, i, 0) != want {
			t.Errorf("row %d before freezing: %x", i, in.IDs[i])
		}
	}
	if p.SparseFrozen(st) {
		t.Error("frozen too early")
	}
	learn(t, p, st, rows.NewSlice(4, 6)) // one more is used
	if !p.SparseFrozen(st) || !slices.Equal(st.quantiles[0].edges, []float64{3}) {
		t.Fatalf("edges %v", st.quantiles[0].edges)
	}
	in = inputs(t, p, rows, st)
	low, high := one(t, in, 0, 0), one(t, in, 3, 0)
	if low == high || one(t, in, 2, 0) != low || one(t, in, 5, 0) != high || low == hashNumber(seed, 0) {
		t.Errorf("ids %x", in.IDs)
	}
	before := mustAppend(t, st.AppendBinary)
	learn(t, p, st, rows)
	if !bytes.Equal(before, mustAppend(t, st.AppendBinary)) {
		t.Error("frozen edges moved")
	}
	other := p.NewState()
	learn(t, p, other, rows.NewSlice(2, 6))
	learn(t, p, other, rows.NewSlice(0, 1))
	if in = inputs(t, p, rows, other); one(t, in, 0, 0) == low {
		t.Error("other edges give the same ids")
	}
}

func TestVocabularyFreezes(t *testing.T) {
	schema := fields("x", arrow.BinaryTypes.String, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(tidemill.FeatureSpec{Column: "x", Vocabulary: &tidemill.Vocabulary{LearnRows: 6, MaxSize: 2}}), schema)
	rows := batch(t, schema, `{"x":"b"}`, `{"x":"a"}`, `{"x":null}`, `{"x":"b"}`, `{"x":"c"}`, `{"x":"a"}`, `{"x":"b"}`, `{"x":"c"}`, `{"x":"c"}`)
	st := p.NewState()
	learn(t, p, st, rows.NewSlice(0, 6))
	seed := seedOf("x")
	if in := inputs(t, p, rows, st); one(t, in, 0, 0) != special(seed, tagUnknown) || one(t, in, 2, 0) != special(seed, tagNull) {
		t.Error("ids before freezing")
	}
	learn(t, p, st, rows.NewSlice(6, 9)) // b3 a2 c1, then c comes too late
	in := inputs(t, p, rows, st)
	if one(t, in, 0, 0) != hashText(seed, []byte("b")) || one(t, in, 1, 0) != hashText(seed, []byte("a")) || one(t, in, 4, 0) != one(t, in, 8, 0) ||
		one(t, in, 4, 0) == hashText(seed, []byte("c")) || one(t, in, 2, 0) != special(seed, tagNull) {
		t.Errorf("ids %x", in.IDs)
	}
}

// A worker's state lacks the samples, so it must not be merged into or stored.
func TestPartialState(t *testing.T) {
	p := compile(t, wideSpec(), wideSchema())
	worker, err := p.LoadState(mustAppend(t, p.NewState().AppendPublic))
	if err != nil {
		t.Fatal(err)
	}
	rows := batch(t, wideSchema(), `{"f64":1}`)
	delta, err := p.AppendDelta(nil, p.NewWorkspace(), rows)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Merge(delta); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("merge: %v", err)
	}
	if _, err := worker.AppendBinary(nil); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("store: %v", err)
	}
}

// Where nothing is learned there are no bytes, except in a snapshot.
func TestNothingLearned(t *testing.T) {
	schema := fields("x", arrow.PrimitiveTypes.Float64, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(tidemill.FeatureSpec{Column: "x"}), schema)
	st := p.NewState()
	delta, err := p.AppendDelta(nil, p.NewWorkspace(), batch(t, schema, `{"x":1}`))
	if err != nil || len(delta) != 0 || st.Merge(delta) != nil || len(mustAppend(t, st.AppendPublic)) != 0 || !p.SparseFrozen(nil) || p.Learns() {
		t.Errorf("delta %x, %v", delta, err)
	}
	for _, b := range [][]byte{nil, mustAppend(t, st.AppendBinary)} {
		if _, err := p.LoadState(b); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// Bytes of another plan, or cut short, are refused; a refused delta changes nothing.
func TestDamagedBytes(t *testing.T) {
	p := compile(t, wideSpec(), wideSchema())
	var text []string
	for i := range 12 {
		text = append(text, fmt.Sprintf(`{"f64":%d,"i64":%d,"text":"t%d","words":"a b%d"}`, i, i*i, i%5, i))
	}
	rows := batch(t, wideSchema(), text...)
	st := p.NewState()
	delta, err := p.AppendDelta(nil, p.NewWorkspace(), rows)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Merge(delta); err != nil {
		t.Fatal(err)
	}
	full := mustAppend(t, st.AppendBinary)
	s := wideSpec()
	s.Features[3].Log1p = true
	other := compile(t, s, wideSchema())
	if _, err := other.LoadState(full); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("another plan reads it: %v", err)
	}
	if err := other.NewState().Merge(delta); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("another plan merges it: %v", err)
	}
	if err := st.Merge(full); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a state merges as a delta: %v", err)
	}
	for n := range full {
		if _, err := p.LoadState(full[:n]); !errors.Is(err, tidemill.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	for n := 1; n < len(delta); n++ {
		if err := st.Merge(delta[:n]); !errors.Is(err, tidemill.ErrCorrupt) {
			t.Fatalf("delta cut to %d bytes: %v", n, err)
		}
	}
	if err := st.Merge(append(slices.Clone(delta), 0)); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	if !bytes.Equal(full, mustAppend(t, st.AppendBinary)) {
		t.Error("a refused delta left a trace")
	}
}

func fuzzPlan(t testing.TB) *Plan { return compile(t, wideSpec(), wideSchema()) }

func FuzzLoadState(f *testing.F) {
	p := fuzzPlan(f)
	st := p.NewState()
	f.Add(mustAppend(f, st.AppendBinary))
	for i := range 30 {
		learn(f, p, st, batch(f, wideSchema(), fmt.Sprintf(`{"f64":%d,"i64":%d,"text":"t%d","words":"a b%d"}`, i, i, i%5, i)))
		if i%8 == 0 {
			f.Add(mustAppend(f, st.AppendBinary))
			f.Add(mustAppend(f, st.AppendPublic))
		}
	}
	rows := batch(f, wideSchema(), `{"f64":1,"i64":2,"text":"t3","words":"a"}`, `{}`)
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := p.LoadState(data)
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Errorf("%v is not ErrCorrupt", err)
			}
			return
		}
		inputs(t, p, rows, st)
		if st.partial {
			return
		}
		again, err := p.LoadState(mustAppend(t, st.AppendBinary))
		if err != nil {
			t.Fatal(err)
		}
		delta, err := p.AppendDelta(nil, p.NewWorkspace(), rows)
		if err != nil {
			t.Fatal(err)
		}
		// A state that has counted all the rows it can takes no more.
		err, err2 := st.Merge(delta), again.Merge(delta)
		if (err == nil) != (err2 == nil) || err != nil && !errors.Is(err, tidemill.ErrCorrupt) {
			t.Errorf("a state says %v and, written and read, %v", err, err2)
		}
		if !bytes.Equal(mustAppend(t, st.AppendBinary), mustAppend(t, again.AppendBinary)) {
			t.Error("written and read, it learns otherwise")
		}
	})
}

func FuzzMerge(f *testing.F) {
	p := fuzzPlan(f)
	for _, row := range []string{`{}`, `{"f64":1,"i64":2,"text":"t3","words":"a b c"}`} {
		delta, err := p.AppendDelta(nil, p.NewWorkspace(), batch(f, wideSchema(), row, row))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(delta)
	}
	f.Fuzz(func(t *testing.T, delta []byte) {
		st := p.NewState()
		for range 12 { // enough to freeze
			if err := st.Merge(delta); err != nil {
				if !errors.Is(err, tidemill.ErrCorrupt) {
					t.Errorf("%v is not ErrCorrupt", err)
				}
				break
			}
		}
		if _, err := p.LoadState(mustAppend(t, st.AppendBinary)); err != nil {
			t.Errorf("what was merged does not load: %v", err)
		}
	})
}
