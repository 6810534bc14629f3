package bench

import "testing"

// Every staleness trains every row once; at 0 all runs end with the same bits.
func TestStaleness(t *testing.T) {
	const rows = 403
	var seen []StalenessResult
	got, err := Staleness(t.Context(), StalenessConfig{
		Dir: t.TempDir(), Data: []string{"power"}, Staleness: []int{0, 2, -1}, Partitions: 3, Slots: 2, Rows: rows, Runs: 2,
		Done: func(r StalenessResult) { seen = append(seen, r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || len(seen) != 3 {
		t.Fatalf("%d results, %d told", len(got), len(seen))
	}
	for i, r := range got {
		if r != seen[i] || r.Rows != rows || r.RowsPerSecond <= 0 || r.Slowest > r.RowsPerSecond || r.Fastest < r.RowsPerSecond || r.Loss <= 0 || r.PriorLoss <= 0 || r.Runs != 2 {
			t.Errorf("%+v", r)
		}
	}
	if r := got[0]; r.Staleness != 0 || r.Digests != 1 || r.LossSpread != 0 {
		t.Errorf("staleness 0 does not repeat itself: %+v", r)
	}
	if _, err := Staleness(t.Context(), StalenessConfig{Dir: t.TempDir(), Data: []string{"powr"}, Staleness: []int{0}}); err == nil {
		t.Error("an unknown stream")
	}
}
