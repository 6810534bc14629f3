package native_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
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
	const flop = 3 * 2 * (429*256 + 256*128 + 128)
	type variant struct {
		level     kernel.Level
		precision string
		cores     int
		n         int
	}
	var all []variant
	for _, level := range kernel.Levels()[1:] {
		for _, precision := range []string{tidemill.Float32, tidemill.BFloat16} {
			for _, cores := range []int{1, runtime.GOMAXPROCS(0)} {
				for _, n := range []int{512, 2048, 8192} {
					all = append(all, variant{level, precision, cores, n})
				}
			}
		}
	}
	for _, v := range all {
		b.Run(fmt.Sprintf("level=%v/precision=%s/cores=%d/n=%d", v.level, v.precision, v.cores, v.n), func(b *testing.B) {
			spec := &tidemill.Spec{Architecture: tidemill.Architecture{Kind: tidemill.DeepFM, Dim: 16, Hidden: []int{256, 128}, Precision: v.precision}}
			m, err := native.Compile(spec, shape, v.level, engine.NewCores(v.cores))
			if err != nil {
				b.Fatal(err)
			}
			in, look, p := clicks(m, v.n)
			st := m.NewStepper()
			st.Step(in, look, p)
			b.ReportAllocs()
			began := processTime()
			for b.Loop() {
				st.Step(in, look, p)
			}
			used := (processTime() - began).Seconds()
			rows := float64(b.N) * float64(v.n)
			b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(rows/used, "rows/CPUs")
			b.ReportMetric(flop*rows/used/1e9, "GFLOP/CPUs")
		})
	}
}
