package native_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/native"
	"github.com/tidemill/tidemill/internal/kernel"
)

// clicks returns n examples in the shape of bench/workload's: 13 numbers, 26 categories with up
// to ten million values, Zipf-distributed, and initial parameters.
func clicks(m engine.Model, n int) (*engine.Inputs, []engine.Lookup, *engine.Params) {
	const fields, width = 26, 13
	r := rand.New(rand.NewPCG(7, 7))
	in := new(engine.Inputs)
	in.Reset(fields, width)
	in.N = n
	for range n {
		for f := range fields {
			values := math.Pow(10, float64(1+f%7))
			in.IDs = append(in.IDs, tidemill.Mix(uint64(f)<<32|uint64(math.Pow(values, r.Float64()))))
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, float32(r.IntN(2)))
	}
	look := engine.Lookups(nil, new(engine.Scratch), in, m)
	return in, look, initial(m, look)
}

// BenchmarkDeepFM is the step of a DeepFM of 26 × 16 + 13 → 429-256-128-1: 0.86 MFLOP a row
// forward and backward.
func BenchmarkDeepFM(b *testing.B) {
	shape := engine.Shape{Fields: 26, Width: 13, IsCross: make([]bool, 26), FieldNames: make([]string, 26), Outputs: 1}
	spec := &tidemill.Spec{Architecture: tidemill.Architecture{Kind: tidemill.DeepFM, Dim: 16, Hidden: []int{256, 128}}}
	const flop = 3 * 2 * (429*256 + 256*128 + 128)
	for _, level := range kernel.Levels()[1:] {
		for _, n := range []int{512, 2048, 8192} {
			b.Run(fmt.Sprintf("level=%v/n=%d", level, n), func(b *testing.B) {
				m, err := native.Compile(spec, shape, level)
				if err != nil {
					b.Fatal(err)
				}
				in, look, p := clicks(m, n)
				st := m.NewStepper()
				st.Step(in, look, p)
				b.ReportAllocs()
				began := processTime()
				for b.Loop() {
					st.Step(in, look, p)
				}
				used := (processTime() - began).Seconds()
				rows := float64(b.N) * float64(n)
				b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
				b.ReportMetric(rows/used, "rows/CPUs")
				b.ReportMetric(flop*rows/used/1e9, "GFLOP/CPUs")
			})
		}
	}
}
