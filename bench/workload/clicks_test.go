package workload

import (
	"math"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
)

// However it is cut, the stream is the same.
func TestClicksOfParts(t *testing.T) {
	c := &Clicks{Seed: 5, Drift: 0.5}
	whole := c.Batch(100, 50)
	defer whole.Release()
	part := c.Batch(120, 10)
	defer part.Release()
	slice := whole.NewSlice(20, 30)
	defer slice.Release()
	if !array.RecordEqual(part, slice) {
		t.Fatal("rows 120 to 130 differ when they are made alone")
	}
	other := (&Clicks{Seed: 6, Drift: 0.5}).Batch(120, 10)
	defer other.Release()
	if array.RecordEqual(part, other) {
		t.Fatal("another seed gives the same rows")
	}
}

// The planted effects leave room between guessing and certainty, as in real click streams.
func TestClicksHaveAShape(t *testing.T) {
	const n = 20000
	for _, c := range []*Clicks{{Seed: 1}, {Seed: 2, Drift: 0.7}} {
		var clicked float64
		var row Click
		for i := range int64(n) {
			c.Row(i, &row)
			if row.Clicked {
				clicked++
			}
			for j, r := range row.Ranks {
				if r >= cardinality[j] {
					t.Fatalf("category %d has rank %d of %d", j, r, cardinality[j])
				}
			}
		}
		auc := c.BestAUC(0, n)
		t.Logf("seed %d drift %v: rate %.4f, best AUC %.4f", c.Seed, c.Drift, clicked/n, auc)
		if rate := clicked / n; rate < 0.2 || rate > 0.35 || auc < 0.8 || auc > 0.88 {
			t.Errorf("seed %d: rate %.4f, best AUC %.4f", c.Seed, rate, auc)
		}
	}
}

func TestAUC(t *testing.T) {
	for _, c := range []struct {
		scores   []float64
		positive []bool
		want     float64
	}{
		{[]float64{1, 2, 3, 4}, []bool{false, false, true, true}, 1},
		{[]float64{4, 3, 2, 1}, []bool{false, false, true, true}, 0},
		{[]float64{1, 1, 1, 1}, []bool{false, true, false, true}, 0.5},
		{[]float64{1, 2, 2, 3}, []bool{false, false, true, true}, 0.875},
	} {
		if got := AUC(c.scores, c.positive); got != c.want {
			t.Errorf("%v of %v: %v, want %v", c.scores, c.positive, got, c.want)
		}
	}
	if !math.IsNaN(AUC([]float64{1}, []bool{true})) {
		t.Error("an AUC without negatives")
	}
}

func BenchmarkClicks(b *testing.B) {
	c := &Clicks{Seed: 1}
	for b.Loop() {
		c.Batch(0, 1000).Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/row")
}
