package feature

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// maxEdges bounds the edges of one feature: more would be hashing with extra steps.
const maxEdges = 100_000

// fixedEdges returns the edges that b spells out; nil when they are to be learned.
func fixedEdges(b *tidemill.Bucketize) []float64 {
	switch {
	case len(b.Edges) > 0:
		return slices.Clone(b.Edges)
	case len(b.Geometric) == 3:
		first, last, n := b.Geometric[0], b.Geometric[1], int(b.Geometric[2])
		edges := make([]float64, n)
		for i := range edges {
			edges[i] = first * math.Pow(last/first, float64(i)/float64(n-1))
		}
		edges[0], edges[n-1] = first, last
		return edges
	case len(b.Uniform) == 3:
		first, last, n := b.Uniform[0], b.Uniform[1], int(b.Uniform[2])
		edges := make([]float64, n)
		for i := range edges {
			t := float64(i) / float64(n-1)
			edges[i] = first*(1-t) + last*t
		}
		edges[0], edges[n-1] = first, last
		return edges
	}
	return nil
}

// quantileEdges returns the q-1 inner edges of q buckets of about equal count, fewer where
// values repeat. It sorts sample.
func quantileEdges(sample []float64, q int) []float64 {
	slices.Sort(sample)
	edges := make([]float64, 0, q-1)
	last := sample[0]
	for i := 1; i < q; i++ {
		e := sample[i*len(sample)/q]
		if e == last {
			// One value fills more than a bucket: end its bucket right above it.
			above, _ := slices.BinarySearchFunc(sample, last, func(v, last float64) int {
				if v <= last {
					return -1
				}
				return 1
			})
			if above == len(sample) {
				break
			}
			e = sample[above]
		}
		if e > last {
			edges = append(edges, e)
			last = e
		}
	}
	return edges
}

// hashEdges is what learned edges add to a feature's seed.
func hashEdges(edges []float64) uint64 {
	b := make([]byte, 0, 8*len(edges))
	for _, e := range edges {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e))
	}
	return xxh3.Hash(b)
}

// bucketIDs returns the ids of buckets 0..n.
func bucketIDs(dst []uint64, seed uint64, n int) []uint64 {
	dst = dst[:0]
	for k := 0; k <= n; k++ {
		dst = append(dst, hashNumber(seed, uint64(k)))
	}
	return dst
}

// bucketize writes ids[k] to dst for each x, where k edges are ≤ x. A NaN gets null.
func bucketize(dst []uint64, x, edges []float64, ids []uint64, null uint64) {
	dst = dst[:len(x)]
	for i, v := range x {
		if v != v {
			dst[i] = null
			continue
		}
		lo, n := 0, len(edges)
		for n > 0 {
			half := n >> 1
			if edges[lo+half] <= v {
				lo += half + 1
				n -= half + 1
			} else {
				n = half
			}
		}
		dst[i] = ids[lo]
	}
}
