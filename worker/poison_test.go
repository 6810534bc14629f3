package worker

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Rows that are bad by themselves are found, each once; where only a sum is too large, what is
// left is fine and nothing more than needed is left out. The same rows give the same answer.
func TestPoisoned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 80).Draw(t, "rows")
		weight := rapid.SliceOfN(rapid.IntRange(0, 20), n, n).Draw(t, "weights")
		limit := rapid.IntRange(20, 900).Draw(t, "limit")
		bad := map[int]bool{}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, n-1), 0, 6).Draw(t, "bad") {
			bad[i] = true
		}
		calls := 0
		fine := func(idx []int) bool {
			calls++
			if len(idx) == 0 || !slices.IsSorted(idx) {
				t.Fatalf("asked about %v", idx)
			}
			sum := 0
			for _, i := range idx {
				if bad[i] {
					return false
				}
				sum += weight[i]
			}
			return sum <= limit
		}
		out := poisoned(n, fine)
		if !slices.IsSorted(out) {
			t.Fatalf("left out: %v", out)
		}
		var kept []int
		for i := range n {
			if !slices.Contains(out, i) {
				kept = append(kept, i)
			}
		}
		if len(kept) > 0 && !fine(kept) {
			t.Fatalf("%v is not fine without %v", kept, out)
		}
		sum := 0 // of what is kept so far: a row is out only where it does not fit any more
		for i := range n {
			switch {
			case !slices.Contains(out, i):
				sum += weight[i]
			case !bad[i] && sum+weight[i] <= limit:
				t.Fatalf("row %d is left out, and fits", i)
			}
		}
		if most := 1 + (len(out)+1)*9; calls > most {
			t.Fatalf("%d calls for %d rows, %d of them left out", calls, n, len(out))
		}
		if again := poisoned(n, fine); !slices.Equal(again, out) {
			t.Fatalf("first %v, then %v", out, again)
		}
	})
}
