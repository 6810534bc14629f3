package workload

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/file"
)

// Source is rows by number: a generator, or a file.
type Source interface {
	Schema() *arrow.Schema
	// Rows is how many there are; 0: no end.
	Rows() int64
	// Read returns rows [first, first+n), all of which there are; the caller releases it.
	Read(first int64, n int) (arrow.RecordBatch, error)
}

// Names are the generators that Find knows.
func Names() []string { return []string{"clicks", "ratings", "sensor"} }

// Find returns the generator of a name. Drift is clicks' alone.
func Find(name string, seed uint64, drift float64) (Source, error) {
	switch name {
	case "clicks":
		return &Clicks{Seed: seed, Drift: drift}, nil
	case "ratings":
		return &Ratings{Seed: seed}, nil
	case "sensor":
		return &Sensor{Seed: seed}, nil
	}
	hint := "one of " + strings.Join(Names(), ", ")
	if n := tidemill.Nearest(name, Names()); n != "" {
		hint = "did you mean " + n + "?"
	}
	return nil, tidemill.Invalid("no generator is called %q", hint, name)
}

// File is the rows of a file, in memory.
type File struct {
	table []arrow.RecordBatch
	first []int64 // number of the first row of each batch, ascending
	rows  int64
}

// fileChunk is how many rows of a file one batch has at most.
const fileChunk = 16384

// OpenFile reads a file of any format that is known by its name into memory, at most limit rows of
// it (0: all). parquet opens Parquet files; nil: they are refused. The caller closes it.
func OpenFile(path string, limit int64, parquet file.Opener) (*File, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, tidemill.Invalid("the file %q cannot be opened", "check its name and rights", filepath.Base(path))
	}
	defer in.Close()
	rows, err := file.OpenRows(filepath.Base(path), in, file.Options{Parquet: parquet})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	f := &File{}
	for limit == 0 || f.rows < limit {
		most := int64(fileChunk)
		if limit > 0 {
			most = min(most, limit-f.rows)
		}
		c, err := rows.Next(int(most))
		if err == io.EOF {
			break
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		f.table, f.first = append(f.table, c.Rows), append(f.first, f.rows)
		f.rows += c.Rows.NumRows()
	}
	if f.rows == 0 {
		return nil, tidemill.Invalid("the file %q has no rows", "give another one", filepath.Base(path))
	}
	return f, nil
}

// Close frees the rows.
func (f *File) Close() {
	for _, rec := range f.table {
		rec.Release()
	}
	f.table = nil
}

// Schema is that of all rows.
func (f *File) Schema() *arrow.Schema { return f.table[0].Schema() }

// Rows is how many the file has.
func (f *File) Rows() int64 { return f.rows }

// Read returns rows [first, first+n).
func (f *File) Read(first int64, n int) (arrow.RecordBatch, error) {
	if first < 0 || n < 1 || first+int64(n) > f.rows {
		return nil, tidemill.Invalid("rows %d to %d of %d", "ask for rows that there are", first, first+int64(n), f.rows)
	}
	at, found := slices.BinarySearch(f.first, first)
	if !found {
		at--
	}
	var parts []arrow.RecordBatch
	defer func() {
		for _, p := range parts {
			p.Release()
		}
	}()
	for next := first + int64(n); first < next; at++ {
		lo := first - f.first[at]
		hi := min(f.table[at].NumRows(), next-f.first[at])
		parts = append(parts, f.table[at].NewSlice(lo, hi))
		first += hi - lo
	}
	if len(parts) == 1 {
		parts[0].Retain()
		return parts[0], nil
	}
	columns := make([]arrow.Array, f.Schema().NumFields())
	defer func() {
		for _, c := range columns {
			if c != nil {
				c.Release()
			}
		}
	}()
	for i := range columns {
		var pieces []arrow.Array
		for _, p := range parts {
			pieces = append(pieces, p.Column(i))
		}
		var err error
		if columns[i], err = array.Concatenate(pieces, memory.DefaultAllocator); err != nil {
			return nil, err
		}
	}
	return array.NewRecordBatch(f.Schema(), columns, int64(n)), nil
}
