package kafka

import (
	"context"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// arrowReader implements source.Reader over frames.
type arrowReader struct {
	part *partition
	a    *ahead
	cur  *rows.Cursor // the caller's

	// The goroutine's.
	expect   int64 // the offset that the next frame must hold or begin with
	decoders map[uint64]*rows.Decoder
}

// newArrowReader reads rows from offset on, from Kafka's offset at. end is the partition's end as
// known.
func newArrowReader(p *partition, offset, at, end int64) (*arrowReader, error) {
	a, err := p.t.s.newAhead(p.t.name, p.t.id, p.p, false, at, max(offset, end))
	if err != nil {
		return nil, err
	}
	r := &arrowReader{part: p, a: a, cur: rows.NewCursor(p.p, offset, p.t.s.cfg.Mem), expect: offset, decoders: map[uint64]*rows.Decoder{}}
	a.decode = r.decode
	a.free = func() {
		for _, d := range r.decoders {
			d.Release()
		}
	}
	a.start()
	return r, nil
}

// decode turns the frames of one fetch into batches whose ranges count rows.
func (r *arrowReader) decode(ctx context.Context, got fetched, _ int64) (out []tidemill.Batch, err error) {
	expect := r.expect
	for _, rec := range got.records {
		f, err := r.part.parse(rec)
		if err != nil {
			return release(out, err)
		}
		if f.Next() <= expect {
			continue
		}
		if f.First > expect {
			return release(out, r.hole(ctx, expect, f.First))
		}
		dec := r.decoders[f.Fingerprint]
		if dec == nil {
			schema, err := r.part.t.schemaOf(ctx, f.Fingerprint)
			if err != nil {
				return release(out, err)
			}
			dec = rows.NewDecoder(schema, r.part.t.s.cfg.Mem)
			r.decoders[f.Fingerprint] = dec
		}
		b, err := dec.Decode(f.Body)
		if err == nil && b.NumRows() != f.Rows {
			b.Release()
			err = fmt.Errorf("%d rows where %d were promised: %w", b.NumRows(), f.Rows, tidemill.ErrCorrupt)
		}
		if err != nil {
			return release(out, fmt.Errorf("%v, Kafka's offset %d: %w", r.part, rec.Offset, err))
		}
		out = append(out, tidemill.Batch{Partition: r.part.p, Range: tidemill.Range{First: f.First, Next: f.Next()}, Rows: b, Appended: rec.Timestamp})
		expect = f.Next()
	}
	r.expect = expect
	return out, nil
}

// hole says why the log goes on at offset next and not at expect.
func (r *arrowReader) hole(ctx context.Context, expect, next int64) error {
	first, _, err := r.part.bounds(ctx)
	if err != nil {
		return err
	}
	if first > expect {
		return expired(r.part.t.name, r.part.p, expect, first)
	}
	return fmt.Errorf("%v: offsets [%d,%d) are missing from the log: %w", r.part, expect, next, tidemill.ErrCorrupt)
}

// Next implements source.Reader.
func (r *arrowReader) Next(ctx context.Context, limit int) (tidemill.Batch, error) {
	fetch := func(int64) (rows.Piece, bool) {
		b, ok := r.a.take()
		return rows.Piece{First: b.Range.First, Rows: b.Rows, Appended: b.Appended}, ok
	}
	for {
		b, ok, err := r.cur.Next(limit, fetch, r.part.t.schema)
		if err != nil {
			return b, fmt.Errorf("%v: %w", r.part, err)
		}
		if ok {
			return b, nil
		}
		if err := r.a.wait(ctx); err != nil {
			return tidemill.Batch{}, err
		}
	}
}

// Buffered implements source.Reader.
func (r *arrowReader) Buffered() (int, int64) {
	n, end := r.a.buffered()
	return r.cur.Rest() + n, max(end, r.cur.Position())
}

// Position implements source.Reader.
func (r *arrowReader) Position() int64 { return r.cur.Position() }

// Close implements source.Reader.
func (r *arrowReader) Close() error {
	r.a.close()
	r.cur.Close()
	return nil
}

// recordDecoder turns records into rows of one schema. It belongs to one goroutine.
type recordDecoder interface {
	// Add adds a record's row. An error says what is wrong with it; then nothing is added.
	Add(record []byte) error
	// Take returns the rows added since the last call; the caller releases them.
	Take() arrow.RecordBatch
	Release()
}

// plainReader implements source.Reader over plain records.
type plainReader struct {
	p    int
	a    *ahead
	dec  recordDecoder // the goroutine's
	cur  tidemill.Batch
	pos  int64
	name string
}

func newPlainReader(t *plainTopic, p int, offset, end int64) (*plainReader, error) {
	dec, err := t.s.plain.decoder(t.s.cfg.Mem)
	if err != nil {
		return nil, err
	}
	a, err := t.s.newAhead(t.name, t.id, p, t.s.cfg.Spec.Compacted, offset, max(offset, end))
	if err != nil {
		dec.Release()
		return nil, err
	}
	r := &plainReader{p: p, a: a, dec: dec, pos: offset, name: t.name}
	a.decode, a.free = r.decode, dec.Release
	a.start()
	return r, nil
}

// decode makes one batch of [from, got.next), which may hold no row.
func (r *plainReader) decode(_ context.Context, got fetched, from int64) ([]tidemill.Batch, error) {
	b := tidemill.Batch{Partition: r.p, Range: tidemill.Range{First: from, Next: got.next}, Offsets: make([]int64, 0, len(got.records))}
	for _, rec := range got.records {
		b.Appended = rec.Timestamp
		if hollow(rec) && r.a.fetch.holes {
			continue // a compacted topic's way to say that a key is gone
		}
		if err := r.dec.Add(rec.Value); err != nil {
			b.Bad = append(b.Bad, tidemill.BadRecord{
				Offset: rec.Offset, Reason: fmt.Sprintf("topic %q partition %d offset %d: %v", r.name, r.p, rec.Offset, err), Raw: rec.Value,
			})
			continue
		}
		b.Offsets = append(b.Offsets, rec.Offset)
	}
	b.Rows = r.dec.Take()
	if int64(len(b.Offsets)) == b.Range.Next-b.Range.First {
		b.Offsets = nil
	}
	return []tidemill.Batch{b}, nil
}

// Next implements source.Reader.
func (r *plainReader) Next(ctx context.Context, limit int) (tidemill.Batch, error) {
	for r.cur.Rows == nil {
		b, ok := r.a.take()
		if ok {
			r.cur = b
			break
		}
		if err := r.a.wait(ctx); err != nil {
			return tidemill.Batch{}, err
		}
	}
	b := r.cur
	limit = max(1, limit)
	if b.Rows.NumRows() <= int64(limit) {
		r.cur = tidemill.Batch{}
		r.pos = b.Range.Next
		return b, nil
	}
	at := b.Offset(limit)
	out := b.Slice(tidemill.Range{First: b.Range.First, Next: at})
	r.cur = b.Slice(tidemill.Range{First: at, Next: b.Range.Next})
	b.Rows.Release()
	r.pos = at
	return out, nil
}

// Buffered implements source.Reader.
func (r *plainReader) Buffered() (int, int64) {
	n, end := r.a.buffered()
	if r.cur.Rows != nil {
		n += int(r.cur.Rows.NumRows())
	}
	return n, end
}

// Position implements source.Reader.
func (r *plainReader) Position() int64 { return r.pos }

// Close implements source.Reader.
func (r *plainReader) Close() error {
	r.a.close()
	if r.cur.Rows != nil {
		r.cur.Rows.Release()
		r.cur = tidemill.Batch{}
	}
	return nil
}
