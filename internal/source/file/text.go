package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// scanner reads the records of a text format, one at a time.
type scanner interface {
	// begin reads what comes before the rows. It is called once.
	begin() error
	// columns names the columns, if the format does before its rows.
	columns() []string
	// scan reads the next record: io.EOF at the end, a *fault for one that cannot be taken
	// apart, which is a row all the same, or what reading failed with.
	scan() error
	// drained reports that the next scan may wait for input.
	drained() bool
	// record returns the bytes of the last record and the line it began in.
	record() (raw []byte, line int)
	// observe shows the last record to the inference.
	observe(in *inference)
	// bind tells which columns fill fills.
	bind(cols []column) error
	// fill parses the last record into one cell per bound column.
	fill(cells []cell) *fault
}

// fault is what is wrong with a record, and where in it.
type fault struct {
	at     int // byte offset in the record
	what   string
	remedy string
}

func (f *fault) Error() string { return f.what }

// column is a column to be filled from text.
type column struct {
	name  string
	typ   arrow.DataType
	parse parseFunc
}

// textRows implements Rows over a scanner.
type textRows struct {
	name   string
	opts   Options
	sc     scanner
	schema *arrow.Schema
	cells  []cell
	build  *array.RecordBuilder
	add    []func(*cell)
	index  int64  // of the next record
	held   *fault // of the last record, which is still to be counted
}

func openText(name string, r io.Reader, opts Options) (Rows, error) {
	in, err := inflate(name, r)
	if err != nil {
		return nil, err
	}
	t := &textRows{name: name, opts: opts}
	schema := opts.Schema
	if schema == nil {
		// Look at the first rows, then read them again.
		var seen bytes.Buffer
		if schema, err = t.infer(t.scanner(io.TeeReader(in, &seen))); err != nil {
			return nil, err
		}
		in = io.MultiReader(&seen, in)
	}
	t.sc = t.scanner(in)
	if err := t.sc.begin(); err != nil {
		return nil, t.beginError(t.sc, err)
	}
	if t.schema, err = rows.Check(schema); err != nil {
		return nil, err
	}
	cols := make([]column, t.schema.NumFields())
	for i, f := range t.schema.Fields() {
		parse := parserOf(f.Type)
		if parse == nil {
			return nil, &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("column %q has type %s, which text cannot be read as", f.Name, f.Type), Remedy: "use a number, bool, utf8, timestamp, date or list of them"}
		}
		cols[i] = column{f.Name, f.Type, parse}
	}
	if err := t.sc.bind(cols); err != nil {
		return nil, err
	}
	t.cells = make([]cell, len(cols))
	t.build = array.NewRecordBuilder(opts.Mem, t.schema)
	t.add = make([]func(*cell), len(cols))
	for i := range cols {
		t.add[i] = adder(t.build.Field(i))
	}
	return t, nil
}

func (t *textRows) scanner(r io.Reader) scanner {
	l := newLines(r, t.opts.MaxLine)
	switch t.opts.Format {
	case JSONL:
		return &jsonScanner{name: t.name, l: l}
	case LibSVM:
		return &svmScanner{name: t.name, l: l}
	}
	s := &csvScanner{name: t.name, l: l, comma: ',', quotes: true, header: !t.opts.NoHeader, short: t.opts.FillShort}
	if t.opts.Format == TSV {
		s.comma, s.quotes = '\t', false
	}
	return s
}

// beginError words what went wrong before the first row.
func (t *textRows) beginError(sc scanner, err error) error {
	var f *fault
	switch {
	case errors.Is(err, io.EOF):
		return emptyError(t.name)
	case errors.As(err, &f):
		raw, line := sc.record()
		return f.place(t.name, raw, line)
	}
	return t.readError(err)
}

func (t *textRows) readError(err error) error {
	var in *tidemill.InputError
	if errors.As(err, &in) {
		return err
	}
	return fmt.Errorf("read %s: %w", t.name, err)
}

// infer decides on a schema from the first rows.
func (t *textRows) infer(sc scanner) (*arrow.Schema, error) {
	if err := sc.begin(); err != nil {
		return nil, t.beginError(sc, err)
	}
	in := newInference(sc.columns(), t.opts.Types)
	for n := 0; n < t.opts.InferRows; n++ {
		err := sc.scan()
		if err == io.EOF {
			break
		}
		var f *fault
		if errors.As(err, &f) {
			continue // a bad row says nothing
		}
		if err != nil {
			return nil, t.readError(err)
		}
		sc.observe(in)
	}
	if in.rows == 0 {
		if len(sc.columns()) > 0 {
			return nil, &tidemill.InputError{Place: tidemill.Place{File: t.name}, What: "the file has a header and no rows to tell its types from", Remedy: "give a schema"}
		}
		return nil, &tidemill.InputError{Place: tidemill.Place{File: t.name}, What: "the file has no rows to tell its columns from", Remedy: "give a schema"}
	}
	return in.schema()
}

// place makes an error of a fault in the record raw that began in line.
func (f *fault) place(name string, raw []byte, line int) *tidemill.InputError {
	at := min(f.at, len(raw))
	line += bytes.Count(raw[:at], []byte{'\n'})
	start := bytes.LastIndexByte(raw[:at], '\n') + 1
	return &tidemill.InputError{
		Place:  tidemill.Place{File: name, Line: line, Column: utf8.RuneCount(raw[start:at]) + 1},
		What:   f.what,
		Remedy: f.remedy,
	}
}

// Schema implements Rows.
func (t *textRows) Schema() *arrow.Schema { return t.schema }

// Next implements Rows.
func (t *textRows) Next(limit int) (Chunk, error) {
	limit = max(1, limit)
	first, n := t.index, 0
	for n < limit {
		f := t.held
		t.held = nil
		if f == nil {
			err := t.sc.scan()
			if err == io.EOF {
				if n == 0 {
					return Chunk{}, io.EOF
				}
				break
			}
			if err != nil && !errors.As(err, &f) {
				t.discard(n)
				return Chunk{}, t.readError(err)
			}
			if f == nil {
				f = t.check()
			}
		}
		if f == nil {
			for i := range t.cells {
				t.add[i](&t.cells[i])
			}
			n++
			t.index++
			if t.sc.drained() {
				break // rows at hand do not wait for more to come down a pipe
			}
			continue
		}
		if n > 0 {
			t.held = f // give out what came before it
			break
		}
		if err := t.bad(f); err != nil {
			return Chunk{}, err
		}
		first = t.index
	}
	return Chunk{First: first, Rows: t.build.NewRecordBatch()}, nil
}

// check parses the record into cells.
func (t *textRows) check() *fault {
	raw, _ := t.sc.record()
	if !utf8.Valid(raw) {
		at := 0
		for at < len(raw) {
			r, n := utf8.DecodeRune(raw[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return &fault{at: at, what: "not UTF-8", remedy: "convert the file"}
	}
	return t.sc.fill(t.cells)
}

// bad counts a bad row and hands it on, or returns its error.
func (t *textRows) bad(f *fault) error {
	raw, line := t.sc.record()
	err := f.place(t.name, raw, line)
	t.index++
	if t.opts.Bad == nil {
		return err
	}
	return t.opts.Bad(BadRow{Index: t.index - 1, Err: err, Raw: raw})
}

// discard drops n rows that were built.
func (t *textRows) discard(n int) {
	if n > 0 {
		t.build.NewRecordBatch().Release()
	}
}

// Close implements Rows.
func (t *textRows) Close() error {
	t.build.Release()
	return nil
}
