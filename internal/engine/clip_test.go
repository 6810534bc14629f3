package engine

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// What is clipped keeps its direction and has at most the norm asked for; what is shorter
// keeps its bits.
func TestClipNorm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOf(rapid.Custom(func(t *rapid.T) float32 {
			return float32(rapid.IntRange(-1_000_000, 1_000_000).Draw(t, "thousandths")) / 1000
		}))
		r := &Result{RowGrads: [][]float32{values.Draw(t, "a"), values.Draw(t, "b")}, DenseGrads: [][]float32{values.Draw(t, "c")}}
		limit := rapid.Float64Range(1e-3, 1e4).Draw(t, "limit")
		var was []float32
		for _, g := range append(r.RowGrads, r.DenseGrads...) {
			was = append(was, g...)
		}
		norm := func(v []float32) (sum float64) {
			for _, x := range v {
				sum += float64(x) * float64(x)
			}
			return math.Sqrt(sum)
		}
		ClipNorm(r, 0)
		before := norm(was)
		ClipNorm(r, limit)
		var now []float32
		for _, g := range append(r.RowGrads, r.DenseGrads...) {
			now = append(now, g...)
		}
		if after := norm(now); after > limit*(1+1e-6) && before > limit || before <= limit && after != before {
			t.Fatalf("norm %v became %v with limit %v", before, after, limit)
		}
		for i := range now {
			if want := float64(was[i]) * min(1, limit/before); before > 0 && math.Abs(float64(now[i])-want) > 1e-6*math.Abs(want)+1e-44 {
				t.Fatalf("value %d: %v became %v, want %v", i, was[i], now[i], want)
			}
		}
	})
}
