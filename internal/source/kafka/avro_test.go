package kafka

import (
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

const avroWide = `{"type": "record", "name": "org.x.Event", "fields": [
  {"name": "b", "type": "boolean"}, {"name": "i", "type": "int"}, {"name": "l", "type": ["null", "long"]},
  {"name": "f", "type": "float"}, {"name": "d", "type": ["double", "null"]}, {"name": "s", "type": "string"},
  {"name": "e", "type": {"type": "enum", "name": "Color", "symbols": ["RED", "BLUE"]}},
  {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "a", "type": {"type": "array", "items": "long"}},
  {"name": "inner", "type": {"type": "record", "name": "Inner", "fields": [{"name": "c", "type": "Color"}, {"name": "m", "type": {"type": "map", "values": "double"}}]}},
  {"name": "x", "type": {"type": "fixed", "name": "F", "size": 3}}]}`

// wideRecord is an Event, byte for byte by the specification.
func wideRecord() []byte {
	b := []byte{1}                                    // b: true
	b = append(b, 0x03)                               // i: -2
	b = append(b, 0x02, 0x80, 0x01)                   // l: branch 1, 64
	b = append(b, 0x00, 0x00, 0xc0, 0x3f)             // f: 1.5
	b = append(b, 0x00, 0, 0, 0, 0, 0, 0, 0, 0x80)    // d: branch 0, -0
	b = append(b, 0x06, 'a', 0xc3, 0xa9)              // s: "aé"
	b = append(b, 0x02)                               // e: BLUE
	b = append(b, 0xd0, 0x0f)                         // t: 1000 ms
	b = append(b, 0x03, 0x04, 0x02, 0x04, 0x00)       // a: a block of 2 in 2 bytes: 1, 2
	b = append(b, 0x00, 0x02, 0x02, 'k')              // inner: RED, {k:
	b = append(b, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x00) // 1.0}
	return append(b, 'x', 'y', 'z')                   // x
}

func TestAvro(t *testing.T) {
	s, err := parseAvro(avroWide)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := s.bind(nil)
	if err != nil {
		t.Fatal(err)
	}
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	for _, header := range []bool{false, true} {
		d := newAvroDecoder(s, schema, header, mem)
		rec := wideRecord()
		if header {
			rec = append([]byte{0, 0, 0, 0, 7}, rec...)
		}
		if err := d.Add(rec); err != nil {
			t.Fatal(err)
		}
		// Cut anywhere, or with something behind it, it is no record, and adds nothing.
		for n := range rec {
			if err := d.Add(rec[:n]); err == nil {
				t.Fatalf("cut to %d bytes it is a record", n)
			}
		}
		if err := d.Add(append(rec[:len(rec):len(rec)], 0)); err == nil {
			t.Fatal("a byte behind the record goes unnoticed")
		}
		rows := d.Take()
		want := []string{"true", "-2", "64", "1.5", "-0", "aé", "BLUE", "1970-01-01T00:00:01Z", "[1,2]", "eHl6"}
		for i, w := range want {
			if got := rows.Column(i).ValueStr(0); got != w || rows.NumRows() != 1 {
				t.Errorf("column %q is %s, want %s (%d rows)", schema.Field(i).Name, got, w, rows.NumRows())
			}
		}
		if f := rows.Column(4).(*array.Float64).Value(0); !math.Signbit(f) {
			t.Error("the sign of -0 is lost")
		}
		rows.Release()
		d.Release()
	}
	for _, tc := range []struct{ schema, want string }{
		{"", "needs a schema"}, {"{", "not JSON"}, {`"long"`, "not of a record"}, {`["null"]`, "not of a record"},
		{`{"type": "record", "name": "r", "fields": [{"name": "x", "type": "r"}]}`, "holds itself"},
		{`{"type": "record", "name": "r", "fields": [{"name": "x", "type": "nope"}]}`, `unknown type "nope"`},
		{`{"type": "record", "name": "r", "fields": [{"type": "int"}]}`, "without a name"},
		{`{"type": "record", "name": "r", "fields": [{"name": "x", "type": ` + strings.Repeat(`{"type": "array", "items": `, 99) + `"int"` + strings.Repeat("}", 99) + `}]}`, "nests too deeply"},
	} {
		if _, err := parseAvro(tc.schema); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.40s: %v, want %q", tc.schema, err, tc.want)
		}
	}
	for _, tc := range []struct {
		name string
		typ  arrow.DataType
		want string
	}{{"bb", arrow.FixedWidthTypes.Boolean, `did you mean "b"?`}, {"s", arrow.PrimitiveTypes.Int64, "declare it as text"}, {"inner", arrow.PrimitiveTypes.Int64, "leave it out"}} {
		_, err := s.bind(arrow.NewSchema([]arrow.Field{{Name: tc.name, Type: tc.typ, Nullable: true}}, nil))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	// Whole numbers that a float cannot hold are refused, not rounded.
	l, err := parseAvro(`{"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	floats, err := l.bind(arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Float64, Nullable: true}}, nil))
	if err != nil {
		t.Fatal(err)
	}
	d := newAvroDecoder(l, floats, false, mem)
	defer d.Release()
	if err := d.Add([]byte{0x82, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20}); err == nil || !strings.Contains(err.Error(), "not exact") {
		t.Errorf("2^53+1 as a float: %v", err)
	}
}

// FuzzAvro: no bytes make the decoder fail otherwise than by an error, or hold more rows than it
// took.
func FuzzAvro(f *testing.F) {
	f.Add(avroWide, wideRecord())
	f.Add(`{"type": "record", "name": "r", "fields": [{"name": "x", "type": {"type": "array", "items": "null"}}]}`, []byte{0xfe, 0xff, 0xff, 0xff, 0x0f})
	f.Add(`{"type": "record", "name": "r", "fields": [{"name": "x", "type": [{"type": "map", "values": "int"}, "string"]}]}`, []byte{2, 2, 'x'})
	f.Fuzz(func(t *testing.T, schema string, record []byte) {
		s, err := parseAvro(schema)
		if err != nil {
			return
		}
		cols, err := s.bind(nil)
		if err != nil {
			return
		}
		d := newAvroDecoder(s, cols, false, memory.DefaultAllocator)
		defer d.Release()
		n := int64(0)
		for range 2 {
			if d.Add(record) == nil {
				n++
			}
		}
		rows := d.Take()
		defer rows.Release()
		if rows.NumRows() != n || n == 1 {
			t.Fatalf("%d rows of %d", rows.NumRows(), n)
		}
	})
}

// FuzzHole: whatever a broker sends, looking for holes in it ends.
func FuzzHole(f *testing.F) {
	f.Add(make([]byte, 2*batchHeader), int64(3))
	f.Fuzz(func(t *testing.T, b []byte, offset int64) {
		if from, to, found := hole(b, offset); found && (from < offset || to <= from) && to > 0 {
			t.Fatalf("a hole [%d,%d) from %d", from, to, offset)
		}
	})
}
