package worker

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
)

// block is rows as they were read, and where that takes no more than the rows, what the features
// make of them: then a batch is a range of the block, and however small costs no more than that.
// It is made by the goroutine that reads and belongs to the loop from then on, until it comes back
// through readAhead.free.
type block struct {
	tidemill.Batch
	// plan made in and times of all rows; nil: the rows have to be looked at batch by batch, since
	// some are bad, or not at every offset, or the transforms depend on what was learned.
	plan  *feature.Plan
	in    engine.Inputs
	times []int64 // event times in Unix milliseconds, feature.NoTime where there is none
	plain bool    // each field of each row has one id, so that a range of the rows is one of the ids
	refs  int     // by readAhead.have, and by parts
}

// fill makes the inputs of rows. ws belongs to plan.
func (k *block) fill(plan *feature.Plan, ws *feature.Workspace) {
	if k.plan = nil; plan == nil || k.Rows.NumRows() == 0 || k.Offsets != nil || len(k.Bad) > 0 || plan.Learns() {
		return
	}
	// What is wrong is found again, and said, when a batch is made of the rows.
	if len(plan.Check(k.Rows, true)) > 0 ||
		plan.Sparse(ws, &k.in, k.Rows, nil) != nil || plan.Numeric(ws, &k.in, k.Rows, nil) != nil || plan.Labels(&k.in, k.Rows) != nil {
		return
	}
	k.times = plan.Times(k.times, k.Rows)
	k.plain = true
	for i, off := range k.in.Offsets {
		if int(off) != i {
			k.plain = false
			break
		}
	}
	k.plan = plan
}

// part is rows [lo, hi) of a block, those of rng.
type part struct {
	*block
	rng    tidemill.Range
	lo, hi int // where the block has a plan
}

// batch returns the part's rows; the caller releases them.
func (p *part) batch() tidemill.Batch { return p.Slice(p.rng) }

// newest returns the greatest event time of the part, 0 where there is none.
func (p *part) newest() int64 {
	if len(p.times) == 0 {
		return 0
	}
	newest := int64(math.MinInt64)
	for _, ms := range p.times[p.lo:p.hi] {
		newest = max(newest, ms)
	}
	if newest == feature.NoTime {
		return 0
	}
	return newest
}

// view makes in the part's inputs. Its slices are the block's, but for Keys, and for Offsets of
// rows with any number of ids, which are in's own.
func (p *part) view(in *engine.Inputs, offsets *[]int32) {
	b, n := &p.in, p.hi-p.lo
	in.N, in.Fields, in.Width, in.Values = n, b.Fields, b.Width, nil
	first, last := p.lo*b.Fields, p.hi*b.Fields
	if p.plain {
		in.IDs, in.Offsets = b.IDs[first:last], b.Offsets[:n*b.Fields+1]
	} else {
		from := b.Offsets[first]
		in.IDs = b.IDs[from:b.Offsets[last]]
		*offsets = (*offsets)[:0]
		for _, off := range b.Offsets[first : last+1] {
			*offsets = append(*offsets, off-from)
		}
		in.Offsets = *offsets
	}
	in.Dense, in.Labels, in.Weights = b.Dense[p.lo*b.Width:p.hi*b.Width], b.Labels[p.lo:p.hi], nil
	if len(b.Weights) > 0 {
		in.Weights = b.Weights[p.lo:p.hi]
	}
}

// add appends the part's inputs to in.
func (p *part) add(in *engine.Inputs) {
	b := &p.in
	first, last := p.lo*b.Fields, p.hi*b.Fields
	from, at := b.Offsets[first], int32(len(in.IDs))
	in.IDs = append(in.IDs, b.IDs[from:b.Offsets[last]]...)
	for _, off := range b.Offsets[first+1 : last+1] {
		in.Offsets = append(in.Offsets, off-from+at)
	}
	in.Dense = append(in.Dense, b.Dense[p.lo*b.Width:p.hi*b.Width]...)
	in.Labels = append(in.Labels, b.Labels[p.lo:p.hi]...)
	if len(b.Weights) > 0 {
		in.Weights = append(in.Weights, b.Weights[p.lo:p.hi]...)
	}
	in.N += p.hi - p.lo
}

// record returns the rows of parts as one batch; the caller releases it.
func record(parts []part) (arrow.RecordBatch, error) {
	pieces := make([]tidemill.Batch, len(parts))
	for i := range parts {
		pieces[i] = parts[i].batch()
	}
	return joined(pieces)
}

// joined returns the rows of pieces as one batch, and releases those of the pieces.
func joined(pieces []tidemill.Batch) (arrow.RecordBatch, error) {
	if len(pieces) == 1 {
		return pieces[0].Rows, nil
	}
	return concat(pieces)
}
