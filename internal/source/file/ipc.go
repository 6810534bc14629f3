package file

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Batches gives record batches one at a time, io.EOF after the last. The caller releases
// them.
type Batches interface {
	Schema() *arrow.Schema
	Read() (arrow.RecordBatch, error)
	Close() error
}

// FromBatches implements Rows over whole batches. With opts.Schema, they are fitted to it.
func FromBatches(name string, src Batches, opts Options) (Rows, error) {
	schema, err := rows.Check(src.Schema())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b := &batchRows{name: name, src: src, schema: schema}
	if opts.Schema != nil {
		if b.schema, err = rows.Check(opts.Schema); err != nil {
			return nil, err
		}
		if err := rows.Compatible(b.schema, schema); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	b.fit = rows.NewFitter(b.schema, opts.Mem)
	return b, nil
}

type batchRows struct {
	name   string
	src    Batches
	schema *arrow.Schema
	fit    *rows.Fitter
	cur    arrow.RecordBatch
	at     int64 // next row of cur
	index  int64 // next row of the file
}

func (b *batchRows) Schema() *arrow.Schema { return b.schema }

func (b *batchRows) Next(limit int) (c Chunk, err error) {
	for b.cur == nil || b.at >= b.cur.NumRows() {
		if b.cur != nil {
			b.cur.Release()
			b.cur = nil
		}
		rec, err := guard(b.src.Read)
		if err == io.EOF {
			return Chunk{}, io.EOF
		}
		if err != nil {
			return Chunk{}, damaged(b.name, b.index, err)
		}
		if err := rows.Validate(rec); err != nil {
			rec.Release()
			return Chunk{}, damaged(b.name, b.index, err)
		}
		fit, err := b.fit.Fit(rec)
		rec.Release()
		if err != nil {
			return Chunk{}, fmt.Errorf("%s: %w", b.name, err)
		}
		b.cur, b.at = fit, 0
	}
	n := min(int64(max(1, limit)), b.cur.NumRows()-b.at)
	c = Chunk{First: b.index, Rows: b.cur.NewSlice(b.at, b.at+n)}
	b.at += n
	b.index += n
	return c, nil
}

func (b *batchRows) Close() error {
	if b.cur != nil {
		b.cur.Release()
		b.cur = nil
	}
	return b.src.Close()
}

// guard turns a panic of a reader over damaged bytes into an error.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it does not hold together: %v", p)
		}
	}()
	return f()
}

func damaged(name string, row int64, err error) error {
	return &tidemill.InputError{Place: tidemill.Place{File: name, Offset: row}, What: fmt.Sprintf("the file is damaged or of another format: %v", err), Remedy: "write it again"}
}

func openArrow(name string, r io.Reader, opts Options) (Rows, error) {
	in, err := inflate(name, r)
	if err != nil {
		return nil, err
	}
	br := bufio.NewReader(in)
	if _, err := br.Peek(1); err == io.EOF {
		return nil, emptyError(name)
	}
	s, err := rows.NewStreamReader(br, opts.MaxMemory, opts.Mem)
	if err != nil {
		if errors.Is(err, tidemill.ErrInvalid) {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return nil, damaged(name, 0, err)
	}
	return FromBatches(name, s, opts)
}
