package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// groupBytes is how large a piece of a table is at least, unless there is no more of it: small
// enough that a few can be written side by side, and that a shard or a few are rewritten
// without the others; large enough that a small job has a file per table.
const groupBytes = 16 << 20

// batchRows returns how many rows of width floats go into one record batch: 65536, or fewer
// where that is more than 4 MiB.
func batchRows(width int) int { return max(1, min(1<<16, (4<<20)/(4*width))) }

// tablePlan says how one table of a part is written.
type tablePlan struct {
	kept   []Blob   // of older snapshots, that still count
	pieces []*piece // new blobs
	sums   []Digest // of the rows, by position of the shard
}

// piece is one new blob of a table.
type piece struct {
	table  int
	blob   Blob
	shards []pieceShard
}

type pieceShard struct {
	at    int // position of the shard in the part
	image ShardImage
	whole bool
}

// blobs returns what a restore of the table needs, in the order of names.
func (p *tablePlan) blobs() []Blob {
	out := p.kept
	for _, q := range p.pieces {
		if q.blob.Rows > 0 {
			out = append(out, q.blob)
		}
	}
	slices.SortFunc(out, func(a, b Blob) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// planTable decides what is written of a table, and into which blobs.
func planTable(t TableLayout, table int, prefix string, shards []ShardImage) tablePlan {
	p := tablePlan{sums: make([]Digest, len(shards))}
	var in []Compaction
	var at []int
	for i, s := range shards {
		if s.Tables == nil {
			continue
		}
		c := Compaction{Shard: s.Shard, Base: s.Tables[table].Base}
		if r := s.Tables[table].Rows; r != nil {
			c.Rows, c.Changed = int64(r.Len()), int64(r.CountChanged())
		}
		in, at = append(in, c), append(at, i)
	}
	row := rowBytes(t)
	whole := limits.Compact(row, in)
	var open, removed *piece
	var size int64
	for k, c := range in {
		s := shards[at[k]]
		rows := c.Changed
		if whole[k] {
			rows = c.Rows
		} else {
			p.kept = KeepBlobs(p.kept, c.Base, s.Shard)
			if len(s.Tables[table].Removed) > 0 {
				if removed == nil {
					removed = &piece{table: table, blob: Blob{Name: prefix + removedBlob(table, t.Name), Kind: KindRemoved, Table: t.Name}}
				}
				removed.shards = append(removed.shards, pieceShard{at: at[k], image: s})
			}
		}
		if open == nil {
			open = &piece{table: table, blob: Blob{Name: prefix + tableBlob(table, t.Name, s.Shard), Kind: KindTable, Table: t.Name}}
			p.pieces = append(p.pieces, open)
		}
		open.shards = append(open.shards, pieceShard{at[k], s, whole[k]})
		if size += rows * row; size >= groupBytes {
			open, size = nil, 0
		}
	}
	if removed != nil {
		p.pieces = append(p.pieces, removed)
	}
	return p
}

// KeepBlobs adds the blobs of a shard's base to those that a part keeps, and returns them.
func KeepBlobs(kept, base []Blob, shard int) []Blob {
	for _, b := range base {
		i := slices.IndexFunc(kept, func(k Blob) bool { return k.Name == b.Name })
		if i < 0 {
			k := b
			k.Shards, k.ShardRows = nil, nil
			kept, i = append(kept, k), len(kept)
		}
		kept[i].Shards = append(kept[i].Shards, shard)
		if n, ok := b.rowsOf(shard); ok {
			kept[i].ShardRows = append(kept[i].ShardRows, n)
		}
	}
	return kept
}

// rowsOf returns how many rows of a shard the file has, where that was noted.
func (b *Blob) rowsOf(shard int) (int64, bool) {
	i, ok := slices.BinarySearch(b.Shards, shard)
	if !ok || len(b.ShardRows) != len(b.Shards) {
		return 0, false
	}
	return b.ShardRows[i], true
}

// write writes the piece and what its shards' rows sum up to.
func (p *piece) write(ctx context.Context, b *blob.Bucket, t TableLayout, sums []Digest, memory rowWriters) error {
	if p.blob.Kind == KindRemoved {
		out := newArrowBlob(ctx, b, removedSchema(t.Name), p.blob)
		info, err := out.close(p.removed(out))
		p.blob = info
		return err
	}
	out := newArrowBlob(ctx, b, tableSchema(t), p.blob)
	w := memory.take()
	defer func() { memory <- w }()
	w.begin(out, t)
	var err error
	for _, s := range p.shards {
		if sums[s.at], err = w.shard(s, p.table); err != nil {
			break
		}
	}
	p.blob, err = out.close(err)
	return err
}

// removed writes the ids of rows that are gone.
func (p *piece) removed(out *arrowBlob) error {
	for _, s := range p.shards {
		// A row can come and go more than once between two snapshots.
		ids := slices.Compact(slices.Sorted(slices.Values(s.image.Tables[p.table].Removed)))
		for chunk := range slices.Chunk(ids, 1<<16) {
			shard := make([]uint16, len(chunk))
			for i := range shard {
				shard[i] = uint16(s.image.Shard)
			}
			if err := out.batch(s.image.Shard, uint16s(shard), uint64s(chunk)); err != nil {
				return err
			}
		}
	}
	return nil
}

// rowWriters are those that a part is written with, at most one for each blob that is being
// written: their memory serves one piece after the other.
type rowWriters chan *rowWriter

func (m rowWriters) take() *rowWriter {
	select {
	case w := <-m:
		return w
	default:
		return new(rowWriter)
	}
}

// rowWriter writes rows of a table to a blob. Its memory is used again for the next shard.
type rowWriter struct {
	out   *arrowBlob
	t     TableLayout
	hash  uint64 // of the table's name
	order []rowAt
	spare []rowAt
	rows  []float32
	some  []uint32
	cols  tableColumns
}

func (w *rowWriter) begin(out *arrowBlob, t TableLayout) {
	w.out, w.t, w.hash, w.cols.t = out, t, tidemill.Hash(t.Name), t
}

// copied is how many rows are copied from an image at a time: few enough to stay in cache.
const copied = 512

// shard writes the rows of one shard by ascending id, all of them or those that changed, and
// returns the digest of all.
func (w *rowWriter) shard(s pieceShard, table int) (sum Digest, err error) {
	img := s.image.Tables[table]
	if img.Rows == nil {
		return img.Clean, nil
	}
	known := len(img.Base) > 0 // then only rows that changed are hashed
	if known {
		sum = img.Clean
	}
	w.order = w.order[:0]
	for row, id := range img.Rows.List(!s.whole) {
		w.order = append(w.order, rowAt{id, row})
	}
	if w.order, w.spare, err = sortRows(w.order, w.spare, w.t.Name); err != nil {
		return Digest{}, fmt.Errorf("shard %d: %w", s.image.Shard, err)
	}
	width, limit := w.t.Width(), batchRows(w.t.Width())
	for batch := range slices.Chunk(w.order, limit) {
		w.cols.reset(len(batch))
		for part := range slices.Chunk(batch, copied) {
			w.some = w.some[:0]
			for _, o := range part {
				w.some = append(w.some, o.row)
			}
			w.rows = slices.Grow(w.rows[:0], len(part)*width)[:len(part)*width]
			img.Rows.Copy(w.rows, w.some)
			for i, o := range part {
				row := w.rows[i*width : (i+1)*width]
				if !known || !s.whole || img.Rows.Changed(o.row) {
					sum.AddRow(w.hash, o.id, row)
				}
				w.cols.add(s.image.Shard, o.id, row)
			}
		}
		if err := w.out.batch(s.image.Shard, w.cols.arrays()...); err != nil {
			return Digest{}, err
		}
	}
	img.Rows.Done(sum)
	return sum, nil
}

// rowAt is a row of an image, or of a list, with its id.
type rowAt struct {
	id  uint64
	row uint32
}

// sortRows orders rows of a table by id, using spare as scratch memory, and returns both. An
// id twice wraps tidemill.ErrInvalid.
func sortRows(order, spare []rowAt, table string) (sorted, scratch []rowAt, err error) {
	order, spare = radixSort(order, spare)
	for i := 1; i < len(order); i++ {
		if order[i].id == order[i-1].id {
			return order, spare, tidemill.Invalid("id %d is in table %q twice", "give each row once", order[i].id, table)
		}
	}
	return order, spare, nil
}

// radixSort sorts a by id, byte by byte from the lowest on; bytes that are the same in all ids
// are skipped. It returns the sorted slice and the other one, which are a and b or b and a.
func radixSort(a, b []rowAt) ([]rowAt, []rowAt) {
	var or, and uint64 = 0, ^uint64(0)
	sorted := true
	for i, r := range a {
		or |= r.id
		and &= r.id
		sorted = sorted && (i == 0 || a[i-1].id <= r.id)
	}
	if sorted {
		return a, b
	}
	b = slices.Grow(b[:0], len(a))[:len(a)]
	for shift := 0; shift < 64; shift += 8 {
		if byte(or>>shift) == byte(and>>shift) {
			continue
		}
		var at [256]int
		for _, r := range a {
			at[byte(r.id>>shift)]++
		}
		n := 0
		for i, c := range at {
			at[i] = n
			n += c
		}
		for _, r := range a {
			k := byte(r.id >> shift)
			b[at[k]] = r
			at[k]++
		}
		a, b = b, a
	}
	return a, b
}

// tableColumns are the columns of one batch of a table, reused for the next.
type tableColumns struct {
	t       TableLayout
	shard   []uint16
	id, at  []uint64
	weight  []float32
	state   []float32
	average []float32
	uses    []uint32
}

// reset empties the columns and makes room for n rows.
func (c *tableColumns) reset(n int) {
	c.shard, c.id = slices.Grow(c.shard[:0], n), slices.Grow(c.id[:0], n)
	c.weight, c.state = slices.Grow(c.weight[:0], n*c.t.Dim), slices.Grow(c.state[:0], n*c.t.State)
	c.average, c.at, c.uses = c.average[:0], c.at[:0], c.uses[:0]
	if c.t.Average {
		c.average, c.at = slices.Grow(c.average, n*c.t.Dim), slices.Grow(c.at, n)
	}
}

func (c *tableColumns) add(shard int, id uint64, row []float32) {
	c.shard, c.id = append(c.shard, uint16(shard)), append(c.id, id)
	c.weight = append(c.weight, c.t.Weight(row)...)
	c.state = append(c.state, c.t.StateOf(row)...)
	if c.t.Average {
		c.average = append(c.average, c.t.AverageOf(row)...)
		c.at = append(c.at, c.t.At(row))
	}
	if c.t.Uses {
		c.uses = append(c.uses, c.t.UsesOf(row))
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
	if c.t.Uses {
		out = append(out, uint32s(c.uses))
	}
	return out
}
