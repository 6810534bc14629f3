package native_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/enginetest"
	"github.com/tidemill/tidemill/internal/engine/native"
	"github.com/tidemill/tidemill/internal/kernel"
)

func TestConformance(t *testing.T) {
	for _, level := range kernel.Levels() {
		t.Run(level.String(), func(t *testing.T) {
			enginetest.Run(t, func(s *tidemill.Spec, shape engine.Shape) (engine.Model, error) {
				return native.Compile(s, shape, level, nil)
			})
		})
	}
}

// With factors in bfloat16, which have eight significant bits, values pass through up to six
// products. (Kinds in which a unit has its input so near 0 that it is rectified otherwise are left
// out: there the gradient is another one, and rightly so.)
func TestConformanceBFloat16(t *testing.T) {
	enginetest.Suite{
		Compile: func(s *tidemill.Spec, shape engine.Shape) (engine.Model, error) {
			half := *s
			half.Architecture.Precision = tidemill.BFloat16
			return native.Compile(&half, shape, kernel.Best(), nil)
		},
		Kinds:     []string{tidemill.MLP, tidemill.DCN},
		Tolerance: enginetest.Tolerance{Value: 0.03, Gradient: 0.06, Split: 0.02},
	}.Run(t)
}

var kinds = []string{tidemill.Logistic, tidemill.FM, tidemill.MLP, tidemill.WideDeep, tidemill.DeepFM, tidemill.DLRM, tidemill.DCN}

// compile returns a model of the given kind over fields sparse fields, the last a cross, and
// width dense numbers, with default sizes.
func compile(t testing.TB, kind string, fields, width int) engine.Model {
	t.Helper()
	return compileAt(t, kind, fields, width, kernel.Best())
}

func compileAt(t testing.TB, kind string, fields, width int, level kernel.Level) engine.Model {
	t.Helper()
	shape := engine.Shape{Fields: fields, Width: width, IsCross: make([]bool, fields), FieldNames: make([]string, fields), Outputs: 1}
	shape.IsCross[fields-1] = true
	m, err := native.Compile(&tidemill.Spec{Architecture: tidemill.Architecture{Kind: kind}}, shape, level, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// batch returns n examples with one id out of 1000 in each field, and initial parameters.
func batch(m engine.Model, n, fields, width int) (*engine.Inputs, []engine.Lookup, *engine.Params) {
	r := rand.New(rand.NewPCG(7, 7))
	in := new(engine.Inputs)
	in.Reset(fields, width)
	in.N = n
	for range n {
		for f := range fields {
			in.IDs = append(in.IDs, tidemill.Mix(uint64(f*1000+r.IntN(1000))))
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, float32(r.IntN(2)))
	}
	look := engine.Lookups(nil, new(engine.Scratch), in, m)
	return in, look, initial(m, look)
}

// initial returns the parameters that nobody has trained.
func initial(m engine.Model, look []engine.Lookup) *engine.Params {
	p := new(engine.Params)
	for t, spec := range m.Tables() {
		rows := make([]float32, len(look[t].Unique)*spec.Dim)
		for i, id := range look[t].Unique {
			spec.Init.Fill(rows[i*spec.Dim:(i+1)*spec.Dim], 1, tidemill.Hash(spec.Name), id, 0)
		}
		p.Rows = append(p.Rows, rows)
	}
	for _, spec := range m.Tensors() {
		v := make([]float32, spec.Len())
		spec.Init.Fill(v, 1, tidemill.Hash(spec.Name), 0, 0)
		p.Dense = append(p.Dense, v)
	}
	return p
}

// A row's prediction has the same bits alone as among others: what the validator scores in
// batches is what serving answers one by one.
func TestRowsAreIndependent(t *testing.T) {
	for _, level := range kernel.Levels() {
		for _, kind := range kinds {
			rowsAreIndependent(t, kind, level)
		}
	}
}

func rowsAreIndependent(t *testing.T, kind string, level kernel.Level) {
	const n, fields, width = 33, 5, 3
	m := compileAt(t, kind, fields, width, level)
	in, look, p := batch(m, n, fields, width)
	st := m.NewStepper()
	want := make([]float32, n)
	st.Predict(want, in, look, p)
	for i := range n {
		one := &engine.Inputs{N: 1, Fields: fields, Width: width, IDs: in.IDs[i*fields : (i+1)*fields],
			Dense: in.Dense[i*width : (i+1)*width], Offsets: in.Offsets[:fields+1]}
		var got [1]float32
		lookOne := make([]engine.Lookup, len(look))
		for t := range look {
			lookOne[t] = engine.Lookup{Unique: look[t].Unique, Index: look[t].Index[i*fields : (i+1)*fields]}
		}
		st.Predict(got[:], one, lookOne, p)
		if math.Float32bits(got[0]) != math.Float32bits(want[i]) {
			t.Errorf("%s at %v: example %d alone gives %v, in the batch %v", kind, level, i, got[0], want[i])
		}
	}
}

// A step has the same bits on any number of processors, whoever else computes.
func TestProcessorsChangeNoBits(t *testing.T) {
	const fields, width = 5, 3
	for _, level := range kernel.Levels() {
		n := 512 + 77 // two blocks
		if level == kernel.Best() {
			n += 512
		}
		for _, kind := range kinds {
			for _, precision := range []string{tidemill.Float32, tidemill.BFloat16} {
				spec := &tidemill.Spec{Architecture: tidemill.Architecture{Kind: kind, Precision: precision}}
				shape := engine.Shape{Fields: fields, Width: width, IsCross: make([]bool, fields), FieldNames: make([]string, fields), Outputs: 1}
				cores := engine.NewCores(3)
				alone, err := native.Compile(spec, shape, level, nil)
				if err != nil {
					t.Fatal(err)
				}
				shared, err := native.Compile(spec, shape, level, cores)
				if err != nil {
					t.Fatal(err)
				}
				in, look, p := batch(alone, n, fields, width)
				want := alone.NewStepper().Step(in, look, p)
				var wg sync.WaitGroup
				for range 2 {
					wg.Go(func() {
						st := shared.NewStepper()
						for range 2 {
							got := st.Step(in, look, p)
							same(t, kind+" predictions", got.Predictions, want.Predictions)
							same(t, kind+" losses", got.Losses, want.Losses)
							for i := range want.RowGrads {
								same(t, kind+" gradient of a table", got.RowGrads[i], want.RowGrads[i])
							}
							for i := range want.DenseGrads {
								same(t, kind+" gradient of a tensor", got.DenseGrads[i], want.DenseGrads[i])
							}
						}
					})
				}
				wg.Wait()
				for range 3 {
					if !cores.Take() {
						t.Fatal("a step kept a processor")
					}
				}
			}
		}
	}
}

func same(t *testing.T, what string, got, want []float32) {
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) {
			t.Errorf("%s: value %d is %v, on one processor %v", what, i, got[i], v)
			return
		}
	}
}

// Steps of plain gradient descent on a batch lower its loss.
func TestLearns(t *testing.T) {
	const n, fields, width = 64, 4, 2
	for _, kind := range kinds {
		m := compile(t, kind, fields, width)
		in, look, p := batch(m, n, fields, width)
		st := m.NewStepper()
		var first, last float64
		for step := range 300 {
			r := st.Step(in, look, p)
			last = 0
			for _, l := range r.Losses {
				last += float64(l) / n
			}
			if step == 0 {
				first = last
			}
			for t := range p.Rows {
				for i, g := range r.RowGrads[t] {
					p.Rows[t][i] -= g
				}
			}
			for k := range p.Dense {
				for i, g := range r.DenseGrads[k] {
					p.Dense[k][i] -= 0.3 * g
				}
			}
		}
		if !(last < 0.6*first) {
			t.Errorf("%s: the loss went from %.3f to %.3f", kind, first, last)
		}
	}
}

func TestProfile(t *testing.T) {
	for _, level := range kernel.Levels() {
		want := "native/" + runtime.GOARCH + "/" + runtime.Version() + "/" + level.String()
		if got := compileAt(t, tidemill.Logistic, 1, 0, level).Profile(); got != want {
			t.Errorf("profile %q, want %q", got, want)
		}
	}
}

// Between instruction levels, losses and gradients of one step agree within the rounding of
// sums of a few hundred terms.
func TestLevelsAgree(t *testing.T) {
	const n, fields, width, tolerance = 70, 7, 5, 1e-5
	for _, kind := range kinds {
		reference := compileAt(t, kind, fields, width, kernel.Generic)
		in, look, p := batch(reference, n, fields, width)
		want := reference.NewStepper().Step(in, look, p)
		for _, level := range kernel.Levels()[1:] {
			got := compileAt(t, kind, fields, width, level).NewStepper().Step(in, look, p)
			agree := func(what string, got, want []float32) {
				var scale float64
				for _, v := range want {
					scale = max(scale, math.Abs(float64(v)))
				}
				for i := range want {
					if !(math.Abs(float64(got[i])-float64(want[i])) <= tolerance*scale) {
						t.Fatalf("%s, %s at %v: element %d is %v, generic %v", kind, what, level, i, got[i], want[i])
					}
				}
			}
			agree("predictions", got.Predictions, want.Predictions)
			agree("losses", got.Losses, want.Losses)
			for i := range want.RowGrads {
				agree(fmt.Sprintf("gradient of table %d", i), got.RowGrads[i], want.RowGrads[i])
			}
			for i := range want.DenseGrads {
				agree(fmt.Sprintf("gradient of tensor %d", i), got.DenseGrads[i], want.DenseGrads[i])
			}
		}
	}
}

// What does not fit together panics with a sentence, not with an index.
func TestMisuse(t *testing.T) {
	m := compile(t, tidemill.DeepFM, 2, 1)
	for name, spoil := range map[string]func(in *engine.Inputs, look []engine.Lookup, p *engine.Params){
		"fields": func(in *engine.Inputs, _ []engine.Lookup, _ *engine.Params) { in.Fields = 1 },
		"labels": func(in *engine.Inputs, _ []engine.Lookup, _ *engine.Params) { in.Labels = nil },
		"tensor": func(_ *engine.Inputs, _ []engine.Lookup, p *engine.Params) { p.Dense[0] = nil },
		"rows":   func(_ *engine.Inputs, _ []engine.Lookup, p *engine.Params) { p.Rows[0] = p.Rows[0][1:] },
		"index":  func(_ *engine.Inputs, look []engine.Lookup, _ *engine.Params) { look[0].Index = nil },
		"tables": func(_ *engine.Inputs, _ []engine.Lookup, p *engine.Params) { p.Rows = nil },
	} {
		in, look, p := batch(m, 2, 2, 1)
		spoil(in, look, p)
		func() {
			defer func() {
				if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "native: ") {
					t.Errorf("%s: recovered %q", name, text)
				}
			}()
			m.NewStepper().Step(in, look, p)
		}()
	}
}

func BenchmarkStep(b *testing.B) {
	for _, c := range []struct {
		kind             string
		n, fields, width int
	}{
		{tidemill.Logistic, 1, 20, 0}, {tidemill.Logistic, 512, 20, 0}, {tidemill.FM, 512, 20, 0},
		{tidemill.MLP, 1, 20, 0}, {tidemill.MLP, 512, 20, 0}, {tidemill.DeepFM, 512, 20, 0},
	} {
		b.Run(fmt.Sprintf("%s/n=%d", c.kind, c.n), func(b *testing.B) {
			m := compile(b, c.kind, c.fields, c.width)
			in, look, p := batch(m, c.n, c.fields, c.width)
			st := m.NewStepper()
			b.ReportAllocs()
			for b.Loop() {
				st.Step(in, look, p)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*c.n), "ns/example")
		})
	}
}
