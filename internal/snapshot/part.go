package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
)

// Kinds of blob.
const (
	KindTable      = "table"
	KindDense      = "dense"
	KindAux        = "aux"
	KindTransforms = "transforms" // versions only, like those below
	KindSchema     = "schema"
	KindProbes     = "probes"
	KindExpected   = "expected"
)

// Blob is one stored file with what is needed to verify it.
type Blob struct {
	Name   string `json:"name"` // in the store
	Kind   string `json:"kind"`
	Table  string `json:"table,omitempty"` // of KindTable
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Rows   int64  `json:"rows,omitempty"`
	Shards []int  `json:"shards,omitempty"` // that have rows in it, ascending
}

// Part is what one parameter server contributes to a snapshot.
type Part struct {
	Shards []int  `json:"shards"` // that the part is the whole state of, ascending
	Blobs  []Blob `json:"blobs"`  // tables in layout order, dense, aux; those without rows are left out
	// Digest of the shards' rows, blocks and aux named AuxTransforms.
	Digest Digest `json:"digest"`
}

// writers is how many blobs of a part are written at a time.
const writers = 4

// WritePart writes the state of shards under prefix, as at most one blob per table, one for
// all dense tensors and one for all aux, and returns what the manifest needs to know of them.
//
// The same state gives the same bytes, whatever order pages and shards come in. Names are
// created, never replaced; a blob that is there already with the same bytes counts as
// written, so a WritePart that failed can be repeated. Nothing refers to the blobs until a
// manifest does: what is left by a failed WritePart is garbage, not damage.
//
// An image that does not fit the layout wraps tidemill.ErrInvalid, a name that is taken by
// other bytes tidemill.ErrExists. Besides its columns WritePart holds a copy of one shard of
// each table that is being written.
func WritePart(ctx context.Context, b *blob.Bucket, prefix string, l Layout, shards []ShardImage) (Part, error) {
	if err := l.Validate(); err != nil {
		return Part{}, err
	}
	shards = slices.SortedFunc(slices.Values(shards), func(a, b ShardImage) int { return a.Shard - b.Shard })
	part := Part{Shards: make([]int, len(shards))}
	for i, s := range shards {
		if s.Shard < 0 || s.Shard > 1<<16-1 {
			return Part{}, tidemill.Invalid("shard %d", "shards are 0 to 65535", s.Shard)
		}
		if i > 0 && s.Shard == shards[i-1].Shard {
			return Part{}, tidemill.Invalid("shard %d is given twice", "give each shard once", s.Shard)
		}
		part.Shards[i] = s.Shard
	}

	// One slot per blob keeps the order, and so the manifest, independent of who finishes first.
	blobs := make([]Blob, len(l.Tables)+2)
	digests := make([]Digest, len(blobs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i, t := range l.Tables {
		g.Go(func() (err error) {
			blobs[i], digests[i], err = writeTable(gctx, b, prefix+tableBlob(i, t.Name), t, i, shards)
			return err
		})
	}
	g.Go(func() (err error) {
		blobs[len(l.Tables)], digests[len(l.Tables)], err = writeDense(gctx, b, prefix+"dense.arrow", l, shards)
		return err
	})
	g.Go(func() (err error) {
		blobs[len(l.Tables)+1], digests[len(l.Tables)+1], err = writeAux(gctx, b, prefix+"aux.arrow", shards)
		return err
	})
	if err := g.Wait(); err != nil {
		return Part{}, err
	}
	for i, blob := range blobs {
		part.Digest.Add(digests[i])
		if blob.Rows > 0 {
			part.Blobs = append(part.Blobs, blob)
		}
	}
	return part, nil
}

// batchRows returns how many rows of width floats go into one record batch: 65536, or fewer
// where that is more than 16 MiB.
func batchRows(width int) int { return max(1, min(1<<16, (16<<20)/(4*width))) }

func writeTable(ctx context.Context, b *blob.Bucket, name string, t TableLayout, table int, shards []ShardImage) (Blob, Digest, error) {
	out := newArrowBlob(ctx, b, tableSchema(t), Blob{Name: name, Kind: KindTable, Table: t.Name})
	digest, err := tableBatches(out, t, table, shards)
	info, err := out.close(err)
	return info, digest, err
}

func tableBatches(out *arrowBlob, t TableLayout, table int, shards []ShardImage) (digest Digest, err error) {
	var (
		width, limit = t.Width(), batchRows(t.Width())
		hash         = tidemill.Hash(t.Name)
		rows         shardRows
		cols         = tableColumns{t: t}
	)
	for _, s := range shards {
		if err := rows.gather(s, table, t); err != nil {
			return Digest{}, err
		}
		for from := 0; from < len(rows.order); from += limit {
			cols.reset()
			for _, o := range rows.order[from:min(from+limit, len(rows.order))] {
				row := rows.rows[o.pos*width : (o.pos+1)*width]
				digest.AddRow(hash, o.id, row)
				cols.add(s.Shard, o.id, row)
			}
			if err := out.batch(s.Shard, cols.arrays()...); err != nil {
				return Digest{}, err
			}
		}
	}
	return digest, nil
}

// shardRows is a copy of the rows of one table in one shard, with their order by id.
type shardRows struct {
	rows  []float32
	order []rowAt
}

type rowAt struct {
	id  uint64
	pos int // rows[pos*width:] is the row
}

// gather replaces r by the rows of the image.
func (r *shardRows) gather(s ShardImage, table int, t TableLayout) error {
	r.rows, r.order = r.rows[:0], r.order[:0]
	if s.Pages == nil {
		return nil
	}
	for ids, rows := range s.Pages(table) {
		if len(rows) != len(ids)*t.Width() {
			return tidemill.Invalid("a page of table %q in shard %d has %d ids and %d floats", "give as many floats a row as the layout says", t.Name, s.Shard, len(ids), len(rows))
		}
		for _, id := range ids {
			r.order = append(r.order, rowAt{id, len(r.order)})
		}
		r.rows = append(r.rows, rows...)
	}
	if err := sortRows(r.order, t.Name); err != nil {
		return fmt.Errorf("shard %d: %w", s.Shard, err)
	}
	return nil
}

// sortRows orders rows of a table by id. An id twice wraps tidemill.ErrInvalid.
func sortRows(order []rowAt, table string) error {
	byID := func(a, b rowAt) int { return cmp.Compare(a.id, b.id) }
	if !slices.IsSortedFunc(order, byID) {
		slices.SortFunc(order, byID)
	}
	for i := 1; i < len(order); i++ {
		if order[i].id == order[i-1].id {
			return tidemill.Invalid("id %d is in table %q twice", "give each row once", order[i].id, table)
		}
	}
	return nil
}

// tableColumns are the columns of one batch of a table, reused for the next.
type tableColumns struct {
	t       TableLayout
	shard   []uint16
	id, at  []uint64
	weight  []float32
	state   []float32
	average []float32
}

func (c *tableColumns) reset() {
	c.shard, c.id, c.at = c.shard[:0], c.id[:0], c.at[:0]
	c.weight, c.state, c.average = c.weight[:0], c.state[:0], c.average[:0]
}

func (c *tableColumns) add(shard int, id uint64, row []float32) {
	c.shard, c.id = append(c.shard, uint16(shard)), append(c.id, id)
	c.weight = append(c.weight, c.t.Weight(row)...)
	c.state = append(c.state, c.t.StateOf(row)...)
	if c.t.Average {
		c.average = append(c.average, c.t.AverageOf(row)...)
		c.at = append(c.at, c.t.At(row))
	}
}

func (c *tableColumns) arrays() []arrow.Array {
	out := []arrow.Array{uint16s(c.shard), uint64s(c.id), vectors(c.t.Dim, c.weight)}
	if c.t.State > 0 {
		out = append(out, vectors(c.t.State, c.state))
	}
	if c.t.Average {
		out = append(out, vectors(c.t.Dim, c.average), uint64s(c.at))
	}
	return out
}

// denseBatch is how many blocks go into one record batch.
const denseBatch = 64

func writeDense(ctx context.Context, b *blob.Bucket, name string, l Layout, shards []ShardImage) (Blob, Digest, error) {
	out := newArrowBlob(ctx, b, denseSchema(), Blob{Name: name, Kind: KindDense})
	digest, err := denseBatches(out, l, shards)
	info, err := out.close(err)
	return info, digest, err
}

func denseBatches(out *arrowBlob, l Layout, shards []ShardImage) (digest Digest, err error) {
	type key struct{ tensor, block int }
	seen := map[key]bool{}
	for _, s := range shards {
		blocks := slices.SortedFunc(slices.Values(s.Blocks), func(a, b Block) int {
			if a.Tensor != b.Tensor {
				return a.Tensor - b.Tensor
			}
			return a.Block - b.Block
		})
		for _, k := range blocks {
			if err := l.check(k); err != nil {
				return Digest{}, tidemill.Invalid("shard %d: %v", "give blocks as the layout says", s.Shard, err)
			}
			if seen[key{k.Tensor, k.Block}] {
				return Digest{}, tidemill.Invalid("block %d of tensor %q is given twice", "give each block once", k.Block, l.Tensors[k.Tensor].Name)
			}
			seen[key{k.Tensor, k.Block}] = true
			digest.AddBlock(tidemill.Hash(l.Tensors[k.Tensor].Name), k)
		}
		for chunk := range slices.Chunk(blocks, denseBatch) {
			if err := out.batch(s.Shard, denseColumns(l, s.Shard, chunk)...); err != nil {
				return Digest{}, err
			}
		}
	}
	return digest, nil
}

func denseColumns(l Layout, shard int, blocks []Block) []arrow.Array {
	n := len(blocks)
	var (
		shards                 = make([]uint16, n)
		names                  = make([][]byte, n)
		block                  = make([]int32, n)
		first                  = make([]int64, n)
		at                     = make([]uint64, n)
		weight, state, average = make([][]float32, n), make([][]float32, n), make([][]float32, n)
	)
	for i, k := range blocks {
		shards[i], names[i] = uint16(shard), []byte(l.Tensors[k.Tensor].Name)
		block[i], first[i], at[i] = int32(k.Block), int64(k.Block)*tidemill.BlockSize, k.At
		weight[i], state[i], average[i] = k.Weight, k.State, k.Average
	}
	return []arrow.Array{uint16s(shards), texts(arrow.BinaryTypes.String, names...), int32s(block), int64s(first),
		lists(weight), lists(state), lists(average), uint64s(at)}
}

func writeAux(ctx context.Context, b *blob.Bucket, name string, shards []ShardImage) (Blob, Digest, error) {
	out := newArrowBlob(ctx, b, auxSchema(), Blob{Name: name, Kind: KindAux})
	digest, err := auxBatches(out, shards)
	info, err := out.close(err)
	return info, digest, err
}

// auxBatches writes one batch per entry: then the 2 GiB that Arrow's binary column can hold
// bound an entry, and not the sum of all.
func auxBatches(out *arrowBlob, shards []ShardImage) (digest Digest, err error) {
	for _, s := range shards {
		names := make([]string, 0, len(s.Aux))
		for name := range s.Aux {
			names = append(names, name)
		}
		slices.SortFunc(names, strings.Compare)
		for _, name := range names {
			data := s.Aux[name]
			if name == "" || len(name) > 256 || !utf8.ValidString(name) || int64(len(data)) > maxAux {
				return Digest{}, tidemill.Invalid("aux %q of shard %d has %d bytes", "name it with 1 to 256 bytes of UTF-8 and keep it below 1 GiB", clip(name), s.Shard, len(data))
			}
			if name == AuxTransforms {
				digest.AddAux(name, data)
			}
			err := out.batch(s.Shard, uint16s([]uint16{uint16(s.Shard)}),
				texts(arrow.BinaryTypes.String, []byte(name)), texts(arrow.BinaryTypes.Binary, data))
			if err != nil {
				return Digest{}, err
			}
		}
	}
	return digest, nil
}

const maxAux = 1 << 30
