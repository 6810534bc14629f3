// Package parquet reads Parquet files as package file reads the others. It stands apart
// because what it links is larger than the rest of the program: whoever wants Parquet sets
// file.Options.Parquet to Open.
package parquet

import (
	"context"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	pq "github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/file"
)

// Open is a file.Opener for Parquet: row groups are read one batch at a time, columns become
// the Arrow types that the file names or that follow from its own. A damaged file is a
// *tidemill.InputError.
func Open(name string, r io.ReaderAt, size int64, opts file.Options) (rows file.Rows, err error) {
	bad := func(err any) error {
		return &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("the Parquet file is damaged: %v", err), Remedy: "write it again"}
	}
	defer func() {
		if p := recover(); p != nil {
			rows, err = nil, bad(p)
		}
	}()
	f, err := pq.NewParquetReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, bad(err)
	}
	const batch = 8192
	a, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{BatchSize: batch}, opts.Mem)
	if err != nil {
		f.Close()
		return nil, bad(err)
	}
	rec, err := a.GetRecordReader(context.Background(), nil, nil)
	if err != nil {
		f.Close()
		return nil, bad(err)
	}
	rows, err = file.FromBatches(name, &batches{f: f, r: rec}, opts)
	if err != nil {
		rec.Release()
		f.Close()
	}
	return rows, err
}

type batches struct {
	f *pq.Reader
	r pqarrow.RecordReader
}

func (b *batches) Schema() *arrow.Schema { return b.r.Schema() }

func (b *batches) Read() (arrow.RecordBatch, error) {
	rec, err := b.r.Read()
	if err != nil {
		return nil, err
	}
	rec.Retain()
	return rec, nil
}

func (b *batches) Close() error {
	b.r.Release()
	return b.f.Close()
}
