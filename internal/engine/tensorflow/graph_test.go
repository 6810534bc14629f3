//go:build tensorflow

package tensorflow_test

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/graphfile"
)

// ratings is a graph exported from Keras: two tables, batch norm, dropout and regularisation.
func ratings(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../../graphfile/testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var (
	ratingsSpec = tidemill.Spec{
		Label:        tidemill.LabelSpec{Column: "click", Type: tidemill.Binary, Positive: []string{"1"}},
		Features:     []tidemill.FeatureSpec{{Column: "hour"}, {Column: "user"}, {Column: "age"}, {Column: "item"}},
		Architecture: tidemill.Architecture{Kind: tidemill.Graph, File: "ratings.graph"},
	}
	ratingsShape = engine.Shape{
		Fields: 2, Width: 2, FieldNames: []string{"user", "item"}, DenseNames: []string{"hour", "age"}, IsCross: []bool{false, false}, Outputs: 1,
	}
)

func compileRatings(t testing.TB) engine.Model {
	t.Helper()
	m, err := driver(t).Compile(&ratingsSpec, ratingsShape, engine.Options{Graph: ratings(t)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// examples returns n random rows for ratings, and what each table begins with.
func examples(m engine.Model, n int, seed uint64) (*engine.Inputs, []engine.Lookup, *engine.Params) {
	r := rand.New(rand.NewPCG(seed, 3))
	in := new(engine.Inputs)
	in.Reset(ratingsShape.Fields, ratingsShape.Width)
	in.N = n
	for i := range n {
		for f := range in.Fields {
			in.IDs = append(in.IDs, tidemill.Mix(uint64(f*1000+r.IntN(20))))
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range in.Width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, float32(r.IntN(2)))
		in.Keys = append(in.Keys, engine.Key(7, 0, int64(i)))
	}
	look := engine.Lookups(nil, new(engine.Scratch), in, m)
	p := new(engine.Params)
	for t, spec := range m.Tables() {
		rows := make([]float32, len(look[t].Unique)*spec.Dim)
		for i, id := range look[t].Unique {
			spec.Init.Fill(rows[i*spec.Dim:(i+1)*spec.Dim], 1, tidemill.Hash(spec.Name), id, 0)
		}
		p.Rows = append(p.Rows, rows)
	}
	for k, v := range m.(engine.Exported).Begin() {
		p.Dense = append(p.Dense, slices.Clone(v))
		if len(v) != m.Tensors()[k].Len() {
			panic("an initial value does not have its tensor's length")
		}
	}
	return in, look, p
}

func bits(all ...[]float32) []uint32 {
	var out []uint32
	for _, s := range all {
		for _, v := range s {
			out = append(out, math.Float32bits(v))
		}
	}
	return out
}

func all(r *engine.Result) []uint32 {
	return bits(slices.Concat([][]float32{r.Predictions, r.Losses}, r.RowGrads, r.DenseGrads)...)
}

// A graph's step has the same bits on any stepper; Predict and Evaluate have those of the step.
func TestGraphIsDeterministic(t *testing.T) {
	m := compileRatings(t)
	in, look, p := examples(m, 37, 1)
	st := m.NewStepper()
	want := all(st.Step(in, look, p))
	if err := st.Err(); err != nil {
		t.Fatal(err)
	}
	other, look2, p2 := examples(m, 5, 2)
	other3 := m.NewStepper()
	for range 3 {
		other3.Step(other, look2, p2)
		if got := all(other3.Step(in, look, p)); !slices.Equal(got, want) {
			t.Fatal("another stepper, or the same one after another batch, gives other bits")
		}
	}
	r := st.Step(in, look, p)
	pred, loss := slices.Clone(r.Predictions), slices.Clone(r.Losses)
	e := m.NewStepper().Evaluate(in, look, p)
	if !slices.Equal(bits(e.Predictions, e.Losses), bits(pred, loss)) {
		t.Error("Evaluate gives other bits than Step")
	}
	dst := make([]float32, in.N)
	bare := *in
	bare.Labels, bare.Keys = nil, nil
	m.NewStepper().Predict(dst, &bare, look, p)
	if !slices.Equal(bits(dst), bits(pred)) {
		t.Error("Predict gives other bits than Step")
	}
}

// Training as the parameter servers do it lowers the loss, and moves statistics towards the data.
func TestGraphLearns(t *testing.T) {
	m := compileRatings(t)
	x := m.(engine.Exported)
	in, look, p := examples(m, 256, 3)
	for i := range in.Labels { // something to be learned
		in.Labels[i] = 0
		if in.Dense[2*i] > 0 {
			in.Labels[i] = 1
		}
	}
	st := m.NewStepper()
	var first, last float64
	for step := range 150 {
		for i := range in.Keys {
			in.Keys[i] = engine.Key(7, step, int64(i))
		}
		r := st.Step(in, look, p)
		if err := st.Err(); err != nil {
			t.Fatal(err)
		}
		last = 0
		for _, l := range r.Losses {
			last += float64(l) / float64(in.N)
		}
		if step == 0 {
			first = last
		}
		for k := range p.Dense {
			momentum, moving := x.Momentum(k)
			if moving != r.Moving[k] {
				t.Fatalf("tensor %s: a moving statistic: %t and %t", m.Tensors()[k].Name, moving, r.Moving[k])
			}
			for i, g := range r.DenseGrads[k] {
				if moving {
					p.Dense[k][i] = momentum*p.Dense[k][i] + g
				} else {
					p.Dense[k][i] -= 0.2 * g
				}
			}
		}
		for t := range p.Rows {
			for i, g := range r.RowGrads[t] {
				p.Rows[t][i] -= 0.2 * g
			}
		}
	}
	if !(last < 0.8*first) {
		t.Errorf("the loss went from %.3f to %.3f", first, last)
	}
}

// A gradient of rows that an example shares is the sum over its uses: a batch of one row, twice,
// gives the rows the same gradient as once.
func TestGraphSharesRows(t *testing.T) {
	m := compileRatings(t)
	one, look, p := examples(m, 1, 4)
	one.Keys[0] = 1
	st := m.NewStepper()
	r := st.Step(one, look, p)
	want := slices.Clone(r.RowGrads[0])
	two := &engine.Inputs{
		N: 2, Fields: one.Fields, Width: one.Width, Dense: slices.Repeat(one.Dense, 2), IDs: slices.Repeat(one.IDs, 2),
		Labels: slices.Repeat(one.Labels, 2), Keys: slices.Repeat(one.Keys, 2), Offsets: []int32{0, 1, 2, 3, 4},
	}
	look2 := engine.Lookups(nil, new(engine.Scratch), two, m)
	got := st.Step(two, look2, p).RowGrads[0]
	if err := st.Err(); err != nil || len(got) != len(want) {
		t.Fatalf("%d gradients of %d values: %v", len(got), len(want), err)
	}
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); d > 1e-5*(1+math.Abs(float64(want[i]))) {
			t.Errorf("gradient %d is %v of one row and %v of the row twice", i, want[i], got[i])
		}
	}
}

func TestGraphRefusals(t *testing.T) {
	d := driver(t)
	for name, c := range map[string]struct {
		graph []byte
		spec  func(*tidemill.Spec)
		shape func(*engine.Shape)
		want  string
	}{
		"no file":   {want: "is not there"},
		"no graph":  {graph: []byte("not a graph"), want: "ratings.graph"},
		"a feature": {graph: ratings(t), shape: func(s *engine.Shape) { s.FieldNames = []string{"usr", "item"} }, want: `"user"`},
		"the label": {graph: ratings(t), spec: func(s *tidemill.Spec) { s.Label.Type = tidemill.Regression }, want: "label"},
	} {
		spec, shape := ratingsSpec, ratingsShape
		if c.spec != nil {
			c.spec(&spec)
		}
		if c.shape != nil {
			c.shape(&shape)
		}
		_, err := d.Compile(&spec, shape, engine.Options{Graph: c.graph})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	if _, err := graphfile.Decode(ratings(t), ""); err != nil {
		t.Fatal(err)
	}
}
