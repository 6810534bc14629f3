package carry

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// groupBytes is how much of a snapshot is held in memory at a time, roughly.
const groupBytes = 512 << 20

// Write writes the parts of the new job's first snapshot under names made of name, whose
// Attempt it counts up, from the snapshot m that the plan's source is of. It holds some shards
// at a time, and the dense tensors. A plan that refuses is refused; damage in what it reads is
// tidemill.ErrCorrupt, with the blob's name.
func (p *Plan) Write(ctx context.Context, b *blob.Bucket, m *snapshot.Manifest, name snapshot.PartName) ([]snapshot.Part, error) {
	return p.write(ctx, b, m, name, groupBytes)
}

func (p *Plan) write(ctx context.Context, b *blob.Bucket, m *snapshot.Manifest, name snapshot.PartName, limit int64) ([]snapshot.Part, error) {
	if err := p.Err(); err != nil {
		return nil, err
	}
	var total int64
	for _, part := range m.Parts {
		for _, info := range part.Blobs {
			total += info.Bytes
		}
	}
	v := p.shards(p.to)
	groups := int(min(int64(v), max(1, (total+limit-1)/limit)))
	c := &converter{p: p, was: p.shards(p.from), v: v, examples: uint64(m.Examples), seen: map[blockAt]snapshot.Block{}, aux: map[string][]byte{}}
	var parts []snapshot.Part
	for g := range groups {
		c.begin(g*v/groups, (g+1)*v/groups)
		// The first pass brings everything, since a new block may be made of any old ones.
		want := func(shard int) bool { return g == 0 || c.needs(shard) }
		if err := snapshot.ReadParts(ctx, b, m.Parts, m.Layout, want, c); err != nil {
			return nil, err
		}
		c.pass++
		images, err := c.images()
		if err != nil {
			return nil, err
		}
		name.Attempt = int64(g) + 1
		prefix, err := name.Prefix()
		if err != nil {
			return nil, err
		}
		part, err := snapshot.WritePart(ctx, b, prefix, p.to.Layout, images)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// converter is a snapshot.Sink that makes new shards of old ones, those in [lo, hi) at a time.
type converter struct {
	p        *Plan
	was, v   int // shards before and now
	examples uint64
	lo, hi   int
	pass     int
	shards   []shardRows // by number - lo
	row      []float32
	seen     map[blockAt]snapshot.Block // old blocks; all of them after the first pass
	aux      map[string][]byte          // of the old home shard
}

type blockAt struct{ tensor, block int }

// shardRows is what a new shard gets of each table.
type shardRows struct {
	ids  [][]uint64
	rows [][]float32
}

func (c *converter) begin(lo, hi int) {
	c.lo, c.hi = lo, hi
	c.shards = make([]shardRows, hi-lo)
	for i := range c.shards {
		n := len(c.p.to.Layout.Tables)
		c.shards[i] = shardRows{make([][]uint64, n), make([][]float32, n)}
	}
}

// needs reports whether an old shard has ids of the new shards in [lo, hi): a shard is a range
// of hashes, whatever their number.
func (c *converter) needs(shard int) bool {
	return shard*c.v < c.hi*c.was && (shard+1)*c.v > c.lo*c.was
}

// Rows implements snapshot.Sink.
func (c *converter) Rows(shard, table int, ids []uint64, rows []float32) error {
	to := c.p.tables[table]
	if to < 0 {
		return nil
	}
	width := c.p.from.Layout.Tables[table].Width()
	for i, id := range ids {
		s := shard
		if c.was != c.v {
			if id == math.MaxUint64-uint64(shard) && c.p.from.Layout.Tables[table].MaxRows > 0 {
				continue // the row that ids of the full shard shared
			}
			s = tidemill.ShardOf(id, c.v)
		}
		if s < c.lo || s >= c.hi {
			continue
		}
		out := &c.shards[s-c.lo]
		out.ids[to] = append(out.ids[to], id)
		out.rows[to] = append(out.rows[to], c.convert(table, rows[i*width:(i+1)*width])...)
	}
	return nil
}

// convert returns a row in its new layout, in memory that the next call uses again.
func (c *converter) convert(table int, row []float32) []float32 {
	to := c.p.tables[table]
	old, now := c.p.from.Layout.Tables[table], c.p.to.Layout.Tables[to]
	width := now.Width()
	c.row = slices.Grow(c.row[:0], width)[:width]
	out := c.row
	w := now.Weight(out)
	copy(w, old.Weight(row))
	if f, ok := quant.Parse(now.Values); ok {
		f.Nearest(w) // as the parameter server, which packs them, has to find them
	}
	if c.p.keepSparse[table] {
		copy(now.StateOf(out), old.StateOf(row))
	} else {
		c.p.to.Sparse[to].Init(now.StateOf(out), w)
	}
	switch {
	case !now.Uses:
	case old.Uses:
		now.PutUses(out, old.UsesOf(row))
	default:
		now.PutUses(out, 0)
	}
	if !now.Average {
		return out
	}
	avg, at := now.AverageOf(out), c.examples
	switch {
	case !old.Average:
		copy(avg, w)
	case c.p.sameDecay():
		copy(avg, old.AverageOf(row))
		at = old.At(row)
	default:
		snapshot.CatchUp(avg, w, old.AverageOf(row), c.p.from.Decay(), c.examples-min(c.examples, old.At(row)))
	}
	now.PutAt(out, at)
	return out
}

func (p *Plan) sameDecay() bool { return p.from.Decay() == p.to.Decay() }

// Block implements snapshot.Sink.
func (c *converter) Block(_ int, b snapshot.Block) error {
	if c.pass == 0 {
		b.Weight, b.State, b.Average = slices.Clone(b.Weight), slices.Clone(b.State), slices.Clone(b.Average)
		c.seen[blockAt{b.Tensor, b.Block}] = b
	}
	return nil
}

// Aux implements snapshot.Sink.
func (c *converter) Aux(shard int, name string, data []byte) error {
	if c.pass == 0 && shard == tidemill.HomeShard(c.was) && !strings.HasPrefix(name, snapshot.AuxAdmission) {
		c.aux[name] = data
	}
	return nil
}

// images returns the shards in [lo, hi).
func (c *converter) images() ([]snapshot.ShardImage, error) {
	var images []snapshot.ShardImage
	blocks := map[int][]snapshot.Block{}
	for t, l := range c.p.to.Layout.Tensors {
		var whole *values
		for b := range l.Blocks() {
			s := tidemill.BlockShard(l.Name, b, c.v)
			if s < c.lo || s >= c.hi {
				continue
			}
			if c.p.tensors[t].rows != nil && whole == nil {
				whole = c.remap(t)
			}
			blocks[s] = append(blocks[s], c.block(t, b, whole))
		}
	}
	for i, rows := range c.shards {
		img := snapshot.ShardImage{Shard: c.lo + i, Tables: make([]snapshot.TableImage, len(rows.ids)), Blocks: blocks[c.lo+i]}
		for t, ids := range rows.ids {
			if len(ids) > 0 {
				img.Tables[t].Rows = &tableRows{ids: ids, rows: rows.rows[t], width: c.p.to.Layout.Tables[t].Width()}
			}
		}
		if img.Shard == tidemill.HomeShard(c.v) {
			var err error
			if img.Aux, err = c.home(); err != nil {
				return nil, err
			}
		}
		images = append(images, img)
	}
	return images, nil
}

// tableRows are the rows of one table in a new shard: all of them are written.
type tableRows struct {
	ids   []uint64
	rows  []float32
	width int
}

func (r *tableRows) Len() int             { return len(r.ids) }
func (r *tableRows) Changed(uint32) bool  { return true }
func (r *tableRows) CountChanged() int    { return len(r.ids) }
func (r *tableRows) Done(snapshot.Digest) {}

func (r *tableRows) List(bool) iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		for i, id := range r.ids {
			if !yield(uint32(i), id) {
				return
			}
		}
	}
}

func (r *tableRows) Copy(dst []float32, rows []uint32) {
	for i, row := range rows {
		copy(dst[i*r.width:(i+1)*r.width], r.rows[int(row)*r.width:])
	}
}

// block returns block b of new tensor t; whole is given when it is made row by row.
func (c *converter) block(t, b int, whole *values) snapshot.Block {
	l := c.p.to.Layout.Tensors[t]
	n := l.BlockLen(b)
	rule := c.p.to.Dense
	out := snapshot.Block{Tensor: t, Block: b, Weight: make([]float32, n), State: make([]float32, rule.StateLen(n))}
	old, found := c.seen[blockAt{c.p.tensors[t].from, b}]
	at := b * tidemill.BlockSize
	switch {
	case whole != nil:
		copy(out.Weight, whole.weight[at:])
		rule.Init(out.State, out.Weight)
		if c.p.keepDense {
			whole.putState(out.State, at, n)
		}
	case c.p.tensors[t].from >= 0 && found:
		copy(out.Weight, old.Weight)
		if c.p.keepDense {
			copy(out.State, old.State)
		} else {
			rule.Init(out.State, out.Weight)
		}
	default:
		c.p.to.Begin(t, at, out.Weight)
		rule.Init(out.State, out.Weight)
		found = false
	}
	if !l.Average {
		return out
	}
	out.Average, out.At = slices.Clone(out.Weight), c.examples
	switch {
	case whole != nil:
		copy(out.Average, whole.average[at:])
	case !found || old.Average == nil:
	case c.p.sameDecay():
		copy(out.Average, old.Average)
		out.At = old.At
	default:
		c.catchUp(out.Average, old)
	}
	return out
}

func (c *converter) catchUp(dst []float32, old snapshot.Block) {
	snapshot.CatchUp(dst, old.Weight, old.Average, c.p.from.Decay(), c.examples-min(c.examples, old.At))
}

// values is a whole tensor, made of rows of an old one and of initial values.
type values struct {
	weight, average []float32
	// state[g] is the g-th number of optimizer state per value; known says which values have
	// one. rest is what the optimizer keeps per block beside that.
	state [][]float32
	known []bool
	rest  []float32
}

// putState overwrites the state of the n values from at on by what was carried.
func (v *values) putState(dst []float32, at, n int) {
	for g, s := range v.state {
		for i := range n {
			if v.known[at+i] {
				dst[g*n+i] = s[at+i]
			}
		}
	}
	copy(dst[len(v.state)*n:], v.rest)
}

// remap makes new tensor t of the old one, row by row.
func (c *converter) remap(t int) *values {
	move := c.p.tensors[t]
	now, old := c.p.to.Layout.Tensors[t], c.p.from.Layout.Tensors[move.from]
	rule := c.p.from.Dense
	// All optimizers keep so many numbers per value, then some per row or block.
	groups := rule.StateLen(2) - rule.StateLen(1)
	n := now.Len()
	v := &values{weight: make([]float32, n), average: make([]float32, n), state: make([][]float32, groups), known: make([]bool, n)}
	for g := range v.state {
		v.state[g] = make([]float32, n)
	}
	c.p.to.Begin(t, 0, v.weight)
	copy(v.average, v.weight)
	averages := make([][]float32, old.Blocks())
	for b := range averages {
		o, ok := c.seen[blockAt{move.from, b}]
		switch {
		case !ok:
		case o.Average == nil:
			averages[b] = o.Weight
		default:
			averages[b] = make([]float32, len(o.Weight))
			c.catchUp(averages[b], o)
		}
	}
	width := now.Len() / now.Shape[0]
	for row, from := range move.rows {
		for k := range width {
			if from < 0 {
				break
			}
			dst, src := row*width+k, from*width+k
			b, i := src/tidemill.BlockSize, src%tidemill.BlockSize
			o, ok := c.seen[blockAt{move.from, b}]
			if !ok {
				continue
			}
			v.weight[dst], v.average[dst], v.known[dst] = o.Weight[i], averages[b][i], true
			for g := range groups {
				v.state[g][dst] = o.State[g*len(o.Weight)+i]
			}
			v.rest = o.State[groups*len(o.Weight):]
		}
	}
	return v
}

// auxNotes are the home shard's notes: a JSON object.
const auxNotes = "notes"

// home returns what the home shard keeps beside parameters.
func (c *converter) home() (map[string][]byte, error) {
	out := map[string][]byte{}
	state := c.p.to.Plan.NewState()
	if data, ok := c.aux[snapshot.AuxTransforms]; ok {
		old, err := c.p.from.Plan.LoadState(data)
		if err != nil {
			return nil, err
		}
		if state, _, err = c.p.to.Plan.CarryState(old, func(name string) bool { return c.p.same[name] }); err != nil {
			return nil, err
		}
	}
	var err error
	if out[snapshot.AuxTransforms], err = state.AppendBinary(nil); err != nil {
		return nil, err
	}
	if c.p.sameStream {
		maps.Copy(out, without(c.aux, snapshot.AuxTransforms))
		if notes, ok := out[auxNotes]; ok && c.p.from.Spec.Time.Column != c.p.to.Spec.Time.Column {
			if out[auxNotes], err = withoutMember(notes, "event_max"); err != nil {
				return nil, err
			}
		}
	}
	if _, ok := out[snapshot.AuxProgress]; !ok {
		if out[snapshot.AuxProgress], err = progress.New(c.p.to.Spec.Label.Type).AppendBinary(nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func without(m map[string][]byte, name string) map[string][]byte {
	m = maps.Clone(m)
	delete(m, name)
	return m
}

// withoutMember returns a JSON object without one of its members.
func withoutMember(data []byte, name string) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("notes of the home shard: %w: %w", tidemill.ErrCorrupt, err)
	}
	delete(members, name)
	return json.Marshal(members)
}

// Manifest returns what the record of the new job's first snapshot says of its state, made of
// parts, and of where it comes from: m. Job, Lineage, Number, Generation, Schema and Created are
// left for the caller to fill in.
func (p *Plan) Manifest(m *snapshot.Manifest, parts []snapshot.Part) *snapshot.Manifest {
	out := &snapshot.Manifest{
		Format: snapshot.Format, Model: p.to.Spec.Model,
		Ancestor: &snapshot.Ancestor{
			Job: m.Job, Lineage: m.Lineage, Snapshot: m.Number, SpecHash: m.SpecHash, Digest: m.Digest, Examples: m.Examples, Retired: p.Retired(),
		},
		StreamTopic: p.topic, StreamIdentity: p.identity, Cut: p.Begin(), Round: m.Round, Examples: m.Examples,
		SpecHash: p.to.Spec.Hash(), Spec: *p.to.Spec, Profile: m.Profile,
		Metrics: map[string]float64{}, Layout: p.to.Layout, Parts: parts, Digest: snapshot.SumParts(parts),
	}
	if p.sameStream {
		maps.Copy(out.Metrics, m.Metrics)
		if p.from.Spec.Time.Column == p.to.Spec.Time.Column {
			out.WatermarkMS = m.WatermarkMS
		}
	}
	return out
}

var _ snapshot.Sink = (*converter)(nil)

// Compile compiles the spec of a snapshot in a store.
func Compile(ctx context.Context, b *blob.Bucket, m *snapshot.Manifest) (*model.Model, error) {
	schema, err := model.DecodeSchema(m.Schema)
	if err != nil {
		return nil, err
	}
	return model.CompileIn(ctx, b, &m.Spec, schema, engine.Options{})
}
