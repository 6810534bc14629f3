package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// avroDecoder implements recordDecoder for Avro's binary encoding.
type avroDecoder struct {
	root   *avroType
	header bool
	build  *array.RecordBuilder
	cells  []avroCell // by column
}

// avroCell is one column's value on its way into a builder.
type avroCell struct {
	set    bool // false: null
	whole  bool // the value is i
	i      int64
	f      float64
	b      []byte
	ints   []int64
	floats []float64
	texts  [][]byte
}

func newAvroDecoder(s *avroSchema, schema *arrow.Schema, header bool, mem memory.Allocator) *avroDecoder {
	return &avroDecoder{root: s.root, header: header, build: array.NewRecordBuilder(mem, schema), cells: make([]avroCell, schema.NumFields())}
}

// Take implements recordDecoder.
func (d *avroDecoder) Take() arrow.RecordBatch { return d.build.NewRecordBatch() }

// Release implements recordDecoder.
func (d *avroDecoder) Release() { d.build.Release() }

// registryHeader is what a schema registry's clients put before a record: a zero and the
// schema's number.
const registryHeader = 5

// Add implements recordDecoder.
func (d *avroDecoder) Add(record []byte) error {
	for i := range d.cells {
		c := &d.cells[i]
		*c = avroCell{ints: c.ints[:0], floats: c.floats[:0], texts: c.texts[:0]}
	}
	r := avroReader{b: record}
	if d.header {
		if len(record) < registryHeader || record[0] != 0 {
			return errors.New("it does not begin with a schema registry's header; write confluent: false")
		}
		r.at = registryHeader
	}
	for i := range d.root.fields {
		f := &d.root.fields[i]
		var c *avroCell
		if f.col >= 0 {
			c = &d.cells[f.col]
		}
		if err := r.value(f.t, c, 0); err != nil {
			return fmt.Errorf("field %q, byte %d: %w", f.name, r.at, err)
		}
	}
	if r.at != len(record) {
		return fmt.Errorf("%d bytes after the record's end: it was written with another schema", len(record)-r.at)
	}
	for i := range d.cells {
		if err := d.cells[i].appendTo(d.build.Field(i), true); err != nil {
			return fmt.Errorf("field %q: %w", d.build.Schema().Field(i).Name, err)
		}
	}
	for i := range d.cells {
		if err := d.cells[i].appendTo(d.build.Field(i), false); err != nil {
			return err
		}
	}
	return nil
}

// appendTo adds the value to b; with dry it only finds out whether that would be right.
func (c *avroCell) appendTo(b array.Builder, dry bool) error {
	if !c.set {
		if !dry {
			b.AppendNull()
		}
		return nil
	}
	if dry {
		if _, ok := b.(*array.Float64Builder); ok && c.whole && (c.i > 1<<53 || c.i < -(1<<53)) {
			return fmt.Errorf("%d is not exact as a 64-bit float", c.i)
		}
		return nil
	}
	switch b := b.(type) {
	case *array.BooleanBuilder:
		b.Append(c.i != 0)
	case *array.Int32Builder:
		b.Append(int32(c.i))
	case *array.Int64Builder:
		b.Append(c.i)
	case *array.TimestampBuilder:
		b.Append(arrow.Timestamp(c.i))
	case *array.Float32Builder:
		b.Append(float32(c.f))
	case *array.Float64Builder:
		if c.whole {
			c.f = float64(c.i)
		}
		b.Append(c.f)
	case *array.StringBuilder:
		b.BinaryBuilder.Append(c.b)
	case *array.BinaryBuilder:
		b.Append(c.b)
	case *array.ListBuilder:
		b.Append(true)
		switch v := b.ValueBuilder().(type) {
		case *array.Int64Builder:
			v.AppendValues(c.ints, nil)
		case *array.Float64Builder:
			v.AppendValues(c.floats, nil)
		case *array.StringBuilder:
			for _, s := range c.texts {
				v.BinaryBuilder.Append(s)
			}
		}
	}
	return nil
}

// avroReader reads Avro's binary encoding. Nothing is allocated by lengths that the bytes state.
type avroReader struct {
	b      []byte
	at     int
	values int // read so far
}

var errShort = errors.New("the record is cut short, or was written with another schema")

func (r *avroReader) long() (int64, error) {
	v, n := binary.Varint(r.b[r.at:])
	if n <= 0 {
		return 0, errShort
	}
	r.at += n
	return v, nil
}

func (r *avroReader) take(n int64) ([]byte, error) {
	if n < 0 || n > int64(len(r.b)-r.at) {
		return nil, errShort
	}
	b := r.b[r.at : r.at+int(n)]
	r.at += int(n)
	return b, nil
}

func (r *avroReader) bytes() ([]byte, error) {
	n, err := r.long()
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// value reads a value into c, or over it where c is nil.
func (r *avroReader) value(t *avroType, c *avroCell, depth int) error {
	if depth > 2*maxAvroDepth {
		return errors.New("it nests too deeply")
	}
	if c == nil {
		c = &avroCell{}
	}
	// Types without bytes can be nested to a number of values that no record's size bounds.
	if r.values++; r.values > maxAvroTypes+16*len(r.b) {
		return errors.New("it holds more values than its bytes can")
	}
	c.set = true
	var err error
	switch t.kind {
	case "null":
		c.set = false
	case "boolean":
		var b []byte
		if b, err = r.take(1); err == nil {
			if c.i = int64(b[0]); b[0] > 1 {
				err = fmt.Errorf("%d is no boolean", b[0])
			}
		}
	case "int", "long":
		c.whole = true
		if c.i, err = r.long(); err == nil && t.kind == "int" && int64(int32(c.i)) != c.i {
			err = fmt.Errorf("%d does not fit into 32 bits", c.i)
		}
		if t.logical == "timestamp-millis" {
			if c.i > math.MaxInt64/1000 || c.i < math.MinInt64/1000 {
				return fmt.Errorf("%d milliseconds is no time", c.i)
			}
			c.i *= 1000
		}
	case "float":
		var b []byte
		if b, err = r.take(4); err == nil {
			c.f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		}
	case "double":
		var b []byte
		if b, err = r.take(8); err == nil {
			c.f = math.Float64frombits(binary.LittleEndian.Uint64(b))
		}
	case "bytes":
		c.b, err = r.bytes()
	case "string":
		if c.b, err = r.bytes(); err == nil && !utf8.Valid(c.b) {
			err = errors.New("the text is not UTF-8")
		}
	case "fixed":
		c.b, err = r.take(t.size)
	case "enum":
		var n int64
		if n, err = r.long(); err == nil {
			if n < 0 || n >= int64(len(t.symbols)) {
				return fmt.Errorf("symbol %d of %d", n, len(t.symbols))
			}
			c.b = []byte(t.symbols[n])
		}
	case "union":
		var n int64
		if n, err = r.long(); err == nil {
			if n < 0 || n >= int64(len(t.of)) {
				return fmt.Errorf("branch %d of a union of %d", n, len(t.of))
			}
			return r.value(t.of[n], c, depth+1)
		}
	case "record":
		for i := range t.fields {
			if err := r.value(t.fields[i].t, nil, depth+1); err != nil {
				return err
			}
		}
	case "array", "map":
		return r.blocks(t, c, depth)
	}
	return err
}

// blocks reads an array's or a map's items.
func (r *avroReader) blocks(t *avroType, c *avroCell, depth int) error {
	for {
		n, err := r.long()
		if err != nil || n == 0 {
			return err
		}
		if n < 0 { // the block's size in bytes follows
			if n = -n; n < 0 {
				return errShort
			}
			if _, err := r.long(); err != nil {
				return err
			}
		}
		for range n {
			if t.kind == "map" {
				if _, err := r.bytes(); err != nil {
					return err
				}
			}
			var item avroCell
			if err := r.value(t.elem, &item, depth+1); err != nil {
				return err
			}
			switch t.elem.kind {
			case "int", "long":
				c.ints = append(c.ints, item.i)
			case "float", "double":
				c.floats = append(c.floats, item.f)
			case "string", "enum":
				c.texts = append(c.texts, item.b)
			}
		}
	}
}
