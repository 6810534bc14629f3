package enginetest

import (
	"math"
	"slices"
	"testing"

	"github.com/tidemill/tidemill/internal/engine"
)

// biasOf returns the values of the bias tensor of b.
func (x *subject) biasOf(b batch) []float32 {
	for k, spec := range x.m.Tensors() {
		if spec.Name == "bias" {
			return b.p.Dense[k]
		}
	}
	panic("no tensor bias")
}

// huge checks that huge scores give finite log losses, and no NaN anywhere.
func (x *subject) huge(t *testing.T) {
	for _, z := range []float32{100, -100, 1e5, -1e5, 1e30, -1e30} {
		b := x.batch(t, 6, 6)
		for c := range x.biasOf(b) {
			x.biasOf(b)[c] = z * float32(1-c)
		}
		r := x.step(nil, b)
		loss := x.spec.Architecture.Loss
		probability := loss == engine.LossLogistic || loss == engine.LossSoftmax
		for i, p := range r.predictions {
			if p != p || probability && !(p >= 0 && p <= 1) {
				t.Errorf("bias %g: prediction %d is %v", z, i, p)
			}
		}
		for i, l := range r.losses {
			if !(l >= 0) || math.IsInf(float64(l), 1) && loss != engine.LossSquared {
				t.Errorf("bias %g: loss of example %d is %v", z, i, l)
			}
		}
		if !probability {
			continue
		}
		for _, grads := range [][][]float32{r.rowGrads, r.denseGrads} {
			for i := range grads {
				for j, g := range grads[i] {
					if g != g || math.IsInf(float64(g), 0) {
						t.Errorf("bias %g: gradient %v at %d of %d", z, g, j, i)
					}
				}
			}
		}
	}
}

// nan checks that a NaN in a parameter shows up in the losses of the examples that use it,
// and in no others.
func (x *subject) nan(t *testing.T) {
	nan := float32(math.NaN())
	for k, spec := range x.m.Tensors() {
		b := x.batch(t, 7, 6)
		for i := range b.p.Dense[k] {
			b.p.Dense[k][i] = nan
		}
		r := x.step(nil, b)
		for i, l := range r.losses {
			if l == l {
				t.Errorf("tensor %s is NaN: loss of example %d is %v", spec.Name, i, l)
			}
		}
	}
	for table, spec := range x.m.Tables() {
		b := x.batch(t, 8, 6)
		if len(b.look[table].Unique) == 0 {
			t.Fatalf("table %s has no rows", spec.Name)
		}
		for i := range spec.Dim {
			b.p.Rows[table][i] = nan
		}
		r := x.step(nil, b)
		for i, l := range r.losses {
			lo, hi := b.in.Offsets[i*b.in.Fields], b.in.Offsets[(i+1)*b.in.Fields]
			uses := slices.Contains(b.look[table].Index[lo:hi], 0)
			if uses != (l != l) {
				t.Errorf("row 0 of table %s is NaN: loss of example %d, which uses it: %v, is %v", spec.Name, i, uses, l)
			}
		}
	}
}

// classes checks that a label which names no class gives its own example a NaN loss.
func (x *subject) classes(t *testing.T) {
	for _, label := range []float32{-1, 3, 0.5, 1e30, float32(math.NaN()), float32(math.Inf(1))} {
		b := x.batch(t, 9, 4)
		b.in.Labels[2] = label
		r := x.step(nil, b)
		for i, l := range r.losses {
			if (l != l) != (i == 2) {
				t.Errorf("label 2 is %v: loss of example %d is %v", label, i, l)
			}
		}
		for i, p := range r.predictions {
			if p != p {
				t.Errorf("label 2 is %v: prediction %d is NaN", label, i)
			}
		}
	}
}

// readonly checks that inputs, lookups and parameters are only read.
func (x *subject) readonly(t *testing.T) {
	b, before := x.batch(t, 10, 12), x.batch(t, 10, 12)
	x.step(nil, b)
	same(t, "dense inputs", b.in.Dense, before.in.Dense)
	same(t, "values", b.in.Values, before.in.Values)
	same(t, "labels", b.in.Labels, before.in.Labels)
	same(t, "weights", b.in.Weights, before.in.Weights)
	if !slices.Equal(b.in.IDs, before.in.IDs) || !slices.Equal(b.in.Offsets, before.in.Offsets) {
		t.Error("ids or offsets changed")
	}
	for i := range b.look {
		if !slices.Equal(b.look[i].Unique, before.look[i].Unique) || !slices.Equal(b.look[i].Index, before.look[i].Index) {
			t.Errorf("lookup %d changed", i)
		}
		same(t, "rows", b.p.Rows[i], before.p.Rows[i])
	}
	for i := range b.p.Dense {
		same(t, "tensor", b.p.Dense[i], before.p.Dense[i])
	}
}

// allocations checks that steps allocate nothing once the buffers have grown.
func (x *subject) allocations(t *testing.T) {
	large, small := x.batch(t, 11, 30), x.batch(t, 12, 1)
	st := x.m.NewStepper()
	dst := make([]float32, large.in.N*x.m.Outputs())
	run := func() {
		st.Step(large.in, large.look, large.p)
		st.Step(small.in, small.look, small.p)
		st.Predict(dst, large.in, large.look, large.p)
		st.Predict(dst[:x.m.Outputs()], small.in, small.look, small.p)
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations in four steps", n)
	}
}
