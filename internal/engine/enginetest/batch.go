package enginetest

import (
	"math/rand/v2"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// subject is a compiled model under test.
type subject struct {
	suite Suite
	testCase
	m engine.Model
}

// batch is everything a step needs.
type batch struct {
	in   *engine.Inputs
	look []engine.Lookup
	p    *engine.Params
}

// batch returns n random examples and random parameters for them.
func (x *subject) batch(t *testing.T, seed uint64, n int) batch {
	r := rand.New(rand.NewPCG(seed, 1))
	in := x.inputs(r, n)
	if err := in.Check(true); err != nil {
		t.Fatalf("enginetest made a bad batch: %v", err)
	}
	b := batch{in: in, look: engine.Lookups(nil, new(engine.Scratch), in, x.m)}
	b.p = x.params(r, b.look)
	return b
}

// inputs returns n random examples: fields of 0 to 3 ids out of 6, so that ids repeat within
// fields and over examples, and about every fifth weight 0.
func (x *subject) inputs(r *rand.Rand, n int) *engine.Inputs {
	in := new(engine.Inputs)
	in.Reset(x.shape.Fields, x.shape.Width)
	in.N = n
	for range n {
		for f := range x.shape.Fields {
			for range r.IntN(4) {
				in.IDs = append(in.IDs, tidemill.Mix(uint64(f)<<32|uint64(r.IntN(6))))
				v := float32(1)
				if r.IntN(2) == 0 {
					v = float32(r.NormFloat64())
				}
				in.Values = append(in.Values, v)
			}
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range x.shape.Width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, x.label(r))
		w := float32(r.IntN(5))
		if w > 1 {
			w = 2 * r.Float32()
		}
		in.Weights = append(in.Weights, w)
		in.Keys = append(in.Keys, r.Uint64())
	}
	return in
}

func (x *subject) label(r *rand.Rand) float32 {
	switch x.spec.Label.Type {
	case tidemill.Regression:
		return float32(2 * r.NormFloat64())
	case tidemill.Multiclass:
		return float32(r.IntN(x.shape.Outputs))
	}
	return float32(r.IntN(2))
}

// params returns random parameters, large enough for every part of a model to matter.
func (x *subject) params(r *rand.Rand, look []engine.Lookup) *engine.Params {
	p := new(engine.Params)
	for t, spec := range x.m.Tables() {
		p.Rows = append(p.Rows, normal(r, len(look[t].Unique)*spec.Dim))
	}
	for _, spec := range x.m.Tensors() {
		p.Dense = append(p.Dense, normal(r, spec.Len()))
	}
	return p
}

func normal(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(0.4 * r.NormFloat64())
	}
	return v
}

// part returns examples [lo, hi) of b as a batch of their own, and for each table the row of
// b that each row of the part is.
func (x *subject) part(b batch, lo, hi int) (batch, [][]int32) {
	in, fields, width := b.in, b.in.Fields, b.in.Width
	first, last := in.Offsets[lo*fields], in.Offsets[hi*fields]
	sub := &engine.Inputs{
		N: hi - lo, Fields: fields, Width: width,
		Dense: in.Dense[lo*width : hi*width], IDs: in.IDs[first:last], Values: in.Values[first:last],
		Labels: in.Labels[lo:hi], Weights: in.Weights[lo:hi], Keys: in.Keys[lo:hi],
	}
	for _, off := range in.Offsets[lo*fields : hi*fields+1] {
		sub.Offsets = append(sub.Offsets, off-first)
	}
	part := batch{in: sub, look: engine.Lookups(nil, new(engine.Scratch), sub, x.m), p: &engine.Params{Dense: b.p.Dense}}
	from := make([][]int32, len(part.look))
	for t, spec := range x.m.Tables() {
		at := make(map[uint64]int32)
		for i, id := range b.look[t].Unique {
			at[id] = int32(i)
		}
		var rows []float32
		for _, id := range part.look[t].Unique {
			i := at[id]
			from[t] = append(from[t], i)
			rows = append(rows, b.p.Rows[t][int(i)*spec.Dim:(int(i)+1)*spec.Dim]...)
		}
		part.p.Rows = append(part.p.Rows, rows)
	}
	return part, from
}

// result is a deep copy of an engine.Result.
type result struct {
	predictions, losses  []float32
	rowGrads, denseGrads [][]float32
}

// step runs a batch on st, or on a new stepper for nil.
func (x *subject) step(st engine.Stepper, b batch) result {
	if st == nil {
		st = x.m.NewStepper()
	}
	r := st.Step(b.in, b.look, b.p)
	return result{clone(r.Predictions), clone(r.Losses), cloneAll(r.RowGrads), cloneAll(r.DenseGrads)}
}

func clone(s []float32) []float32 { return append([]float32{}, s...) }

func cloneAll(s [][]float32) [][]float32 {
	c := make([][]float32, len(s))
	for i := range s {
		c[i] = clone(s[i])
	}
	return c
}
