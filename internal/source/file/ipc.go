package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

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
	at, size, err := seekable(name, r, opts.MaxMemory)
	if err != nil {
		return nil, err
	}
	// No part of a file is larger than the file: what claims to be is not read.
	limits := []ipc.Option{ipc.WithAllocator(opts.Mem), ipc.WithMetadataSizeLimit(size), ipc.WithBodySizeLimit(size)}
	magic := make([]byte, 6)
	if n, _ := at.ReadAt(magic, 0); n == 6 && bytes.Equal(magic, []byte("ARROW1")) {
		if err := verifyFooter(at, size); err != nil {
			return nil, damaged(name, 0, err)
		}
		f, err := guard(func() (*ipc.FileReader, error) {
			return ipc.NewFileReader(io.NewSectionReader(at, 0, size), limits...)
		})
		if err != nil {
			return nil, damaged(name, 0, err)
		}
		return FromBatches(name, &arrowFile{f: f}, opts)
	}
	if err := verifyBeginning(at, size); err != nil {
		return nil, damaged(name, 0, err)
	}
	s, err := guard(func() (*ipc.Reader, error) {
		return ipc.NewReaderFromMessageReader(ipc.NewMessageReader(io.NewSectionReader(at, 0, size), limits...), limits...)
	})
	if err != nil {
		return nil, damaged(name, 0, err)
	}
	return FromBatches(name, &arrowStream{s}, opts)
}

// verifyFooter checks the end of an Arrow file: footer, its length in 4 bytes, "ARROW1".
func verifyFooter(r io.ReaderAt, size int64) error {
	const tail = 4 + 6
	b := make([]byte, tail)
	if size < 2*tail {
		return errors.New("cut short")
	}
	if _, err := r.ReadAt(b, size-tail); err != nil {
		return err
	}
	n := int64(int32(binary.LittleEndian.Uint32(b)))
	if string(b[4:]) != "ARROW1" || n < 8 || n > size-tail {
		return errors.New("no footer")
	}
	b = make([]byte, n)
	if _, err := r.ReadAt(b, size-tail-n); err != nil {
		return err
	}
	return rows.VerifySchema(b, true)
}

// verifyBeginning checks the schema message that an Arrow stream begins with.
func verifyBeginning(r io.ReaderAt, size int64) error {
	b := make([]byte, 8)
	if _, err := r.ReadAt(b, 0); err != nil {
		return errors.New("cut short")
	}
	at, n := int64(8), int64(int32(binary.LittleEndian.Uint32(b[4:])))
	if binary.LittleEndian.Uint32(b) != 0xFFFFFFFF {
		// Before Arrow 0.15 the length came first.
		at, n = 4, int64(int32(binary.LittleEndian.Uint32(b)))
	}
	if n < 8 || n > size-at {
		return errors.New("no schema at its beginning")
	}
	b = make([]byte, n)
	if _, err := r.ReadAt(b, at); err != nil {
		return err
	}
	return rows.VerifySchema(b, false)
}

type arrowFile struct {
	f *ipc.FileReader
	i int
}

func (a *arrowFile) Schema() *arrow.Schema { return a.f.Schema() }

func (a *arrowFile) Read() (arrow.RecordBatch, error) {
	if a.i >= a.f.NumRecords() {
		return nil, io.EOF
	}
	rec, err := a.f.RecordBatch(a.i)
	a.i++
	if err == nil {
		rec.Retain()
	}
	return rec, err
}

func (a *arrowFile) Close() error { return a.f.Close() }

type arrowStream struct{ r *ipc.Reader }

func (a *arrowStream) Schema() *arrow.Schema { return a.r.Schema() }

func (a *arrowStream) Read() (arrow.RecordBatch, error) {
	rec, err := a.r.Read()
	if err == nil {
		rec.Retain()
	}
	return rec, err
}

func (a *arrowStream) Close() error {
	a.r.Release()
	return nil
}
