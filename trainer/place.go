package trainer

import (
	"slices"

	"github.com/tidemill/tidemill"
)

// Place assigns items 0…n−1 to members by rendezvous hashing (Thaler, Ravishankar 1998) with
// bounded loads: nobody gets more than one item above anybody else's share. An item stays with
// its previous owner while that owner lives and has room, so only what must move moves. weight
// is a member's share (slots; nil means 1 each). The result depends on its arguments alone.
func Place(n int, members []string, weight map[string]int, prev []string) []string {
	out := make([]string, n)
	if len(members) == 0 {
		return out
	}
	members = slices.Clone(members)
	slices.Sort(members)
	total := 0
	w := func(m string) int { return max(1, weight[m]) }
	for _, m := range members {
		total += w(m)
	}
	// Quotas by largest remainder, ties by name, so that they add up to n.
	quota := map[string]int{}
	type rem struct {
		member string
		frac   int
	}
	var rems []rem
	left := n
	for _, m := range members {
		q := n * w(m) / total
		quota[m] = q
		left -= q
		rems = append(rems, rem{m, n * w(m) % total})
	}
	// A previous owner keeps the extra seat if it needs it; then the largest remainders.
	held := map[string]int{}
	for i, m := range prev {
		if i < n {
			held[m]++
		}
	}
	slices.SortStableFunc(rems, func(a, b rem) int {
		ka, kb := held[a.member] > quota[a.member], held[b.member] > quota[b.member]
		if ka != kb {
			if ka {
				return -1
			}
			return 1
		}
		return b.frac - a.frac
	})
	for i := 0; i < left; i++ {
		quota[rems[i%len(rems)].member]++
	}
	alive := map[string]bool{}
	for _, m := range members {
		alive[m] = true
	}
	used := map[string]int{}
	for i := range out {
		if i < len(prev) && alive[prev[i]] && used[prev[i]] < quota[prev[i]] {
			out[i] = prev[i]
			used[prev[i]]++
		}
	}
	for i := range out {
		if out[i] != "" {
			continue
		}
		best, bestScore := "", uint64(0)
		for _, m := range members {
			if used[m] >= quota[m] {
				continue
			}
			score := tidemill.Mix(tidemill.Hash(m) ^ tidemill.Mix(uint64(i)+1))
			if best == "" || score > bestScore {
				best, bestScore = m, score
			}
		}
		out[i] = best
		used[best]++
	}
	return out
}
