package carry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// state is all that a snapshot holds, by name rather than by shard.
type state struct {
	rows   map[string]map[uint64][]float32 // by table, id
	shard  map[string]map[uint64]int       // where each was
	blocks map[string]map[int]snapshot.Block
	aux    map[string][]byte
}

func newState() *state {
	return &state{map[string]map[uint64][]float32{}, map[string]map[uint64]int{}, map[string]map[int]snapshot.Block{}, map[string][]byte{}}
}

// reader is a Sink that fills a state.
type reader struct {
	*state
	l snapshot.Layout
}

func (r reader) Rows(shard, table int, ids []uint64, rows []float32) error {
	l := r.l.Tables[table]
	if r.rows[l.Name] == nil {
		r.rows[l.Name], r.shard[l.Name] = map[uint64][]float32{}, map[uint64]int{}
	}
	for i, id := range ids {
		if r.rows[l.Name][id] != nil {
			return fmt.Errorf("id %d twice", id)
		}
		r.rows[l.Name][id], r.shard[l.Name][id] = slices.Clone(rows[i*l.Width():(i+1)*l.Width()]), shard
	}
	return nil
}

func (r reader) Block(shard int, b snapshot.Block) error {
	name := r.l.Tensors[b.Tensor].Name
	if r.blocks[name] == nil {
		r.blocks[name] = map[int]snapshot.Block{}
	}
	b.Weight, b.State, b.Average = slices.Clone(b.Weight), slices.Clone(b.State), slices.Clone(b.Average)
	r.blocks[name][b.Block] = b
	return nil
}

func (r reader) Aux(_ int, name string, data []byte) error {
	r.aux[name] = data
	return nil
}

const examples = 500

// trained writes a made-up snapshot of m's job and returns its manifest.
func trained(t testing.TB, b *blob.Bucket, m *model.Model, seed uint64) *snapshot.Manifest {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	float := func() float32 { return float32(rnd.IntN(1000)+1) / 64 }
	fill := func(v []float32) {
		for i := range v {
			v[i] = float()
		}
	}
	v := m.Spec.Shards
	images := make([]snapshot.ShardImage, v)
	tables := make([][][]uint64, v)
	rows := make([][][]float32, v)
	for s := range v {
		images[s] = snapshot.ShardImage{Shard: s}
		tables[s], rows[s] = make([][]uint64, len(m.Layout.Tables)), make([][]float32, len(m.Layout.Tables))
	}
	add := func(s, table int, id uint64) {
		l := m.Layout.Tables[table]
		row := make([]float32, l.Width())
		fill(row)
		if l.Average {
			l.PutAt(row, uint64(rnd.IntN(examples+1)))
		}
		tables[s][table], rows[s][table] = append(tables[s][table], id), append(rows[s][table], row...)
	}
	for table := range m.Layout.Tables {
		for range 200 {
			id := rnd.Uint64()
			add(tidemill.ShardOf(id, v), table, id)
		}
		add(2, table, math.MaxUint64-2) // shared by the ids that a full shard did not admit
	}
	for i, l := range m.Layout.Tensors {
		for k := range l.Blocks() {
			n := l.BlockLen(k)
			blk := snapshot.Block{Tensor: i, Block: k, Weight: make([]float32, n), State: make([]float32, m.Dense.StateLen(n))}
			fill(blk.Weight)
			fill(blk.State)
			if l.Average {
				blk.Average, blk.At = make([]float32, n), uint64(rnd.IntN(examples+1))
				fill(blk.Average)
			}
			s := tidemill.BlockShard(l.Name, k, v)
			images[s].Blocks = append(images[s].Blocks, blk)
		}
	}
	transforms, err := m.Plan.NewState().AppendBinary(nil)
	must(t, err)
	prog := progress.New(m.Spec.Label.Type)
	must(t, prog.Add(0, 0, progress.AppendOutcomes(nil, []progress.Outcome{{Score: 0.5, Label: 1, Loss: 0.7}})))
	metrics, err := prog.AppendBinary(nil)
	must(t, err)
	images[tidemill.HomeShard(v)].Aux = map[string][]byte{
		snapshot.AuxTransforms: transforms, snapshot.AuxProgress: metrics, auxNotes: []byte(`{"event_max":[7,8],"bad":[{"partition":1,"offset":3,"reason":"x"}]}`),
	}
	for s := range v {
		images[s].Tables = make([]snapshot.TableImage, len(m.Layout.Tables))
		for table, l := range m.Layout.Tables {
			if len(tables[s][table]) > 0 {
				images[s].Tables[table].Rows = &tableRows{ids: tables[s][table], rows: rows[s][table], width: l.Width()}
			}
		}
	}
	prefix, err := snapshot.PartName{Job: "old", Number: 3, Generation: 1, Member: "n"}.Prefix()
	must(t, err)
	part, err := snapshot.WritePart(ctx, b, prefix, m.Layout, images)
	must(t, err)
	return &snapshot.Manifest{
		Format: snapshot.Format, Job: "old", Model: "m", Lineage: "line", Number: 3, StreamTopic: "t", StreamIdentity: "one", Cut: tidemill.Cut{10, 20},
		Round: 17, Examples: examples, WatermarkMS: 55, SpecHash: m.Spec.Hash(), Spec: *m.Spec, Layout: m.Layout, Metrics: map[string]float64{"loss": 0.5},
		Parts: []snapshot.Part{part}, Digest: part.Digest,
	}
}

func read(t testing.TB, b *blob.Bucket, m *snapshot.Manifest) *state {
	t.Helper()
	s := newState()
	must(t, snapshot.ReadParts(ctx, b, m.Parts, m.Layout, nil, reader{s, m.Layout}))
	return s
}

// carried writes what plan p makes of m and reads it back.
func carried(t testing.TB, b *blob.Bucket, p *Plan, m *snapshot.Manifest, limit int64) (*snapshot.Manifest, *state) {
	t.Helper()
	parts, err := p.write(ctx, b, m, snapshot.PartName{Job: "new", Number: 1, Generation: 1, Member: "n"}, limit)
	must(t, err)
	out := p.Manifest(m, parts)
	out.Job, out.Lineage, out.Number = "new", "other", 1
	must(t, out.Validate())
	must(t, snapshot.Verify(ctx, b, out))
	return out, read(t, b, out)
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// With the same spec every bit is carried, whatever is held in memory at a time; with another
// number of shards every row is where it is looked for.
func TestWriteSame(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.Uint64().Draw(r, "seed")
		limit := rapid.Int64Range(1, 1<<20).Draw(r, "bytes at a time")
		v := rapid.IntRange(1, 20).Draw(r, "shards")
		b := memblob.OpenBucket(nil)
		defer b.Close()
		old := compile(t, base())
		m := trained(t, b, old, seed)
		s := base()
		s.Shards = v
		p := New(source(old), target(compile(t, s)))
		out, got := carried(t, b, p, m, limit)
		want := read(t, b, m)
		if v == old.Spec.Shards {
			if out.Digest != m.Digest {
				r.Fatalf("digest %s of %s", out.Digest, m.Digest)
			}
		} else {
			for name := range want.rows {
				delete(want.rows[name], math.MaxUint64-2)
			}
		}
		for name, rows := range want.rows {
			if !maps.EqualFunc(rows, got.rows[name], sameBits) {
				r.Fatalf("table %s differs", name)
			}
			for id, shard := range got.shard[name] {
				if shard != tidemill.ShardOf(id, v) && id != math.MaxUint64-2 {
					r.Fatalf("table %s: id %d is in shard %d of %d", name, id, shard, v)
				}
			}
		}
		for name, blocks := range want.blocks {
			for k, w := range blocks {
				g := got.blocks[name][k]
				if !sameBits(g.Weight, w.Weight) || !sameBits(g.State, w.State) || !sameBits(g.Average, w.Average) || g.At != w.At {
					r.Fatalf("block %d of %s differs", k, name)
				}
			}
		}
		if !maps.EqualFunc(want.aux, got.aux, slices.Equal) {
			r.Fatalf("aux %q, want %q", got.aux, want.aux)
		}
		if out.Examples != examples || out.Round != 17 || out.WatermarkMS != 55 || out.Metrics["loss"] != 0.5 || !slices.Equal(out.Cut, m.Cut) {
			r.Fatalf("manifest %+v", out)
		}
		if a := out.Ancestor; a == nil || a.Job != "old" || a.Snapshot != 3 || a.Digest != m.Digest || a.Lineage != "line" {
			r.Fatalf("ancestor %+v", a)
		}
	})
}

// write carries a made-up snapshot of base into a changed spec.
func write(t *testing.T, change func(s *tidemill.Spec, to *Target)) (old, now *model.Model, was, is *state, out *snapshot.Manifest) {
	t.Helper()
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { b.Close() })
	old = compile(t, base())
	m := trained(t, b, old, 1)
	s := base()
	to := target(nil)
	change(s, &to)
	now = compile(t, s)
	to.Model = now
	out, is = carried(t, b, New(source(old), to), m, 1<<30)
	return old, now, read(t, b, m), is, out
}

func TestWriteOptimizers(t *testing.T) {
	for name, change := range map[string]func(s *tidemill.Spec, to *Target){
		"other kinds": func(s *tidemill.Spec, _ *Target) {
			s.Optimizer.Sparse, s.Optimizer.Dense = tidemill.OptimizerChoice{Kind: tidemill.Adagrad}, tidemill.OptimizerChoice{Kind: tidemill.FTRL}
		},
		"FTRL's alpha": func(s *tidemill.Spec, _ *Target) { s.Optimizer.Sparse.Alpha = 0.5 },
		"none":         func(s *tidemill.Spec, _ *Target) { s.Optimizer.Sparse = tidemill.OptimizerChoice{Kind: tidemill.SGD} },
	} {
		t.Run(name, func(t *testing.T) {
			old, now, was, is, _ := write(t, change)
			for i, l := range now.Layout.Tables {
				o := old.Layout.Tables[i]
				for id, row := range was.rows[l.Name] {
					got := is.rows[l.Name][id]
					want := make([]float32, l.State)
					now.Sparse[i].Init(want, o.Weight(row))
					if !sameBits(l.Weight(got), o.Weight(row)) || !sameBits(l.StateOf(got), want) || !sameBits(l.AverageOf(got), o.AverageOf(row)) || l.At(got) != o.At(row) {
						t.Fatalf("table %s, id %d: %v of %v", l.Name, id, got, row)
					}
					// FTRL derives the weight from its state: a gradient of next to nothing must leave it.
					if now.Spec.Optimizer.Sparse.Kind == tidemill.FTRL {
						w, g := slices.Clone(l.Weight(got)), make([]float32, l.Dim)
						for k := range g {
							g[k] = 1e-12
						}
						now.Sparse[i].Apply(w, slices.Clone(l.StateOf(got)), g, 1)
						for k := range w {
							if d := math.Abs(float64(w[k] - l.Weight(got)[k])); d > 1e-5*math.Abs(float64(w[k])) {
								t.Fatalf("weight %v becomes %v by itself", l.Weight(got)[k], w[k])
							}
						}
					}
				}
			}
			for tensor, blocks := range was.blocks {
				for k, blk := range blocks {
					got := is.blocks[tensor][k]
					want := slices.Clone(blk.State)
					if now.Spec.Optimizer.Dense.Kind != tidemill.Adam {
						want = make([]float32, now.Dense.StateLen(len(blk.Weight)))
						now.Dense.Init(want, blk.Weight)
					}
					if !sameBits(got.Weight, blk.Weight) || !sameBits(got.State, want) {
						t.Fatalf("tensor %s, block %d: %v of %v", tensor, k, got, blk)
					}
				}
			}
		})
	}
}

func TestWriteAverages(t *testing.T) {
	catchUp := func(w, avg []float32, at uint64) []float32 {
		out := make([]float32, len(w))
		snapshot.CatchUp(out, w, avg, 0.9, examples-at)
		return out
	}
	t.Run("none", func(t *testing.T) {
		old, now, was, is, _ := write(t, func(s *tidemill.Spec, _ *Target) { s.Optimizer.Average = nil })
		l, o := now.Layout.Tables[0], old.Layout.Tables[0]
		for id, row := range was.rows[l.Name] {
			if got := is.rows[l.Name][id]; !sameBits(got, row[:o.Dim+o.State]) || l.Average {
				t.Fatalf("%v of %v", got, row)
			}
		}
		if b := is.blocks["head"][0]; b.Average != nil || b.At != 0 {
			t.Errorf("block %+v", b)
		}
	})
	t.Run("another decay", func(t *testing.T) {
		_, now, was, is, _ := write(t, func(s *tidemill.Spec, _ *Target) { s.Optimizer.Average = &tidemill.AverageSpec{Decay: 0.5} })
		l := now.Layout.Tables[0]
		for id, row := range was.rows[l.Name] {
			got := is.rows[l.Name][id]
			if want := catchUp(l.Weight(row), l.AverageOf(row), l.At(row)); !sameBits(l.AverageOf(got), want) || l.At(got) != examples || !sameBits(l.StateOf(got), l.StateOf(row)) {
				t.Fatalf("%v of %v", got, row)
			}
		}
		w, g := was.blocks["head"][0], is.blocks["head"][0]
		if !sameBits(g.Average, catchUp(w.Weight, w.Average, w.At)) || g.At != examples {
			t.Errorf("block %+v of %+v", g, w)
		}
	})
	t.Run("new", func(t *testing.T) {
		b := memblob.OpenBucket(nil)
		defer b.Close()
		s := base()
		s.Optimizer.Average = nil
		old, now := compile(t, s), compile(t, base())
		m := trained(t, b, old, 1)
		_, is := carried(t, b, New(source(old), target(now)), m, 1<<30)
		l := now.Layout.Tables[0]
		for id, row := range is.rows[l.Name] {
			if !sameBits(l.AverageOf(row), l.Weight(row)) || l.At(row) != examples {
				t.Fatalf("id %d: %v", id, row)
			}
		}
		if g := is.blocks["head"][0]; !sameBits(g.Average, g.Weight) || g.At != examples {
			t.Errorf("block %+v", g)
		}
	})
}

// Rows of input tensors follow their features: in another order, with one gone and one new.
func TestWriteInputRows(t *testing.T) {
	old, now, was, is, _ := write(t, func(s *tidemill.Spec, _ *Target) {
		s.Features[7], s.Features[8] = s.Features[8], s.Features[7] // score before age
		s.Features = append([]tidemill.FeatureSpec{{Name: "price", Column: "price"}}, s.Features...)
		s.Features = slices.DeleteFunc(s.Features, func(f tidemill.FeatureSpec) bool { return f.Name == "tags" })
	})
	find := func(m *model.Model, name string) int {
		return slices.IndexFunc(m.Layout.Tensors, func(l snapshot.TensorLayout) bool { return l.Name == name })
	}
	for _, tensor := range []string{"dense", "hidden1"} {
		o, n := find(old, tensor), find(now, tensor)
		before, after := inputRows(old)[o], inputRows(now)[n]
		w, g := was.blocks[tensor][0], is.blocks[tensor][0]
		l := now.Layout.Tensors[n]
		width := l.Len() / l.Shape[0]
		initial := make([]float32, l.Len())
		l.Init.Fill(initial, now.Spec.Seed, tidemill.Hash(tensor), 0, 0)
		caught := make([]float32, len(w.Weight))
		snapshot.CatchUp(caught, w.Weight, w.Average, 0.9, examples-w.At)
		states := now.Dense.StateLen(len(g.Weight)) / len(g.Weight)
		fresh := 0
		for r, name := range after {
			k := slices.Index(before, name)
			for c := range width {
				dst := r*width + c
				want, avg := initial[dst], initial[dst]
				if k >= 0 {
					want, avg = w.Weight[k*width+c], caught[k*width+c]
				} else if c == 0 {
					fresh++
				}
				if g.Weight[dst] != want || g.Average[dst] != avg {
					t.Fatalf("tensor %s, row %s: %v, average %v; want %v, %v", tensor, name, g.Weight[dst], g.Average[dst], want, avg)
				}
				for s := range states {
					want := float32(0)
					if k >= 0 {
						want = w.State[s*len(w.Weight)+k*width+c]
					}
					if got := g.State[s*len(g.Weight)+dst]; got != want {
						t.Fatalf("tensor %s, row %s: state %d is %v, want %v", tensor, name, s, got, want)
					}
				}
			}
		}
		if fresh != 1 || g.At != examples || g.State[len(g.State)-1] != w.State[len(w.State)-1] {
			t.Errorf("tensor %s: %d fresh rows, average of %d, count of updates %v of %v", tensor, fresh, g.At, g.State[len(g.State)-1], w.State[len(w.State)-1])
		}
	}
}

// What was learned, judged and noted comes along where it still means the same.
func TestWriteAux(t *testing.T) {
	_, now, was, is, out := write(t, func(s *tidemill.Spec, _ *Target) { s.Time.Column = "" })
	if string(is.aux[auxNotes]) != `{"bad":[{"partition":1,"offset":3,"reason":"x"}]}` || !slices.Equal(is.aux[snapshot.AuxProgress], was.aux[snapshot.AuxProgress]) || out.WatermarkMS != 0 {
		t.Errorf("another time column: %q, watermark %d", is.aux, out.WatermarkMS)
	}
	if _, err := now.Plan.LoadState(is.aux[snapshot.AuxTransforms]); err != nil {
		t.Error(err)
	}
	_, now, _, is, out = write(t, func(s *tidemill.Spec, to *Target) { to.Topic = "u" })
	prog, err := progress.Load(is.aux[snapshot.AuxProgress])
	must(t, err)
	if is.aux[auxNotes] != nil || prog.Total().Examples != 0 || len(out.Metrics) != 0 || out.WatermarkMS != 0 || out.StreamTopic != "u" || !slices.Equal(out.Cut, tidemill.Cut{5, 5}) {
		t.Errorf("another stream: %q, manifest %+v", is.aux, out)
	}
	if _, err := now.Plan.LoadState(is.aux[snapshot.AuxTransforms]); err != nil {
		t.Error(err)
	}
}

// A refused plan writes nothing; damage is found, and named.
func TestWriteRefuses(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	old := compile(t, base())
	m := trained(t, b, old, 1)
	s := base()
	s.Architecture.Dim = 5
	name := snapshot.PartName{Job: "new", Number: 1, Generation: 1, Member: "n"}
	if _, err := New(source(old), target(compile(t, s))).Write(ctx, b, m, name); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("refused: %v", err)
	}
	p := New(source(old), target(compile(t, base())))
	blobName := m.Parts[0].Blobs[0].Name
	data, err := b.ReadAll(ctx, blobName)
	must(t, err)
	data[len(data)/2] ^= 4
	must(t, b.WriteAll(ctx, blobName, data, nil))
	if _, err := p.Write(ctx, b, m, name); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
}
