package trainer

import "slices"

// Move gives a shard to another ps.
type Move struct {
	Shard int
	To    string
}

// What counts as overloaded, and what is worth a handover. Loads are in rows per second.
const (
	overload  = 1.25   // times its share that a ps carries
	worth     = 0.02   // of a ps's fair share, that a move takes off the more loaded of two
	leastLoad = 10_000 // of all shards together: below it nobody is busy
	mostMoves = 4      // at a time
	mostOwned = 1.5    // times its share of the shards that a ps may hold, for the sake of its memory
)

// Relieve returns the moves, at most mostMoves, that take the hottest shards off the ps that
// carry more than overload times their share, to those with room. load is by shard, not
// negative; owners by shard; weight is a ps's share (nil means 1 each). Nothing moves unless
// every owner is one of members. The moves are to be made in order, and each leaves the more
// loaded of its two ps with less than before: repeated on loads that stay the same, the moves
// come to an end. A shard that carries more than a ps's share by itself stays where it is. No
// ps is left without a shard. The result depends on the arguments alone.
func Relieve(load []int64, owners, members []string, weight map[string]int) []Move {
	if len(load) != len(owners) || len(members) < 2 {
		return nil
	}
	members = slices.Clone(members)
	slices.Sort(members)
	members = slices.Compact(members)
	at := make([]int, len(owners)) // index of each shard's owner in members
	share := make([]float64, len(members))
	sum, held := make([]int64, len(members)), make([]int, len(members))
	var total int64
	var shares float64
	for i, m := range members {
		share[i] = float64(max(1, weight[m]))
		shares += share[i]
	}
	for s, m := range owners {
		i, ok := slices.BinarySearch(members, m)
		if !ok {
			return nil
		}
		at[s] = i
		sum[i] += load[s]
		held[i]++
		total += load[s]
	}
	if total < leastLoad {
		return nil
	}
	fair := float64(total) / shares // load per share
	per := func(i int, l int64) float64 { return float64(l) / share[i] }
	room := func(i int) bool { return float64(held[i]+1) <= mostOwned*float64(len(owners))*share[i]/shares }

	// best returns the move off b that leaves the more loaded of the two with the least; -1: none
	// is worth it.
	best := func(b int) (shard, to int) {
		shard, to = -1, -1
		least := per(b, sum[b]) - worth*fair
		for s, i := range at {
			if i != b || load[s] == 0 || held[b] < 2 {
				continue
			}
			for a := range members {
				if a == b || !room(a) {
					continue
				}
				after := max(per(b, sum[b]-load[s]), per(a, sum[a]+load[s]))
				if after < least || shard >= 0 && after == least && load[s] > load[shard] {
					shard, to, least = s, a, after
				}
			}
		}
		return shard, to
	}
	var moves []Move
	for len(moves) < mostMoves {
		busiest := make([]int, len(members))
		for i := range busiest {
			busiest[i] = i
		}
		slices.SortStableFunc(busiest, func(i, k int) int {
			switch a, b := per(i, sum[i]), per(k, sum[k]); {
			case a > b:
				return -1
			case a < b:
				return 1
			}
			return 0
		})
		shard, to := -1, -1
		for _, b := range busiest {
			if per(b, sum[b]) <= overload*fair {
				break
			}
			if shard, to = best(b); shard >= 0 {
				break
			}
		}
		if shard < 0 {
			break
		}
		from := at[shard]
		sum[from], sum[to] = sum[from]-load[shard], sum[to]+load[shard]
		held[from], held[to] = held[from]-1, held[to]+1
		at[shard] = to
		moves = append(moves, Move{Shard: shard, To: members[to]})
	}
	return moves
}
