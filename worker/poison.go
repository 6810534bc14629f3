package worker

import (
	"errors"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// This file finds the rows of a batch because of which its loss or gradient is not finite. What
// is found depends on the rows and the parameters alone, so whoever computes the batch again on
// the same parameters puts the same rows aside.

const notFiniteReason = "loss or gradient is not finite on the parameters of its round"

// notFinite returns the rows to put aside so that loss and gradient of the others together are
// finite, in increasing order; nil when those of the whole batch are.
func (b *batcher) notFinite() ([]feature.BadRow, error) {
	var at []int // of rows to leave out
	for i, l := range b.result.Losses {
		if !finite(l) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		if b.finite() {
			return nil, nil
		}
		if err := b.separate(); err != nil {
			return nil, err
		}
		params := make([]map[uint64]int, len(b.look)) // position of each id among those pulled
		for t := range b.look {
			params[t] = make(map[uint64]int, len(b.look[t].Unique))
			for k, id := range b.look[t].Unique {
				params[t][id] = k
			}
		}
		var err error
		at = poisoned(b.in.N, func(idx []int) bool {
			ok, e := b.finiteWith(idx, params)
			err = errors.Join(err, e)
			return ok
		})
		if err != nil {
			return nil, err
		}
	}
	if err := b.separate(); err != nil {
		return nil, err
	}
	bad := make([]feature.BadRow, len(at))
	for k, i := range at {
		bad[k] = feature.BadRow{Row: i, Column: "row", Cause: tidemill.BadGradient, Reason: notFiniteReason}
	}
	return bad, nil
}

// poisoned returns which of n rows to leave out so that ok says yes to the others; ok says no
// to all of them and yes to none. It takes the rows in order and leaves out each with which
// those kept before it are no longer fine: where a row is bad by itself that is this row, and
// where only a sum overflows it is the row that tips it over. A row costs about log n calls.
func poisoned(n int, ok func(idx []int) bool) []int {
	kept := make([]int, n)
	for i := range kept {
		kept[i] = i
	}
	var out []int
	fine := 0 // kept[:fine] is known to be
	for fine < len(kept) {
		if ok(kept) {
			return out
		}
		lo, hi := fine, len(kept) // kept[:lo] is fine and kept[:hi] is not
		for hi-lo > 1 {
			if mid := lo + (hi-lo)/2; ok(kept[:mid]) {
				lo = mid
			} else {
				hi = mid
			}
		}
		out = append(out, kept[lo])
		kept = append(kept[:lo:lo], kept[hi:]...)
		fine = lo
	}
	return out
}

// finiteWith reports whether loss and gradient of some of the batch's rows are finite. pulled is
// the position of each id of the batch among the parameters, by table.
func (b *batcher) finiteWith(idx []int, pulled []map[uint64]int) (bool, error) {
	rec, err := rows.Take(b.rec, idx, nil)
	if err != nil {
		return false, err
	}
	defer rec.Release()
	var in engine.Inputs
	var scratch engine.Scratch
	err = errors.Join(b.m.Plan.Sparse(b.ws, &in, rec, b.state), b.m.Plan.Numeric(b.ws, &in, rec, b.state), b.m.Plan.Labels(&in, rec))
	if err != nil {
		return false, err
	}
	look := engine.Lookups(nil, &scratch, &in, b.m.Engine)
	params := engine.Params{Dense: b.params.Dense, Rows: make([][]float32, len(look))}
	for t := range look {
		dim := b.m.Layout.Tables[t].Dim
		for _, id := range look[t].Unique {
			k := pulled[t][id]
			params.Rows[t] = append(params.Rows[t], b.params.Rows[t][k*dim:(k+1)*dim]...)
		}
	}
	if len(b.in.Keys) > 0 {
		for _, i := range idx {
			in.Keys = append(in.Keys, b.in.Keys[i])
		}
	}
	b.result = b.step.Step(&in, look, &params)
	for _, l := range b.result.Losses {
		if !finite(l) {
			return false, nil
		}
	}
	return b.finite(), nil
}

// finite reports whether every gradient of the result is.
func (b *batcher) finite() bool {
	for _, gs := range [][][]float32{b.result.RowGrads, b.result.DenseGrads} {
		for _, g := range gs {
			var sum float32 // x−x is 0 for a finite x and NaN otherwise
			for _, x := range g {
				sum += x - x
			}
			if sum != 0 {
				return false
			}
		}
	}
	return true
}
