package predict_test

import (
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/predict/predicttest"
	"github.com/tidemill/tidemill/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t testing.TB, f *snapshot.VersionFiles) *predict.Model {
	t.Helper()
	m, err := predict.Load(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reference predicts with maps and the engine's Step, which training uses.
func reference(t testing.TB, f *snapshot.VersionFiles, rows arrow.RecordBatch) (predictions, losses []float32) {
	t.Helper()
	spec := f.Spec
	m, err := model.Compile(&spec, predicttest.Schema())
	if err != nil {
		t.Fatal(err)
	}
	var in engine.Inputs
	w := m.Plan.NewWorkspace()
	if err := m.Plan.Sparse(w, &in, rows, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Plan.Numeric(w, &in, rows, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Plan.Labels(&in, rows); err != nil {
		t.Fatal(err)
	}
	look := engine.Lookups(nil, &engine.Scratch{}, &in, m.Engine)
	var p engine.Params
	for i, l := range look {
		table := f.Tables[i]
		byID := map[uint64][]float32{}
		for r, id := range table.IDs {
			byID[id] = table.Weights[r*table.Dim : (r+1)*table.Dim]
		}
		var values []float32
		for _, id := range l.Unique {
			row, ok := byID[id]
			if !ok {
				row = make([]float32, table.Dim)
				table.Init.Fill(row, spec.Seed, tidemill.Hash(table.Name), id, 0)
			}
			values = append(values, row...)
		}
		p.Rows = append(p.Rows, values)
	}
	for _, tensor := range f.Tensors {
		p.Dense = append(p.Dense, tensor.Values)
	}
	res := m.Engine.NewStepper().Step(&in, look, &p)
	return slices.Clone(res.Predictions), slices.Clone(res.Losses)
}

func TestSameAsTraining(t *testing.T) {
	for _, kind := range []string{tidemill.Logistic, tidemill.FM, tidemill.WideDeep, tidemill.DeepFM, tidemill.MLP} {
		t.Run(kind, func(t *testing.T) {
			spec := predicttest.Spec("m")
			spec.Architecture = tidemill.Architecture{Kind: kind, Dim: 4, Hidden: []int{8}}
			f := predicttest.Make(t, spec, 3)
			rows := predicttest.Rows(300, 11) // has ids that the version has no row for
			defer rows.Release()
			wantP, wantL := reference(t, f, rows)
			s := load(t, f).NewScorer()
			gotP, err := s.Predict(nil, rows)
			if err != nil {
				t.Fatal(err)
			}
			gotL, err := s.Losses(nil, rows)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(gotP, wantP) || !slices.Equal(gotL, wantL) {
				t.Fatal("predictions or losses differ from training's")
			}
		})
	}
}

func TestParityAndFinite(t *testing.T) {
	f := predicttest.Files(t, "m", 1)
	m := load(t, f)
	if err := m.Warm(); err != nil {
		t.Fatal(err)
	}
	if rows, diff, err := m.Parity(); rows != 16 || diff != 0 || err != nil {
		t.Fatalf("Parity: %d rows, difference %g, %v", rows, diff, err)
	}
	if err := m.Finite(); err != nil {
		t.Fatal(err)
	}
	f.Probes.Expected[3] -= 0.25
	if _, diff, err := load(t, f).Parity(); math.Abs(diff-0.25) > 1e-6 || err != nil {
		t.Fatalf("difference %g, %v; want 0.25", diff, err)
	}
	f.Probes.Expected = f.Probes.Expected[:5]
	if _, _, err := load(t, f).Parity(); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	f.Probes = snapshot.Probes{}
	if rows, _, err := load(t, f).Parity(); rows != 0 || err != nil {
		t.Fatal("no probes:", rows, err)
	}
	f.Tables[0].Weights[2] = float32(math.NaN())
	if err := load(t, f).Finite(); err == nil {
		t.Fatal("a NaN weight is finite")
	}
	f = predicttest.Files(t, "m", 1)
	f.Tensors[0].Values[0] = float32(math.NaN())
	m = load(t, f)
	if err := m.Finite(); err == nil {
		t.Fatal("a NaN tensor is finite")
	}
	if _, diff, err := m.Parity(); !math.IsNaN(diff) || err != nil {
		t.Fatal("parity of a model that is not finite:", diff, err)
	}
}

func TestFilesThatDoNotFit(t *testing.T) {
	for name, spoil := range map[string]func(f *snapshot.VersionFiles){
		"no schema":       func(f *snapshot.VersionFiles) { f.SchemaIPC = nil },
		"schema":          func(f *snapshot.VersionFiles) { f.SchemaIPC = f.SchemaIPC[:len(f.SchemaIPC)/2] },
		"table missing":   func(f *snapshot.VersionFiles) { f.Tables = nil },
		"table dimension": func(f *snapshot.VersionFiles) { f.Tables[0].Dim = 2 },
		"table weights":   func(f *snapshot.VersionFiles) { f.Tables[0].Weights = f.Tables[0].Weights[1:] },
		"id twice":        func(f *snapshot.VersionFiles) { f.Tables[0].IDs[1] = f.Tables[0].IDs[0] },
		"tensor name":     func(f *snapshot.VersionFiles) { f.Tensors[0].Name = "x" },
		"tensor values":   func(f *snapshot.VersionFiles) { f.Tensors[0].Values = nil },
		"architecture":    func(f *snapshot.VersionFiles) { f.Spec.Architecture.Kind = "oracle" },
		"feature":         func(f *snapshot.VersionFiles) { f.Spec.Features[0].Column = "nowhere" },
	} {
		f := predicttest.Files(t, "m", 1)
		spoil(f)
		if _, err := predict.Load(f); !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v, want ErrCorrupt or ErrInvalid", name, err)
		}
	}
}

func TestRowsThatCannotBeUsed(t *testing.T) {
	s := load(t, predicttest.Files(t, "m", 1)).NewScorer()
	rows := predicttest.Rows(3, 1)
	defer rows.Release()
	less := array.NewRecordBatch(arrow.NewSchema(rows.Schema().Fields()[1:], nil), rows.Columns()[1:], rows.NumRows())
	defer less.Release()
	if _, err := s.Predict(nil, less); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error("missing column:", err)
	}
	b := array.NewFloat64Builder(memory.DefaultAllocator)
	b.AppendValues([]float64{1, math.NaN(), 3}, nil)
	nan := b.NewArray()
	defer nan.Release()
	columns := slices.Clone(rows.Columns())
	columns[0] = nan
	bad := array.NewRecordBatch(rows.Schema(), columns, 3)
	defer bad.Release()
	if _, err := s.Predict(nil, bad); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error("NaN:", err)
	}
	if got, err := s.Predict(nil, rows); len(got) != 3 || err != nil {
		t.Error("after bad rows:", len(got), err)
	}
	none := rows.NewSlice(0, 0)
	defer none.Release()
	if got, err := s.Predict(nil, none); len(got) != 0 || err != nil {
		t.Error("no rows:", len(got), err)
	}
}

func TestPriorLosses(t *testing.T) {
	rows := predicttest.Rows(100, 9)
	defer rows.Release()
	s := load(t, predicttest.Files(t, "m", 1)).NewScorer()
	got, err := s.PriorLosses(nil, rows, []float32{0.25})
	if err != nil {
		t.Fatal(err)
	}
	labels := rows.Column(4).(*array.Int64)
	for i, l := range got {
		want := -math.Log(0.75)
		if labels.Value(i) == 1 {
			want = -math.Log(0.25)
		}
		if math.Abs(float64(l)-want) > 1e-6 {
			t.Fatalf("row %d: %v, want %v", i, l, want)
		}
	}
	if _, err := s.PriorLosses(nil, rows, []float32{0.5, 0.5}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error(err)
	}
}

// A table with a bound: unknown ids of a full shard have its fallback row, others their
// initial values.
func TestFallbackOfFullShards(t *testing.T) {
	spec := predicttest.Spec("m")
	const shards, most = 4, 5 // rows per shard
	spec.Shards, spec.Train.MaxRows = shards, shards*most
	f := predicttest.Make(t, spec, 1)
	table := &f.Tables[0]
	table.MaxRows = shards * most
	for s, n := range count(table.IDs, shards) {
		if n < most {
			t.Fatalf("shard %d has %d rows: the test needs more", s, n)
		}
		table.IDs = append(table.IDs, math.MaxUint64-uint64(s))
		table.Weights = append(table.Weights, 1e6)
	}
	f.Probes = snapshot.Probes{}
	m := load(t, f)
	saw := false
	rows := predicttest.Rows(400, 77)
	defer rows.Release()
	got, err := m.NewScorer().Predict(nil, rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		saw = saw || p == 1
	}
	if !saw {
		t.Error("no unknown id met the fallback row")
	}
}

func count(ids []uint64, shards int) []int {
	n := make([]int, shards)
	for _, id := range ids {
		n[tidemill.ShardOf(id, shards)]++
	}
	return n
}

func TestBatchesMakeNoDifference(t *testing.T) {
	m := load(t, predicttest.Files(t, "m", 1))
	rapid.Check(t, func(t *rapid.T) {
		rows := predicttest.Rows(rapid.IntRange(1, 60).Draw(t, "rows"), rapid.Uint64().Draw(t, "seed"))
		defer rows.Release()
		s := m.NewScorer()
		whole, err := s.Predict(nil, rows)
		if err != nil {
			t.Fatal(err)
		}
		var parts []float32
		for at := int64(0); at < rows.NumRows(); {
			to := min(rows.NumRows(), at+rapid.Int64Range(1, 20).Draw(t, "part"))
			part := rows.NewSlice(at, to)
			if parts, err = s.Predict(parts, part); err != nil {
				t.Fatal(err)
			}
			part.Release()
			at = to
		}
		if !slices.Equal(whole, parts) {
			t.Fatal("predictions depend on the batch")
		}
	})
}

func TestConcurrentScorers(t *testing.T) {
	m := load(t, predicttest.Files(t, "m", 1))
	rows := predicttest.Rows(64, 21)
	defer rows.Release()
	want, err := m.NewScorer().Predict(nil, rows)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := m.NewScorer()
			for range 20 {
				if got, err := s.Predict(nil, rows); err != nil || !slices.Equal(got, want) {
					t.Error("concurrent predictions differ", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestNoAllocationPerRow(t *testing.T) {
	s := load(t, predicttest.Files(t, "m", 1)).NewScorer()
	rows := predicttest.Rows(1000, 2)
	defer rows.Release()
	dst, err := s.Predict(nil, rows)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(20, func() { dst, _ = s.Predict(dst[:0], rows) }); n > 20 {
		t.Errorf("%v allocations for a batch of 1000 rows", n)
	}
}

func FuzzDecodeRows(f *testing.F) {
	rows := predicttest.Rows(3, 1)
	defer rows.Release()
	data, err := predict.EncodeRows(rows)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := predict.DecodeRows(data)
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) {
			t.Fatal(err)
		}
		if rows != nil {
			rows.Release()
		}
	})
}

func BenchmarkPredict(b *testing.B) {
	s := load(b, predicttest.Files(b, "m", 1)).NewScorer()
	for _, n := range []int{1, 256} {
		rows := predicttest.Rows(n, 2)
		var dst []float32
		b.Run(map[int]string{1: "1", 256: "256"}[n], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = s.Predict(dst[:0], rows)
			}
		})
	}
}
