package feature

import (
	"math"
	"math/bits"
	"strconv"

	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// golden is 2⁶⁴ divided by the golden ratio: multiples of it spread small integers.
const golden = 0x9e3779b97f4a7c15

// Tags keep values of one kind apart from equal bits of another.
const (
	tagNull    = 0xd1b54a32d192ed03 // a null
	tagOther   = 0x8cb92ba72f3d8dd7 // not in the vocabulary
	tagUnknown = 0xabc98388fb8fac03 // buckets or vocabulary not learned yet
	tagFloat   = 0x139408dcbbf7a44d // a number that is no 64-bit integer
	tagUint    = 0x2545f4914f6cdd1d // an integer ≥ 2⁶³
	tagCross   = 0xff51afd7ed558ccd
)

// seedOf is the seed of the feature called name.
func seedOf(name string) uint64 { return xxh3.HashString(name) }

// hashNumber is the id of canonical number c under seed; for one seed distinct c never collide.
func hashNumber(seed, c uint64) uint64 { return tidemill.Mix(seed + c*golden) }

// hashText is the id of a text under seed.
func hashText(seed uint64, b []byte) uint64 { return xxh3.HashSeed(b, seed) }

// special is the id of what tag names under seed.
func special(seed, tag uint64) uint64 { return tidemill.Mix(tidemill.Mix(seed^tag) + tag) }

// reduce maps h evenly to [0, n) and back to an id under seed.
func reduce(seed, h, n uint64) uint64 {
	k, _ := bits.Mul64(h, n)
	return hashNumber(seed, k)
}

// crossStep folds the id of the next part into h; the order of parts matters.
func crossStep(h, id uint64) uint64 { return tidemill.Mix(h*golden + id) }

// canonUint and canonFloat give the canonical form of a number: equal values have equal
// forms, whatever the column's type. Integers in [-2⁶³, 2⁶³) are their two's complement.
func canonUint(x uint64) uint64 {
	if x > math.MaxInt64 {
		return tidemill.Mix(x ^ tagUint)
	}
	return x
}

func canonFloat(x float64) uint64 {
	if x >= -(1<<63) && x < 1<<63 {
		if i := int64(x); float64(i) == x {
			return uint64(i)
		}
	} else if x >= 1<<63 && x < 1<<64 {
		return canonUint(uint64(x)) // such floats are whole
	}
	if x != x {
		x = math.NaN()
	}
	return tidemill.Mix(math.Float64bits(x) ^ tagFloat)
}

// canonText reads a number written in a spec and gives its canonical form.
func canonText(s string) (uint64, bool) {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return uint64(i), true
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return canonUint(u), true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, false
	}
	return canonFloat(f), true
}

// idSet maps ids to small numbers by linear probing over a power-of-two array at most half
// full. The zero value holds nothing; id 0 is kept apart since it marks a free slot.
type idSet struct {
	keys []uint64
	vals []int32
	mask uint64
	n    int
	zero int32 // value of id 0, or -1
}

// newIDSet holds ids, each with its position as value; a later duplicate wins nothing.
func newIDSet(ids []uint64) *idSet {
	s := &idSet{zero: -1}
	size := 8
	for size < 2*len(ids)+2 {
		size *= 2
	}
	s.keys, s.vals, s.mask = make([]uint64, size), make([]int32, size), uint64(size-1)
	for i, id := range ids {
		s.put(id, int32(i))
	}
	return s
}

func (s *idSet) put(id uint64, v int32) {
	if id == 0 {
		if s.zero < 0 {
			s.zero = v
			s.n++
		}
		return
	}
	for j := (id * golden) >> 32 & s.mask; ; j = (j + 1) & s.mask {
		switch s.keys[j] {
		case id:
			return
		case 0:
			s.keys[j], s.vals[j] = id, v
			s.n++
			return
		}
	}
}

// get returns the value of id, or -1.
func (s *idSet) get(id uint64) int32 {
	if id == 0 {
		return s.zero
	}
	for j := (id * golden) >> 32 & s.mask; ; j = (j + 1) & s.mask {
		switch s.keys[j] {
		case id:
			return s.vals[j]
		case 0:
			return -1
		}
	}
}
