package file

import (
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Format is how a file is written.
type Format string

// Formats of files.
const (
	CSV     Format = "csv"     // comma separated, quoted as in RFC 4180, UTF-8
	TSV     Format = "tsv"     // tab separated, nothing quoted
	JSONL   Format = "jsonl"   // one flat JSON object per line
	LibSVM  Format = "libsvm"  // "label index:value …" per line
	Arrow   Format = "arrow"   // Arrow IPC, file or stream
	Parquet Format = "parquet" // needs Options.Parquet
)

var extensions = map[string]Format{
	".csv": CSV, ".tsv": TSV, ".tab": TSV, ".jsonl": JSONL, ".ndjson": JSONL, ".json": JSONL,
	".libsvm": LibSVM, ".svm": LibSVM, ".svmlight": LibSVM,
	".arrow": Arrow, ".arrows": Arrow, ".ipc": Arrow, ".feather": Arrow, ".parquet": Parquet, ".pq": Parquet,
}

// FormatOf tells the format from a file's name; a final .gz does not count.
func FormatOf(name string) (Format, error) {
	base := strings.ToLower(path.Base(strings.ReplaceAll(name, "\\", "/")))
	if f := extensions[path.Ext(strings.TrimSuffix(base, ".gz"))]; f != "" {
		return f, nil
	}
	return "", tidemill.Invalid("the name %q does not tell the file's format", "name one of csv, tsv, jsonl, libsvm, arrow, parquet", name)
}

// Options of reading. The zero value infers everything.
type Options struct {
	// Format; "" means by the file's name.
	Format Format
	// NoHeader: the first line of csv and tsv is a row, and columns are c0, c1, …
	NoHeader bool
	// FillShort: a row of csv or tsv with fewer fields than columns has null in the last ones,
	// as some programs drop trailing separators. Without it such a row is malformed.
	FillShort bool
	// Schema, when given, is the rows' schema: columns are found by name, one that the file
	// lacks is null, and one that the schema lacks is an error. nil means inferred.
	Schema *arrow.Schema
	// Types of columns by name, where inference should not decide; columns that the file
	// lacks are ignored.
	Types map[string]arrow.DataType
	// InferRows is how many rows are looked at; 0 means 1000.
	InferRows int
	// Bad, when given, receives each malformed row, and reading goes on; an error from it
	// ends reading. Without it a malformed row ends reading with its *tidemill.InputError.
	Bad func(BadRow) error
	// MaxLine bounds one line, or one quoted record, in bytes; 0 means 1 MiB.
	MaxLine int
	// MaxMemory bounds, in bytes, one Arrow record batch, and a Parquet file that has to be
	// read whole because it comes down a pipe or gzipped; 0 means 1 GiB.
	MaxMemory int64
	// Parquet opens Parquet files; nil means that this program does not read them. See
	// package file/parquet.
	Parquet Opener
	// Mem serves the arrays; nil means Go's heap.
	Mem memory.Allocator
}

// Opener opens a format that is sought in. name is for messages.
type Opener func(name string, r io.ReaderAt, size int64, opts Options) (Rows, error)

// BadRow is a row that was left out.
type BadRow struct {
	Index int64 // its number among all rows of the file, good and bad, from 0
	Err   *tidemill.InputError
	Raw   []byte // its bytes without the line end; valid during the call
}

// Chunk is contiguous rows of a file.
type Chunk struct {
	First int64 // number of row 0 among all rows of the file, good and bad
	Rows  arrow.RecordBatch
}

// Rows streams the rows of one file in order. It belongs to one goroutine.
type Rows interface {
	// Schema of every chunk.
	Schema() *arrow.Schema
	// Next returns at most max rows and at least one, or io.EOF after the last. A chunk ends
	// before a bad row, so that its rows are numbered without gaps. The caller releases it.
	Next(max int) (Chunk, error)
	// Close frees the reader; it does not close what it reads from.
	Close() error
}

func (o *Options) validate(name string) error {
	if o.Format == "" {
		f, err := FormatOf(name)
		if err != nil {
			return err
		}
		o.Format = f
	}
	if o.InferRows < 0 || o.MaxLine < 0 || o.MaxMemory < 0 {
		return tidemill.Invalid("a negative limit", "use 0 for the default")
	}
	if o.InferRows == 0 {
		o.InferRows = 1000
	}
	if o.MaxLine == 0 {
		o.MaxLine = 1 << 20
	}
	if o.MaxMemory == 0 {
		o.MaxMemory = 1 << 30
	}
	if o.Mem == nil {
		o.Mem = memory.DefaultAllocator
	}
	if o.Schema != nil {
		s, err := rows.Check(o.Schema)
		if err != nil {
			return err
		}
		o.Schema = s
	}
	return nil
}

// OpenRows begins to read the file called name from r: a schema is inferred from its first
// rows if none was given. An empty file is a *tidemill.InputError, as is a wrong header.
// OpenRows does not close r.
func OpenRows(name string, r io.Reader, opts Options) (Rows, error) {
	if err := opts.validate(name); err != nil {
		return nil, err
	}
	switch opts.Format {
	case CSV, TSV, JSONL, LibSVM:
		return openText(name, r, opts)
	case Arrow:
		return openArrow(name, r, opts)
	case Parquet:
		if opts.Parquet == nil {
			return nil, tidemill.Invalid("%s: this program does not read Parquet", "convert it to Arrow or csv", name)
		}
		at, size, err := seekable(name, r, opts.MaxMemory)
		if err != nil {
			return nil, err
		}
		return opts.Parquet(name, at, size, opts)
	}
	return nil, tidemill.Invalid("there is no format %q", fmt.Sprintf("use one of %s, %s, %s, %s, %s, %s", CSV, TSV, JSONL, LibSVM, Arrow, Parquet), opts.Format)
}
