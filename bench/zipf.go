package bench

import (
	"math"
	"math/rand/v2"

	"github.com/tidemill/tidemill"
)

// zipf draws ids of a population whose k-th most frequent member comes about as often as k^-s
// says. It inverts the continuous distribution on [1, n+1), so a draw costs the same whatever n.
type zipf struct {
	n uint64
	s float64
}

// rank draws a member, 0 the most frequent. s 0 draws all alike.
func (z zipf) rank(r *rand.Rand) uint64 {
	u, n := r.Float64(), float64(z.n)
	var x float64
	switch z.s {
	case 0:
		return r.Uint64N(z.n)
	case 1:
		x = math.Exp(u * math.Log(n+1))
	default:
		x = math.Pow(1+u*(math.Pow(n+1, 1-z.s)-1), 1/(1-z.s))
	}
	return min(z.n-1, uint64(x)-1)
}

// id is the id of a member: spread over all 64 bits, as hashed values are.
func id(rank uint64) uint64 { return tidemill.Mix(rank + 1) }

// distinct draws until dst is full of different ids, as a batch asks for each id once, and
// returns how many draws that took. dst is at most a quarter of the population.
func (z zipf) distinct(r *rand.Rand, dst []uint64, seen map[uint64]struct{}) (draws int) {
	clear(seen)
	for i := 0; i < len(dst); draws++ {
		v := id(z.rank(r))
		if _, ok := seen[v]; ok {
			continue
		}
		seen[v] = struct{}{}
		dst[i] = v
		i++
	}
	return draws
}
