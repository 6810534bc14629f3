package file

import (
	"fmt"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Records makes rows of records that come one by one, as a message broker has them: CSV lines
// without a header, whose fields are the schema's columns in order, or JSON objects, whose other
// members are passed over. It belongs to one goroutine.
type Records struct {
	js     *jsonScanner // format JSONL
	cs     *csvScanner  // format CSV
	schema *arrow.Schema
	cells  []cell
	build  *array.RecordBuilder
	add    []func(*cell)
}

// NewRecords returns Records of format CSV or JSONL. mem nil means Go's heap.
func NewRecords(format Format, schema *arrow.Schema, mem memory.Allocator) (*Records, error) {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	schema, err := rows.Check(schema)
	if err != nil {
		return nil, err
	}
	d := &Records{schema: schema, cells: make([]cell, schema.NumFields())}
	cols := make([]column, schema.NumFields())
	names := make([]string, schema.NumFields())
	for i, f := range schema.Fields() {
		parse := parserOf(f.Type)
		if parse == nil {
			return nil, tidemill.Invalid("column %q has type %s, which text cannot be read as", "use a number, bool, text or timestamp", f.Name, f.Type)
		}
		cols[i], names[i] = column{f.Name, f.Type, parse}, f.Name
	}
	switch format {
	case JSONL:
		d.js = &jsonScanner{rest: true}
		err = d.js.bind(cols)
	case CSV:
		d.cs = &csvScanner{comma: ',', quotes: true, header: true, names: names}
		err = d.cs.bind(cols)
	default:
		return nil, tidemill.Invalid("records of format %q", "use csv or jsonl", format)
	}
	if err != nil {
		return nil, err
	}
	d.build = array.NewRecordBuilder(mem, schema)
	for i := range cols {
		d.add = append(d.add, adder(d.build.Field(i)))
	}
	return d, nil
}

// Add adds a record's row. A *tidemill.InputError says what is wrong with it, and where; then
// nothing is added.
func (d *Records) Add(record []byte) error {
	record = trim(record)
	if f := d.fill(record); f != nil {
		return f.place("", record, 1)
	}
	for i := range d.cells {
		d.add[i](&d.cells[i])
	}
	return nil
}

func (d *Records) fill(record []byte) *fault {
	if len(record) == 0 {
		return &fault{what: "the record is empty"}
	}
	if !utf8.Valid(record) {
		return &fault{what: "not UTF-8", remedy: "convert it"}
	}
	if d.js != nil {
		d.js.raw = record
		return d.js.fill(d.cells)
	}
	d.cs.raw = record
	f, more := d.cs.fieldsOf(record)
	switch {
	case more:
		return &fault{at: d.cs.open, what: "a quote is never closed", remedy: "close it, or double quotes that are part of a value"}
	case f != nil:
		return f
	case len(d.cs.fields) != len(d.cells):
		return &fault{at: len(record), what: fmt.Sprintf("%d fields where the schema has %d columns", len(d.cs.fields), len(d.cells))}
	}
	return d.cs.fill(d.cells)
}

// Take returns the rows added since the last call; the caller releases them.
func (d *Records) Take() arrow.RecordBatch { return d.build.NewRecordBatch() }

// Release frees what Records keeps. It is not used again.
func (d *Records) Release() { d.build.Release() }
