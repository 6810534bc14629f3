package feature

import (
	"cmp"
	"slices"

	"github.com/tidemill/tidemill"
)

// State is what a plan's transforms have learned. It has one writer at a time (Merge,
// ReadState); any number of goroutines may read it (Sparse, Numeric) while nobody writes.
type State struct {
	plan      *Plan
	moments   []moments
	quantiles []quantileState
	vocabs    []vocabState
	// partial: made from the public form while something was still being learned, so its
	// samples are elsewhere and it cannot be merged into.
	partial bool
}

// quantileState learns edges: first samples, then, frozen, edges with their bucket ids.
type quantileState struct {
	frozen  bool
	samples []float64
	edges   []float64
	hash    uint64 // of edges
	ids     []uint64
}

// vocabState learns a vocabulary: first counts per raw id, then, frozen, the ids kept.
type vocabState struct {
	frozen bool
	rows   int
	counts map[uint64]uint64
	known  []uint64 // sorted
	set    *idSet
	other  uint64
}

// NewState returns the state before any row: moments of nothing, nothing frozen.
func (p *Plan) NewState() *State {
	return &State{
		plan:      p,
		moments:   make([]moments, len(p.standardized)),
		quantiles: make([]quantileState, len(p.quantiles)),
		vocabs:    make([]vocabState, len(p.vocabs)),
	}
}

// reset makes s the state before any row, keeping its buffers.
func (s *State) reset() {
	clear(s.moments)
	for i := range s.quantiles {
		q := &s.quantiles[i]
		q.frozen, q.samples, q.edges = false, q.samples[:0], q.edges[:0]
	}
	for i := range s.vocabs {
		v := &s.vocabs[i]
		v.frozen, v.rows = false, 0
		clear(v.counts)
	}
	s.partial = false
}

// Frozen identifies what has been frozen so far: 0 while nothing is, and the same number on
// every process that froze the same edges and vocabularies. See AppendPublicSince.
func (s *State) Frozen() uint64 {
	var h uint64
	for i := range s.quantiles {
		if q := &s.quantiles[i]; q.frozen {
			h += tidemill.Mix(q.hash + uint64(i+1)*golden)
		}
	}
	for i := range s.vocabs {
		if v := &s.vocabs[i]; v.frozen {
			h += tidemill.Mix(v.other + uint64(len(s.quantiles)+i+1)*golden)
		}
	}
	return h
}

// freezeQuantiles learns the edges from the samples.
func (s *State) freezeQuantiles(i int) {
	p, q := &s.plan.quantiles[i], &s.quantiles[i]
	s.setEdges(i, quantileEdges(q.samples, p.buckets))
	q.samples = nil
}

// setEdges freezes the edges of quantiles i; s owns edges from here on.
func (s *State) setEdges(i int, edges []float64) {
	q := &s.quantiles[i]
	q.frozen, q.edges, q.hash = true, edges, hashEdges(edges)
	// The hash is part of the seed: ids of other edges are other ids.
	seed := tidemill.Mix(s.plan.fields[s.plan.quantiles[i].field].seed ^ q.hash)
	q.ids = bucketIDs(q.ids, seed, len(edges))
}

// freezeVocab keeps the most frequent values, the lower id first where counts are equal.
func (s *State) freezeVocab(i int) {
	p, v := &s.plan.vocabs[i], &s.vocabs[i]
	known := make([]uint64, 0, len(v.counts))
	for id := range v.counts {
		known = append(known, id)
	}
	slices.SortFunc(known, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(v.counts[b], v.counts[a]), cmp.Compare(a, b))
	})
	known = known[:min(len(known), p.size)]
	slices.Sort(known)
	s.setVocab(i, slices.Clip(known))
	v.counts, v.rows = nil, 0
}

// setVocab freezes vocabulary i as known, which is sorted; s owns it from here on.
func (s *State) setVocab(i int, known []uint64) {
	v := &s.vocabs[i]
	v.frozen, v.known, v.set = true, known, newIDSet(known)
	// What "not in the vocabulary" means depends on the vocabulary, so its id does too.
	h := s.plan.fields[s.plan.vocabs[i].field].category.other
	for _, id := range known {
		h = crossStep(h, id)
	}
	v.other = h
}
