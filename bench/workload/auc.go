package workload

import (
	"cmp"
	"math"
	"slices"
)

// AUC is the area under the receiver operating characteristic: the probability that a
// positive scores above a negative, ties counting half (Mann, Whitney 1947). It is NaN
// without both.
func AUC(scores []float64, positive []bool) float64 {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(scores[a], scores[b]) })
	var sum, positives float64
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && scores[order[j]] == scores[order[i]] {
			j++
		}
		rank := float64(i+j+1) / 2 // the mean of ranks i+1 … j
		for _, o := range order[i:j] {
			if positive[o] {
				sum += rank
				positives++
			}
		}
		i = j
	}
	negatives := float64(len(order)) - positives
	if positives == 0 || negatives == 0 {
		return math.NaN()
	}
	return (sum - positives*(positives+1)/2) / (positives * negatives)
}
