package feature

import (
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// tenFeatures is numeric, hashed and bucketized columns, a cross and something learned.
func tenFeatures(t testing.TB, n int) (*Plan, arrow.RecordBatch, *State) {
	schema := fields("a", arrow.PrimitiveTypes.Float64, "b", arrow.PrimitiveTypes.Float32, "c", arrow.PrimitiveTypes.Int64, "s", arrow.BinaryTypes.String,
		"y", arrow.PrimitiveTypes.Int8)
	s := job(
		tidemill.FeatureSpec{Name: "a", Column: "a"}, tidemill.FeatureSpec{Name: "b", Column: "b", Clip: []float64{0, 9}},
		tidemill.FeatureSpec{Name: "c", Column: "c", Standardize: &tidemill.Standardize{}}, tidemill.FeatureSpec{Name: "s", Column: "s"},
		tidemill.FeatureSpec{Name: "ha", Column: "c", Hash: &tidemill.HashSpec{}}, tidemill.FeatureSpec{Name: "hb", Column: "s", Hash: &tidemill.HashSpec{Buckets: 100}},
		tidemill.FeatureSpec{Name: "ba", Column: "a", Bucketize: &tidemill.Bucketize{Uniform: []float64{0, 100, 48}}},
		tidemill.FeatureSpec{Name: "bb", Column: "b", Bucketize: &tidemill.Bucketize{Geometric: []float64{0.01, 10, 19}}},
		tidemill.FeatureSpec{Name: "bq", Column: "a", Bucketize: &tidemill.Bucketize{Quantiles: 10, LearnRows: 1000}},
		tidemill.FeatureSpec{Cross: []string{"ba", "bb"}},
	)
	p := compile(t, s, schema)
	var text []string
	for i := range n {
		text = append(text, fmt.Sprintf(`{"a":%d,"b":%d,"c":%d,"s":"value %d","y":%d}`, i%97, i%13, i, i%50, i%2))
	}
	rows := batch(t, schema, text...)
	st := p.NewState()
	for range (1000 + n - 1) / n {
		learn(t, p, st, rows)
	}
	if !p.SparseFrozen(st) {
		t.Fatal("not frozen")
	}
	return p, rows, st
}

// step is what a worker does with each batch.
func step(t testing.TB, p *Plan, w *Workspace, in *engine.Inputs, rows arrow.RecordBatch, home, worker *State, buf []byte) []byte {
	if p.Check(rows, true) != nil {
		t.Fatal("bad rows")
	}
	buf, err := home.AppendPublicSince(buf[:0], worker.Frozen())
	if err == nil {
		err = p.ReadState(worker, buf)
	}
	if err == nil {
		err = p.Sparse(w, in, rows, worker)
	}
	if err == nil {
		err = p.Numeric(w, in, rows, worker)
	}
	if err == nil {
		err = p.Labels(in, rows)
	}
	if err == nil {
		buf, err = p.AppendDelta(buf[:0], w, rows)
	}
	if err == nil {
		err = home.Merge(buf)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

func TestAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector a sync.Pool drops what it is given")
	}
	for _, n := range []int{1, 512} {
		p, rows, st := tenFeatures(t, n)
		worker, err := p.LoadState(mustAppend(t, st.AppendPublic))
		if err != nil {
			t.Fatal(err)
		}
		w, in := p.NewWorkspace(), new(engine.Inputs)
		var buf []byte
		// A garbage collection may empty the plan's pool of workspaces, hence not exactly 0.
		if got := testing.AllocsPerRun(200, func() { buf = step(t, p, w, in, rows, st, worker, buf) }); got > 1 {
			t.Errorf("%d rows: %v allocations per batch", n, got)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	for _, n := range []int{1, 512} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			p, rows, st := tenFeatures(b, n)
			worker, err := p.LoadState(mustAppend(b, st.AppendPublic))
			if err != nil {
				b.Fatal(err)
			}
			w, in := p.NewWorkspace(), new(engine.Inputs)
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = step(b, p, w, in, rows, st, worker, buf)
			}
		})
	}
}
