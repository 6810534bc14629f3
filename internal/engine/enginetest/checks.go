package enginetest

import (
	"fmt"
	"math"
	"reflect"
	"sync"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// layout checks what a model says about itself.
func (x *subject) layout(t *testing.T) {
	want, err := engine.NewPlan(x.spec, x.shape)
	if err != nil {
		t.Fatal(err)
	}
	if got := x.m.Tables(); !reflect.DeepEqual(got, want.Tables) {
		t.Errorf("tables %+v, want %+v", got, want.Tables)
	}
	if got := x.m.Tensors(); !reflect.DeepEqual(got, want.Tensors) {
		t.Errorf("tensors %+v, want %+v", got, want.Tensors)
	}
	for table, fields := range want.Uses {
		for f, uses := range fields {
			if x.m.UsesField(table, f) != uses {
				t.Errorf("UsesField(%d, %d) = %v", table, f, !uses)
			}
		}
	}
	if x.m.Outputs() != want.Outputs {
		t.Errorf("%d outputs, want %d", x.m.Outputs(), want.Outputs)
	}
	if x.m.Profile() == "" {
		t.Error("no profile")
	}
}

// agreement compares a step with the reference.
func (x *subject) agreement(t *testing.T, seed uint64) {
	b := x.batch(t, seed, 10)
	switch seed { // the forms that mean 1
	case 2:
		b.in.Weights = nil
	case 3:
		b.in.Values = b.in.Values[:0]
	}
	got := x.step(nil, b)
	ref := x.reference(b)
	k := x.m.Outputs()
	if len(got.predictions) != b.in.N*k || len(got.losses) != b.in.N {
		t.Fatalf("%d predictions and %d losses for %d examples", len(got.predictions), len(got.losses), b.in.N)
	}
	tol := x.suite.Tolerance
	for i := range b.in.N {
		pred, loss := ref.example(i)
		for c, want := range pred {
			near(t, fmt.Sprintf("prediction %d of example %d", c, i), float64(got.predictions[i*k+c]), want, tol.Value*(1+math.Abs(want)))
		}
		near(t, fmt.Sprintf("loss of example %d", i), float64(got.losses[i]), loss, tol.Value*(1+math.Abs(loss)))
	}
	for table, spec := range x.m.Tables() {
		nearAll(t, "gradient of table "+spec.Name, got.rowGrads[table], ref.gradient(ref.rows[table]), tol.Gradient)
	}
	for k, spec := range x.m.Tensors() {
		nearAll(t, "gradient of tensor "+spec.Name, got.denseGrads[k], ref.gradient(ref.dense[k]), tol.Gradient)
	}
}

// split checks that a batch's gradient is the sum of its parts', weighted by their sizes.
func (x *subject) split(t *testing.T, seed uint64) {
	const n = 17
	b := x.batch(t, seed+100, n)
	whole := x.step(nil, b)
	k := x.m.Outputs()
	rows, rowMag := make([][]float64, len(whole.rowGrads)), make([][]float64, len(whole.rowGrads))
	for i := range rows {
		rows[i], rowMag[i] = make([]float64, len(whole.rowGrads[i])), make([]float64, len(whole.rowGrads[i]))
	}
	dense, denseMag := make([][]float64, len(whole.denseGrads)), make([][]float64, len(whole.denseGrads))
	for i := range dense {
		dense[i], denseMag[i] = make([]float64, len(whole.denseGrads[i])), make([]float64, len(whole.denseGrads[i]))
	}
	cuts := []int{0, 1, int(6 + seed), n}
	for c := range len(cuts) - 1 {
		lo, hi := cuts[c], cuts[c+1]
		part, from := x.part(b, lo, hi)
		r := x.step(nil, part)
		share := float64(hi-lo) / n
		for i, p := range r.predictions {
			want := float64(whole.predictions[lo*k+i])
			near(t, fmt.Sprintf("prediction %d of part [%d,%d)", i, lo, hi), float64(p), want, x.suite.Tolerance.Value*(1+math.Abs(want)))
		}
		for table, spec := range x.m.Tables() {
			for i, at := range from[table] {
				for d := range spec.Dim {
					g := share * float64(r.rowGrads[table][i*spec.Dim+d])
					rows[table][int(at)*spec.Dim+d] += g
					rowMag[table][int(at)*spec.Dim+d] += math.Abs(g)
				}
			}
		}
		for k := range dense {
			for i, g := range r.denseGrads[k] {
				dense[k][i] += share * float64(g)
				denseMag[k][i] += math.Abs(share * float64(g))
			}
		}
	}
	compare := func(what string, got []float32, want, magnitude []float64) {
		// Contributions of one sign may have cancelled within a part already: the scale of
		// rounding is that of the whole table or tensor where it is larger.
		var scale float64
		for _, m := range magnitude {
			scale = max(scale, m)
		}
		for i := range got {
			near(t, fmt.Sprintf("%s, value %d", what, i), float64(got[i]), want[i], x.suite.Tolerance.Split*max(scale, 1e-3))
		}
	}
	for i, spec := range x.m.Tables() {
		compare("gradient of table "+spec.Name, whole.rowGrads[i], rows[i], rowMag[i])
	}
	for i, spec := range x.m.Tensors() {
		compare("gradient of tensor "+spec.Name, whole.denseGrads[i], dense[i], denseMag[i])
	}
}

// predict checks that Predict and Evaluate give Step's bits, the one without labels too.
func (x *subject) predict(t *testing.T) {
	for _, n := range []int{1, 2, 33} {
		b := x.batch(t, uint64(n), n)
		whole := x.step(nil, b)
		want := whole.predictions
		e := x.m.NewStepper().Evaluate(b.in, b.look, b.p)
		same(t, "evaluated predictions", e.Predictions, want)
		same(t, "evaluated losses", e.Losses, whole.losses)
		in := *b.in
		in.Labels, in.Weights = nil, nil
		dst := make([]float32, len(want))
		x.m.NewStepper().Predict(dst, &in, b.look, b.p)
		same(t, "predictions", dst, want)
	}
}

// repeat checks that a batch has the same bits on a used stepper as on a new one.
func (x *subject) repeat(t *testing.T) {
	b, large, small := x.batch(t, 1, 9), x.batch(t, 2, 40), x.batch(t, 3, 1)
	want := x.step(nil, b)
	st := x.m.NewStepper()
	for range 2 {
		sameResult(t, x.step(st, b), want)
		x.step(st, large)
		sameResult(t, x.step(st, b), want)
		x.step(st, small)
		st.Predict(make([]float32, small.in.N*x.m.Outputs()), small.in, small.look, small.p)
	}
}

// concurrent checks that steppers of one model do not disturb one another.
func (x *subject) concurrent(t *testing.T) {
	const workers = 4
	var batches [workers]batch
	var want, got [workers]result
	for i := range batches {
		batches[i] = x.batch(t, uint64(i), 5+3*i)
		want[i] = x.step(nil, batches[i])
	}
	var wg sync.WaitGroup
	for i := range batches {
		wg.Go(func() {
			st := x.m.NewStepper()
			for range 5 {
				got[i] = x.step(st, batches[i])
			}
		})
	}
	wg.Wait()
	for i := range got {
		sameResult(t, got[i], want[i])
	}
}

// weights checks that an example of weight 0 changes no gradient, whatever its label.
func (x *subject) weights(t *testing.T) {
	b := x.batch(t, 5, 8)
	b.in.Weights[3] = 0
	want := x.step(nil, b)
	b.in.Labels[3] = 1 - b.in.Labels[3]
	if x.spec.Label.Type == tidemill.Multiclass {
		b.in.Labels[3] = 2
	}
	got := x.step(nil, b)
	for i := range want.rowGrads {
		sameValues(t, "gradient of table "+x.m.Tables()[i].Name, got.rowGrads[i], want.rowGrads[i])
	}
	for i := range want.denseGrads {
		sameValues(t, "gradient of tensor "+x.m.Tensors()[i].Name, got.denseGrads[i], want.denseGrads[i])
	}
	clear(b.in.Weights)
	for i, g := range x.step(nil, b).denseGrads {
		for j, v := range g {
			if v != 0 {
				t.Errorf("all weights 0: gradient %v at %d of tensor %s", v, j, x.m.Tensors()[i].Name)
			}
		}
	}
}

// empty checks a batch of no examples, after another one.
func (x *subject) empty(t *testing.T) {
	st := x.m.NewStepper()
	x.step(st, x.batch(t, 1, 7))
	b := x.batch(t, 1, 0)
	st.Predict(nil, b.in, b.look, b.p)
	r := x.step(st, b)
	if len(r.predictions) != 0 || len(r.losses) != 0 {
		t.Errorf("%d predictions and %d losses of no examples", len(r.predictions), len(r.losses))
	}
	for i, g := range r.rowGrads {
		if len(g) != 0 {
			t.Errorf("table %s has %d gradients of no rows", x.m.Tables()[i].Name, len(g))
		}
	}
	for i, spec := range x.m.Tensors() {
		sameValues(t, "gradient of tensor "+spec.Name, r.denseGrads[i], make([]float32, spec.Len()))
	}
}
