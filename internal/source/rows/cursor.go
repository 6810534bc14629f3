package rows

import (
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// Piece is contiguous rows of one partition as one append stored them.
type Piece struct {
	First    int64             // offset of row 0
	Rows     arrow.RecordBatch // at least one row
	Appended time.Time
}

// Next is the offset after the piece.
func (p Piece) Next() int64 { return p.First + p.Rows.NumRows() }

// Cursor cuts the pieces of a partition into batches. It belongs to one goroutine. The piece
// it stands in stays decoded, so that batches of one row cost a slice each.
type Cursor struct {
	partition int
	pos       int64
	mem       memory.Allocator
	cur       Piece // Rows nil: none
	fitter    *Fitter
	parts     []arrow.RecordBatch
}

// NewCursor returns a Cursor at offset pos. mem nil means Go's heap.
func NewCursor(partition int, pos int64, mem memory.Allocator) *Cursor {
	return &Cursor{partition: partition, pos: pos, mem: mem}
}

// Position is the offset of the next row.
func (c *Cursor) Position() int64 { return c.pos }

// Rest is how many rows are left of the piece that the cursor stands in.
func (c *Cursor) Rest() int {
	if c.cur.Rows == nil {
		return 0
	}
	return int(max(0, c.cur.Next()-c.pos))
}

// Next returns the next rows, at most limit, from the pieces at hand: fetch(pos) returns the
// piece that holds pos, which the cursor then owns, or false when it would have to wait. Small
// pieces are joined, which copies them; once there is half of limit, a piece's end ends the batch.
// schema is asked after the last fetch. ok is false when there is not one row at hand.
func (c *Cursor) Next(limit int, fetch func(pos int64) (Piece, bool), schema func() *arrow.Schema) (b tidemill.Batch, ok bool, err error) {
	limit = max(1, limit)
	c.parts = c.parts[:0]
	defer func() {
		for i, p := range c.parts {
			p.Release()
			c.parts[i] = nil
		}
	}()
	first, pos, appended := c.pos, c.pos, time.Time{}
	for want := int64(limit); want > 0; {
		if c.cur.Rows == nil || pos >= c.cur.Next() {
			if pos > first && 2*want <= int64(limit) {
				break
			}
			p, ok := fetch(pos)
			if !ok {
				break
			}
			c.drop()
			c.cur = p
		}
		n := min(want, c.cur.Next()-pos)
		if n == c.cur.Rows.NumRows() { // which holds pos, so this is all of it
			c.cur.Rows.Retain()
			c.parts = append(c.parts, c.cur.Rows)
		} else {
			c.parts = append(c.parts, c.cur.Rows.NewSlice(pos-c.cur.First, pos-c.cur.First+n))
		}
		appended = c.cur.Appended
		pos, want = pos+n, want-n
	}
	if len(c.parts) == 0 {
		return b, false, nil
	}
	target := schema()
	if c.fitter == nil || c.fitter.Schema() != target {
		c.fitter = NewFitter(target, c.mem)
	}
	for i, p := range c.parts {
		if p.Schema() == target {
			continue
		}
		fit, err := c.fitter.Fit(p)
		if err != nil {
			return b, false, err
		}
		p.Release()
		c.parts[i] = fit
	}
	rec, err := Concat(c.parts, c.mem)
	if err != nil {
		return b, false, err
	}
	c.pos = pos
	return tidemill.Batch{
		Partition: c.partition,
		Range:     tidemill.Range{First: first, Next: pos},
		Rows:      rec,
		Appended:  appended,
	}, true, nil
}

func (c *Cursor) drop() {
	if c.cur.Rows != nil {
		c.cur.Rows.Release()
	}
	c.cur = Piece{}
}

// Close releases the piece that the cursor stands in.
func (c *Cursor) Close() { c.drop() }
