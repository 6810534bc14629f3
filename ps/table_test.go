package ps

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

var choices = []tidemill.OptimizerChoice{
	{Kind: tidemill.SGD}, {Kind: tidemill.Momentum}, {Kind: tidemill.Adagrad}, {Kind: tidemill.RMSProp}, {Kind: tidemill.Adam}, {Kind: tidemill.FTRL},
}

func rule(t testing.TB, c tidemill.OptimizerChoice) optim.Rule {
	t.Helper()
	r, err := optim.New(c)
	must(t, err)
	return r
}

func layout(r optim.Rule, dim int, average bool, most int64) snapshot.TableLayout {
	return snapshot.TableLayout{
		TableSpec: tidemill.TableSpec{Name: "t", Dim: dim, Init: tidemill.Init{Kind: tidemill.InitNormal, Scale: 0.1}, MaxRows: most},
		State:     r.StateLen(dim), Average: average,
	}
}

// naive is a table as its contract describes it: a map, each row copied before it changes.
type naive struct {
	layout  snapshot.TableLayout
	rule    optim.Rule
	decay   float64
	rows    map[uint64][]float32
	skipped int64
}

func (m *naive) apply(seed, id uint64, grad []float32, before, k int64) {
	if _, ok := m.rows[id]; !ok && m.layout.MaxRows > 0 && int64(len(m.rows)) >= m.layout.MaxRows {
		m.skipped++
		id = fallbackID(0)
	}
	r := slices.Clone(m.rows[id])
	if r == nil {
		r = make([]float32, m.layout.Width())
		m.layout.Init.Fill(m.layout.Weight(r), seed, tidemill.Hash(m.layout.Name), id, 0)
		m.rule.Init(m.layout.StateOf(r), m.layout.Weight(r))
		if m.layout.Average {
			copy(m.layout.AverageOf(r), m.layout.Weight(r))
			m.layout.PutAt(r, uint64(before))
		}
	}
	w, avg := m.layout.Weight(r), m.layout.AverageOf(r)
	if m.layout.Average && before > int64(m.layout.At(r)) {
		snapshot.CatchUp(avg, w, avg, m.decay, uint64(before)-m.layout.At(r))
	}
	m.rule.Apply(w, m.layout.StateOf(r), grad, 1)
	format, _ := quant.Parse(m.layout.Values)
	format.Round(w, tidemill.Mix(seed^0xa54ff53a5f1d36f1)^tidemill.Hash(m.layout.Name)^tidemill.Mix(id+uint64(before)*0x9e3779b97f4a7c15))
	if m.layout.Average {
		snapshot.CatchUp(avg, w, avg, m.decay, uint64(k))
		m.layout.PutAt(r, uint64(before+k))
	}
	m.rows[id] = r
}

// weights and apply do for one id what a pull and a push do for many.
func (t *table) weights(dst []float32, id uint64) { t.read(dst, id, t.find(id)) }

func (t *table) apply(id uint64, grad []float32, scale float32, before, k int64) {
	t.update(id, t.find(id), grad, scale, before, k)
}

// all yields the ids of an image and their rows; a row's slice is used again. It takes the lock.
func (m *image) all() iter.Seq2[uint64, []float32] {
	return func(yield func(uint64, []float32) bool) {
		values := make([]float32, m.width)
		for row := range m.numbers() {
			if m.Copy(values, []uint32{uint32(row)}); !yield(m.id(row), values) {
				return
			}
		}
	}
}

// same compares an image with what it should hold; "" means that it does.
func same(img *image, want map[uint64][]float32) string {
	got := 0
	for id, row := range img.all() {
		got++
		if !slices.Equal(bitsOf(row), bitsOf(want[id])) {
			return fmt.Sprintf("row %d is %v, want %v", id, row, want[id])
		}
	}
	if got != len(want) {
		return fmt.Sprintf("%d rows, want %d", got, len(want))
	}
	return ""
}

// TestTableAndItsImages applies random gradients, captures and releases in random order. The
// table must equal a map, and every image must stay what the table was when it was captured.
func TestTableAndItsImages(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.Uint64().Draw(r, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		ru := rule(t, choices[rng.IntN(len(choices))])
		dim := 1 + rng.IntN(4)
		most := int64(0)
		if rng.IntN(3) == 0 {
			most = 1 + rng.Int64N(700)
		}
		l := layout(ru, dim, rng.IntN(2) == 0, most)
		l.Values = quant.Names()[rng.IntN(4)]
		tab := newTable(l, ru, 0.99, seed, 0, 1)
		ref := &naive{layout: l, rule: ru, decay: 0.99, rows: map[uint64][]float32{}}
		type captured struct {
			image *image
			want  map[uint64][]float32
		}
		var held []captured
		examples, grad, got, want := int64(0), make([]float32, dim), make([]float32, dim), make([]float32, dim)
		r.Repeat(map[string]func(*rapid.T){
			"apply": func(r *rapid.T) {
				k := 1 + rng.Int64N(9)
				for range 1 + rng.IntN(400) {
					id := rng.Uint64N(900)
					for i := range grad {
						grad[i] = float32(rng.NormFloat64())
					}
					tab.apply(id, grad, 1, examples, k)
					ref.apply(seed, id, grad, examples, k)
				}
				examples += k
			},
			"pull": func(r *rapid.T) {
				n := tab.n
				for range 50 {
					id := rng.Uint64N(2000)
					tab.weights(got, id)
					at := id
					if _, ok := ref.rows[id]; !ok && most > 0 && int64(len(ref.rows)) >= most {
						at = fallbackID(0)
					}
					if row, ok := ref.rows[at]; ok {
						copy(want, row)
					} else {
						l.Init.Fill(want, seed, tidemill.Hash(l.Name), at, 0)
					}
					if !slices.Equal(bitsOf(got), bitsOf(want)) {
						r.Fatalf("pull of %d is %v, want %v", id, got, want)
					}
				}
				if tab.n != n {
					r.Fatalf("pulling made %d rows", tab.n-n)
				}
			},
			"capture": func(r *rapid.T) {
				if len(held) < 4 {
					held = append(held, captured{tab.capture(&sync.Mutex{}), maps.Clone(ref.rows)})
				}
			},
			"release": func(r *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rng.IntN(len(held))
				if diff := same(held[i].image, held[i].want); diff != "" {
					r.Fatalf("image: %s", diff)
				}
				held[i].image.release()
				held = slices.Delete(held, i, i+1)
			},
			"": func(r *rapid.T) {
				if tab.overflow != ref.skipped {
					r.Fatalf("overflow %d, want %d", tab.overflow, ref.skipped)
				}
			},
		})
		for _, c := range held {
			if diff := same(c.image, c.want); diff != "" {
				r.Fatalf("image: %s", diff)
			}
		}
		if diff := same(tab.capture(&sync.Mutex{}), ref.rows); diff != "" {
			r.Fatalf("table: %s", diff)
		}
	})
}

// TestTableGrows: every one of many rows stays where its id finds it.
func TestTableGrows(t *testing.T) {
	r := optim.SGD{LR: 1}
	tab := newTable(layout(r, 1, false, 0), r, 0, 7, 0, 64)
	const n = 20_000
	ids := make([]uint64, n)
	for i := range ids {
		ids[i] = uint64(i) << 40 // ids that differ in their upper bits alone
		before := make([]float32, 1)
		tab.weights(before, ids[i])
		tab.apply(ids[i], []float32{before[0] - float32(i)}, 1, 0, 1)
	}
	if tab.n != n {
		t.Fatalf("%d rows", tab.n)
	}
	got := make([]float32, 1)
	for i, id := range ids {
		if tab.weights(got, id); math.Abs(float64(got[0])-float64(i)) > 1e-2 {
			t.Fatalf("row %d holds %v", i, got[0])
		}
	}
}

// TestFullTable: ids that come once the table is full share one row that lies outside the
// bound, and the rows that are there stay their own.
func TestFullTable(t *testing.T) {
	r := optim.SGD{LR: 1}
	tab := newTable(layout(r, 2, false, 30), r, 0, 3, 0, 10) // three rows in this shard
	for id := range uint64(3) {
		tab.apply(id, []float32{1, 1}, 1, 0, 1)
	}
	own, shared, unknown := make([]float32, 2), make([]float32, 2), make([]float32, 2)
	tab.weights(own, 1)
	tab.weights(shared, 50)
	tab.apply(50, []float32{1, 0}, 1, 1, 1)
	tab.apply(60, []float32{1, 0}, 1, 2, 1)
	tab.weights(unknown, 999)
	if tab.n != 4 || tab.overflow != 2 {
		t.Errorf("%d rows with %d overflows, want 3 rows, the shared one, and 2 overflows", tab.n, tab.overflow)
	}
	if d := shared[0] - unknown[0]; math.Abs(float64(d)-2) > 1e-6 || shared[1] != unknown[1] {
		t.Errorf("the shared row went from %v to %v", shared, unknown)
	}
	after := make([]float32, 2)
	if tab.weights(after, 1); !slices.Equal(own, after) {
		t.Errorf("row 1 went from %v to %v", own, after)
	}
	// A row that was there before the table was full can still be trained.
	tab.apply(1, []float32{0, 1}, 1, 3, 1)
	if tab.weights(after, 1); after[1] != own[1]-1 || tab.overflow != 2 {
		t.Errorf("row 1 is %v after training, was %v", after, own)
	}
}

// TestPullLeavesNoTrace: what a pull gives for an unknown id is what training begins with, for
// every optimizer, and pulling changes no bit of what would be written.
func TestPullLeavesNoTrace(t *testing.T) {
	for _, c := range choices {
		r := rule(t, c)
		tab := newTable(layout(r, 3, true, 0), r, 0.9, 11, 0, 1)
		pulled, trained := make([]float32, 3), make([]float32, 3)
		for id := range uint64(1000) {
			tab.weights(pulled, id)
		}
		if tab.n != 0 || len(tab.chunks) != 0 {
			t.Errorf("%s: pulling made %d rows", c.Kind, tab.n)
		}
		tab.weights(pulled, 5)
		tab.apply(5, make([]float32, 3), 1, 0, 1)
		tab.weights(trained, 5)
		for i := range pulled {
			if math.Abs(float64(pulled[i]-trained[i])) > 1e-6 {
				t.Errorf("%s: pulled %v, and a gradient of zero made it %v", c.Kind, pulled, trained)
				break
			}
		}
	}
}

// TestAverages: rows and blocks catch up lazily, and get where a loop over every example
// would.
func TestAverages(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rng := rand.New(rand.NewPCG(seed, 2))
		r := optim.SGD{LR: 0.3}
		decay := 1 - math.Pow(10, -1-3*rng.Float64())
		l := layout(r, 2, true, 0)
		tab := newTable(l, r, decay, seed, 0, 1)
		tl := snapshot.TensorLayout{TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{2}, Init: l.Init}, Average: true}
		blk := newBlock(oneTensor(tl, r, seed), 0, 0)
		const id = 42
		var rowAvg, blkAvg [2]float64
		w, grad := make([]float32, 2), make([]float32, 2)
		known, examples := false, int64(0)
		for i := range blk.Weight {
			blkAvg[i] = float64(blk.Weight[i])
		}
		slow := func(avg *[2]float64, w []float32, n int64) {
			for range n {
				for i := range avg {
					avg[i] = decay*avg[i] + (1-decay)*float64(w[i])
				}
			}
		}
		for range 60 {
			k := 1 + rng.Int64N(50)
			grad[0], grad[1] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
			touched := rng.IntN(4) == 0
			if touched && !known {
				tab.weights(w, id)
				rowAvg, known = [2]float64{float64(w[0]), float64(w[1])}, true
			}
			if touched {
				tab.apply(id, grad, 1, examples, k)
			}
			if known {
				tab.weights(w, id)
				slow(&rowAvg, w, k)
			}
			if touched {
				blk.apply(r, grad, 1, decay, examples, k)
			}
			slow(&blkAvg, blk.Weight, k)
			examples += k
		}
		// What was not touched at the end catches up when it is read.
		if known {
			row := tab.row(tab.find(id))
			got := make([]float32, 2)
			snapshot.CatchUp(got, l.Weight(row), l.AverageOf(row), decay, uint64(examples)-l.At(row))
			for i := range got {
				if math.Abs(float64(got[i])-rowAvg[i]) > 1e-6 {
					rt.Fatalf("row average %v, want %v", got, rowAvg)
				}
			}
		}
		got := make([]float32, 2)
		snapshot.CatchUp(got, blk.Weight, blk.Average, decay, uint64(examples)-blk.At)
		for i := range got {
			if math.Abs(float64(got[i])-blkAvg[i]) > 1e-6 {
				rt.Fatalf("block average %v, want %v", got, blkAvg)
			}
		}
	})
}

// TestBlockImages: a block that was captured does not change, and one that was not is changed
// in place.
func TestBlockImages(t *testing.T) {
	for _, average := range []bool{false, true} {
		r := rule(t, tidemill.OptimizerChoice{Kind: tidemill.Adam})
		n := tidemill.BlockSize + 10
		l := snapshot.TensorLayout{
			TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{n}, Init: tidemill.Init{Kind: tidemill.InitUniform, Scale: 1}}, Average: average,
		}
		b := newBlock(oneTensor(l, r, 9), 0, 1)
		whole := make([]float32, n)
		l.Init.Fill(whole, 9, tidemill.Hash("w"), 0, 0)
		if !slices.Equal(b.Weight, whole[tidemill.BlockSize:]) {
			t.Fatal("the second block does not begin where the first one ends")
		}
		grad := make([]float32, len(b.Weight))
		for i := range grad {
			grad[i] = 1
		}
		image := b.Block
		b.shared = true
		frozen := [][]float32{slices.Clone(b.Weight), slices.Clone(b.State), slices.Clone(b.Average)}
		b.apply(r, grad, 1, 0.9, 0, 3)
		for i, v := range [][]float32{image.Weight, image.State, image.Average} {
			if !slices.Equal(v, frozen[i]) {
				t.Errorf("average %v: training changed part %d of an image", average, i)
			}
		}
		if slices.Equal(b.Weight, frozen[0]) {
			t.Error("training changed nothing")
		}
		at := &b.Weight[0]
		b.apply(r, grad, 1, 0.9, 3, 3)
		if &b.Weight[0] != at {
			t.Error("a block that no image holds was copied")
		}
		if average && b.At != 6 || !average && b.At != 0 {
			t.Errorf("average %v stands at %d", average, b.At)
		}
	}
}

// oneTensor is a model of one dense tensor.
func oneTensor(l snapshot.TensorLayout, r optim.Rule, seed uint64) *model.Model {
	return &model.Model{
		Spec: &tidemill.Spec{Seed: seed}, Layout: snapshot.Layout{Tensors: []snapshot.TensorLayout{l}}, Dense: model.Optimizer{Rule: r},
	}
}
