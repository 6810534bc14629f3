package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// state is a job's state in plain form, to compare with.
type state struct {
	layout Layout
	v      int                            // shards
	rows   []map[int]map[uint64][]float32 // table → shard → id → row
	blocks map[int]map[[2]int]Block       // shard → (tensor, block)
	aux    map[int]map[string][]byte      // shard → name
}

// anyFloat is a float from a generator that makes NaNs, infinities and negative zeros too.
func anyFloat(rng *rand.Rand) float32 {
	switch rng.IntN(12) {
	case 0:
		return float32(math.Copysign(0, -1))
	case 1:
		return math.Float32frombits(0x7f800001 | rng.Uint32()&0x7fffff)
	case 2:
		return float32(math.Inf(1))
	default:
		return math.Float32frombits(rng.Uint32())
	}
}

func values(rng *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = anyFloat(rng)
	}
	return v
}

// randomState makes a small state; the same seed makes the same one.
func randomState(seed uint64, maxRows int) state {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := state{v: 1 + rng.IntN(6), blocks: map[int]map[[2]int]Block{}, aux: map[int]map[string][]byte{}}
	average := rng.IntN(2) == 0
	for i := range rng.IntN(4) {
		t := TableLayout{TableSpec: tidemill.TableSpec{Name: fmt.Sprintf("table %d/ü", i), Dim: 1 + rng.IntN(5)}, State: rng.IntN(4), Average: average, Uses: rng.IntN(3) == 0}
		s.layout.Tables = append(s.layout.Tables, t)
		shards := map[int]map[uint64][]float32{}
		for range rng.IntN(maxRows + 1) {
			id := rng.Uint64()
			if rng.IntN(3) == 0 {
				id = uint64(rng.IntN(10))
			}
			shard := tidemill.ShardOf(id, s.v)
			if shards[shard] == nil {
				shards[shard] = map[uint64][]float32{}
			}
			shards[shard][id] = values(rng, t.Width())
		}
		s.rows = append(s.rows, shards)
	}
	for i := range rng.IntN(3) {
		t := TensorLayout{TensorSpec: tidemill.TensorSpec{Name: fmt.Sprintf("w%d", i), Shape: []int{1 + rng.IntN(9), 1 + rng.IntN(5)}}, Average: average}
		if rng.IntN(4) == 0 {
			t.Shape[0] = tidemill.BlockSize
		}
		s.layout.Tensors = append(s.layout.Tensors, t)
		for b := range t.Blocks() {
			block := Block{Tensor: i, Block: b, Weight: values(rng, t.BlockLen(b)), State: values(rng, rng.IntN(5))}
			if average {
				block.Average, block.At = values(rng, t.BlockLen(b)), rng.Uint64()
			}
			shard := tidemill.BlockShard(t.Name, b, s.v)
			if s.blocks[shard] == nil {
				s.blocks[shard] = map[[2]int]Block{}
			}
			s.blocks[shard][[2]int{i, b}] = block
		}
	}
	for shard := range s.v {
		for range rng.IntN(3) {
			if s.aux[shard] == nil {
				s.aux[shard] = map[string][]byte{}
			}
			data := make([]byte, rng.IntN(50))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			s.aux[shard][fmt.Sprintf("aux %d", rng.IntN(3))] = data
		}
	}
	if rng.IntN(2) == 0 {
		home := tidemill.HomeShard(s.v)
		if s.aux[home] == nil {
			s.aux[home] = map[string][]byte{}
		}
		s.aux[home][AuxTransforms] = []byte("learned")
	}
	return s
}

// images returns the shards of s for which own holds; order shuffles whatever has no order.
func (s state) images(own func(int) bool, order *rand.Rand) []ShardImage {
	var out []ShardImage
	for shard := range s.v {
		if !own(shard) {
			continue
		}
		img := ShardImage{Shard: shard, Aux: s.aux[shard]}
		for table := range s.rows {
			// Used in several goroutines: a generator of its own.
			rng := rand.New(rand.NewPCG(uint64(table), uint64(shard)))
			if order == nil {
				rng = nil
			}
			img.Tables = append(img.Tables, TableImage{Rows: newTestRows(s.layout.Tables[table].Width(), s.rows[table][shard], nil, rng)})
		}
		for _, b := range s.blocks[shard] { // map order
			img.Blocks = append(img.Blocks, b)
		}
		out = append(out, img)
	}
	if order != nil {
		order.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	}
	return out
}

// testRows are rows in a map, in the order of ids or in a random one.
type testRows struct {
	width   int
	ids     []uint64
	rows    map[uint64][]float32
	changed map[uint64]bool // nil: all
	sum     Digest
	done    bool
}

func newTestRows(width int, rows map[uint64][]float32, changed map[uint64]bool, order *rand.Rand) *testRows {
	r := &testRows{width: width, ids: slices.Sorted(maps.Keys(rows)), rows: rows, changed: changed}
	if order != nil {
		order.Shuffle(len(r.ids), func(i, k int) { r.ids[i], r.ids[k] = r.ids[k], r.ids[i] })
	}
	return r
}

func (r *testRows) Len() int { return len(r.ids) }

func (r *testRows) Changed(row uint32) bool { return r.changed == nil || r.changed[r.ids[row]] }

func (r *testRows) CountChanged() int {
	n := 0
	for row := range r.ids {
		if r.Changed(uint32(row)) {
			n++
		}
	}
	return n
}

func (r *testRows) List(changed bool) iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		for row, id := range r.ids {
			if (!changed || r.Changed(uint32(row))) && !yield(uint32(row), id) {
				return
			}
		}
	}
}

func (r *testRows) Copy(dst []float32, rows []uint32) {
	for i, row := range rows {
		copy(dst[i*r.width:(i+1)*r.width], r.rows[r.ids[row]])
	}
}

func (r *testRows) Done(sum Digest) { r.sum, r.done = sum, true }

// collector is a Sink that rebuilds a state, and complains about what no writer wrote.
type collector struct{ state }

func newCollector(l Layout, v int) *collector {
	c := &collector{state{layout: l, v: v, blocks: map[int]map[[2]int]Block{}, aux: map[int]map[string][]byte{}}}
	for range l.Tables {
		c.rows = append(c.rows, map[int]map[uint64][]float32{})
	}
	return c
}

func (c *collector) Rows(shard, table int, ids []uint64, rows []float32) error {
	if c.rows[table][shard] == nil {
		c.rows[table][shard] = map[uint64][]float32{}
	}
	w := c.layout.Tables[table].Width()
	if len(rows) != len(ids)*w || len(ids) == 0 {
		return fmt.Errorf("%d ids with %d floats", len(ids), len(rows))
	}
	for i, id := range ids {
		if c.rows[table][shard][id] != nil {
			return fmt.Errorf("id %d twice", id)
		}
		c.rows[table][shard][id] = slices.Clone(rows[i*w : (i+1)*w])
	}
	return nil
}

func (c *collector) Block(shard int, b Block) error {
	if c.blocks[shard] == nil {
		c.blocks[shard] = map[[2]int]Block{}
	}
	b.Weight, b.State, b.Average = slices.Clone(b.Weight), slices.Clone(b.State), slices.Clone(b.Average)
	c.blocks[shard][[2]int{b.Tensor, b.Block}] = b
	return nil
}

func (c *collector) Aux(shard int, name string, data []byte) error {
	if c.aux[shard] == nil {
		c.aux[shard] = map[string][]byte{}
	}
	c.aux[shard][name] = data
	return nil
}

// dump writes a state out with the bits of every value, for comparison.
func (s state) dump(own func(int) bool) string {
	var out []string
	bits := func(v []float32) []uint32 {
		b := make([]uint32, len(v))
		for i := range v {
			b[i] = math.Float32bits(v[i])
		}
		return b
	}
	for t, shards := range s.rows {
		for shard, rows := range shards {
			for id, row := range rows {
				if own(shard) {
					out = append(out, fmt.Sprintf("row %d %d %d %x", t, shard, id, bits(row)))
				}
			}
		}
	}
	for shard, blocks := range s.blocks {
		for _, b := range blocks {
			if own(shard) {
				out = append(out, fmt.Sprintf("block %d %d %d %x %x %x %d", shard, b.Tensor, b.Block, bits(b.Weight), bits(b.State), bits(b.Average), b.At))
			}
		}
	}
	for shard, aux := range s.aux {
		for name, data := range aux {
			if own(shard) {
				out = append(out, fmt.Sprintf("aux %d %s %x", shard, name, data))
			}
		}
	}
	slices.Sort(out)
	return fmt.Sprintf("%d\n%s", len(out), join(out))
}

func join(s []string) string {
	var b []byte
	for _, l := range s {
		b = append(append(b, l...), '\n')
	}
	return string(b)
}

// digest is the digest of s by its definition, row by row.
func (s state) digest() Digest {
	var d Digest
	for t, shards := range s.rows {
		for _, rows := range shards {
			for id, row := range rows {
				d.AddRow(tidemill.Hash(s.layout.Tables[t].Name), id, row)
			}
		}
	}
	for _, blocks := range s.blocks {
		for _, b := range blocks {
			d.AddBlock(tidemill.Hash(s.layout.Tensors[b.Tensor].Name), b)
		}
	}
	for _, aux := range s.aux {
		if data, ok := aux[AuxTransforms]; ok {
			d.AddAux(AuxTransforms, data)
		}
	}
	return d
}

func all(int) bool { return true }

// write writes s as n parts and returns them.
func (s state) write(t testing.TB, b *blob.Bucket, number int64, n int, order *rand.Rand) []Part {
	t.Helper()
	var parts []Part
	for p := range n {
		prefix, err := PartName{Job: "job", Number: number, Generation: 2, Epoch: 3, Attempt: 1, Member: fmt.Sprintf("ps%d", p)}.Prefix()
		must(t, err)
		part, err := WritePart(ctx, b, prefix, s.layout, s.images(func(shard int) bool { return shard%n == p }, order))
		must(t, err)
		parts = append(parts, part)
	}
	return parts
}

// manifest returns one that commits parts of s.
func (s state) manifest(number int64, parts []Part) *Manifest {
	m := &Manifest{
		Format: s.layout.format(), Job: "job", Model: "model", Lineage: "lineage-1", Number: number, Generation: 2,
		StreamTopic: "topic", StreamIdentity: "identity", Cut: tidemill.Cut{10, 20}, Round: 5, Examples: 1 << 62,
		Schedule: Schedule{}.Append(1, []Step{{0, 0, 5, 5}}).Append(2, []Step{{0, 5, 10, 5}}),
		BadRows:  []BadRow{{Partition: 1, Offset: 3, Reason: "not finite"}},
		Spec:     tidemill.Spec{Model: "model", Shards: s.v, Seed: 7},
		Schema:   []byte("schema"), WatermarkMS: 12345,
		Metrics: map[string]float64{"loss": 0.25, "auc": 0.75},
		Layout:  s.layout, Parts: parts, Digest: SumParts(parts), Created: time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC),
	}
	for _, t := range s.layout.Tables {
		if t.Average {
			m.Spec.Optimizer.Average = &tidemill.AverageSpec{Decay: 0.999}
		}
	}
	for _, t := range s.layout.Tensors {
		if t.Average {
			m.Spec.Optimizer.Average = &tidemill.AverageSpec{Decay: 0.999}
		}
	}
	m.SpecHash = m.Spec.Hash()
	return m
}

// contents returns all blobs of a bucket.
func contents(t testing.TB, b *blob.Bucket) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	must(t, list(ctx, b, "", func(key string) error {
		data, err := b.ReadAll(ctx, key)
		out[key] = data
		return err
	}))
	return out
}

// fill returns a bucket with the given blobs.
func fill(t testing.TB, blobs map[string][]byte) *blob.Bucket {
	t.Helper()
	b := memblob.OpenBucket(nil)
	for _, k := range slices.SortedFunc(maps.Keys(blobs), cmp.Compare) {
		must(t, b.WriteAll(ctx, k, blobs[k], &blob.WriterOptions{ContentType: contentType}))
	}
	return b
}
