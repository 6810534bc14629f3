//go:build tensorflow

package tensorflow_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/native"
	"github.com/tidemill/tidemill/ps/optim"
)

// resident returns the process's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("this system does not say how much memory a process has")
	}
	pages, err := strconv.ParseInt(string(bytes.Fields(b)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Steps of changing size leave no memory behind. TIDEMILL_TENSORFLOW_RUNS=100000 is the long form.
func TestRunsDoNotLeak(t *testing.T) {
	runs := 3000
	if s := os.Getenv("TIDEMILL_TENSORFLOW_RUNS"); s != "" {
		var err error
		if runs, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	m := compileRatings(t)
	st := m.NewStepper()
	var sizes [3]func()
	for i, n := range []int{1, 64, 257} {
		in, look, p := examples(m, n, uint64(i))
		dst := make([]float32, n*m.Outputs())
		sizes[i] = func() {
			st.Step(in, look, p)
			st.Predict(dst, in, look, p)
		}
	}
	for i := range 600 {
		sizes[i%3]()
	}
	before := resident(t)
	for i := range runs {
		sizes[i%3]()
	}
	if err := st.Err(); err != nil {
		t.Fatal(err)
	}
	grown := resident(t) - before
	t.Logf("%d steps and predictions: %+.1f MiB", runs, float64(grown)/(1<<20))
	// A run feeds and fetches at least 10 kB on average: a leak of one in a hundred shows in the
	// short form, of a few bytes a run in the long one.
	if most := int64(24<<20) + 64*int64(runs); grown > most {
		t.Errorf("the process grew by %d bytes in %d runs", grown, runs)
	}
}

// DeepFM by TensorFlow and by the native engine, trained on the same batches by the same rules:
// the loss of each of 200 batches agrees within 0.1 %.
func TestLossCurves(t *testing.T) {
	const batches, n, fields, width = 200, 128, 6, 3
	shape := engine.Shape{Fields: fields, Width: width, IsCross: make([]bool, fields), FieldNames: make([]string, fields), Outputs: 1}
	spec := &tidemill.Spec{Architecture: tidemill.Architecture{Kind: tidemill.DeepFM, Dim: 8, Hidden: []int{64, 32}}}
	curve := func(d engine.Driver) []float64 {
		m, err := d.Compile(spec, shape, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return train(t, m, shape, batches, n)
	}
	flow, plain := curve(driver(t)), curve(native.Driver())
	var most float64
	for i := range flow {
		most = max(most, math.Abs(flow[i]-plain[i])/plain[i])
	}
	t.Logf("loss %.4f to %.4f; they differ by at most %.2g of it", plain[0], plain[batches-1], most)
	if !(most <= 1e-3) {
		t.Errorf("the loss curves differ by %.2g", most)
	}
	if !(plain[batches-1] < 0.95*plain[0]) {
		t.Error("nothing was learned that could differ")
	}
}

// train returns the mean loss of each batch, computed before it was learned from.
func train(t *testing.T, m engine.Model, shape engine.Shape, batches, n int) []float64 {
	r := rand.New(rand.NewPCG(5, 5))
	sparse := optim.Adagrad{LR: 0.05, Initial: 0.1, Epsilon: 1e-10}
	dense := optim.Adam{LR: 0.003, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}
	type row struct{ w, state []float32 }
	rows := make([]map[uint64]row, len(m.Tables()))
	p, states := new(engine.Params), make([][]float32, len(m.Tensors()))
	for k, spec := range m.Tensors() {
		v := make([]float32, spec.Len())
		spec.Init.Fill(v, 1, tidemill.Hash(spec.Name), 0, 0)
		p.Dense = append(p.Dense, v)
		states[k] = make([]float32, dense.StateLen(len(v)))
		dense.Init(states[k], v)
	}
	p.Rows = make([][]float32, len(rows))
	st := m.NewStepper()
	var curve []float64
	for range batches {
		in := new(engine.Inputs)
		in.Reset(shape.Fields, shape.Width)
		in.N = n
		for range n {
			score := 0.0
			for f := range shape.Fields {
				id := r.IntN(50)
				score += float64((id+f)%3) - 1
				in.IDs = append(in.IDs, tidemill.Mix(uint64(f*1000+id)))
				in.Offsets = append(in.Offsets, int32(len(in.IDs)))
			}
			for range shape.Width {
				v := r.NormFloat64()
				score += v
				in.Dense = append(in.Dense, float32(v))
			}
			in.Labels = append(in.Labels, 0)
			if score+r.NormFloat64() > 0 {
				in.Labels[len(in.Labels)-1] = 1
			}
		}
		look := engine.Lookups(nil, new(engine.Scratch), in, m)
		for tb, spec := range m.Tables() {
			if rows[tb] == nil {
				rows[tb] = map[uint64]row{}
			}
			p.Rows[tb] = p.Rows[tb][:0]
			for _, id := range look[tb].Unique {
				own, ok := rows[tb][id]
				if !ok {
					own = row{make([]float32, spec.Dim), make([]float32, sparse.StateLen(spec.Dim))}
					spec.Init.Fill(own.w, 1, tidemill.Hash(spec.Name), id, 0)
					sparse.Init(own.state, own.w)
					rows[tb][id] = own
				}
				p.Rows[tb] = append(p.Rows[tb], own.w...)
			}
		}
		res := st.Step(in, look, p)
		if err := st.Err(); err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, l := range res.Losses {
			sum += float64(l)
		}
		curve = append(curve, sum/float64(n))
		for tb, spec := range m.Tables() {
			for i, id := range look[tb].Unique {
				own := rows[tb][id]
				sparse.Apply(own.w, own.state, res.RowGrads[tb][i*spec.Dim:(i+1)*spec.Dim], 1)
			}
		}
		for k := range p.Dense {
			dense.Apply(p.Dense[k], states[k], res.DenseGrads[k], 1)
		}
	}
	return curve
}

// BenchmarkStep shows what threads bring and cost: go test -tags tensorflow -bench Step.
func BenchmarkStep(b *testing.B) {
	const n, fields, width = 2048, 26, 13
	shape := engine.Shape{Fields: fields, Width: width, IsCross: make([]bool, fields), FieldNames: make([]string, fields), Outputs: 1}
	spec := &tidemill.Spec{Architecture: tidemill.Architecture{Kind: tidemill.DeepFM, Dim: 16, Hidden: []int{400, 400, 400}}}
	for _, threads := range []int{1, 2} {
		b.Run("threads="+strconv.Itoa(threads), func(b *testing.B) {
			m, err := driver(b).Compile(spec, shape, engine.Options{Threads: threads})
			if err != nil {
				b.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, 1))
			in := new(engine.Inputs)
			in.Reset(fields, width)
			in.N = n
			for range n {
				for f := range fields {
					in.IDs = append(in.IDs, tidemill.Mix(uint64(f*100000+r.IntN(10000))))
					in.Offsets = append(in.Offsets, int32(len(in.IDs)))
				}
				for range width {
					in.Dense = append(in.Dense, float32(r.NormFloat64()))
				}
				in.Labels = append(in.Labels, float32(r.IntN(2)))
			}
			look := engine.Lookups(nil, new(engine.Scratch), in, m)
			p := new(engine.Params)
			for t, s := range m.Tables() {
				v := make([]float32, len(look[t].Unique)*s.Dim)
				for i := range v {
					v[i] = float32(0.01 * r.NormFloat64())
				}
				p.Rows = append(p.Rows, v)
			}
			for _, s := range m.Tensors() {
				v := make([]float32, s.Len())
				s.Init.Fill(v, 1, tidemill.Hash(s.Name), 0, 0)
				p.Dense = append(p.Dense, v)
			}
			st := m.NewStepper()
			for b.Loop() {
				st.Step(in, look, p)
			}
			if err := st.Err(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
