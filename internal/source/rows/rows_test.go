package rows

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

var testTypes = []arrow.DataType{
	arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Uint8, arrow.FixedWidthTypes.Boolean,
	arrow.BinaryTypes.String, arrow.BinaryTypes.LargeBinary, arrow.ListOf(arrow.PrimitiveTypes.Int32), arrow.ListOf(arrow.BinaryTypes.String),
	arrow.LargeListOf(arrow.FixedWidthTypes.Boolean), arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Float64),
	&arrow.FixedSizeBinaryType{ByteWidth: 3}, &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"},
	arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int16, Nullable: true}, arrow.Field{Name: "b", Type: arrow.BinaryTypes.String, Nullable: true}),
}

func drawSchema(t *rapid.T) *arrow.Schema {
	n := rapid.IntRange(1, 6).Draw(t, "columns")
	fields := make([]arrow.Field, n)
	for i := range fields {
		fields[i] = arrow.Field{Name: fmt.Sprint("c", i), Type: rapid.SampledFrom(testTypes).Draw(t, "type"), Nullable: true}
	}
	return arrow.NewSchema(fields, nil)
}

// fill appends a random value to b.
func fill(t *rapid.T, b array.Builder) {
	if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
		b.AppendNull()
		return
	}
	switch b := b.(type) {
	case *array.Int64Builder:
		b.Append(rapid.Int64().Draw(t, "v"))
	case *array.Int32Builder:
		b.Append(rapid.Int32().Draw(t, "v"))
	case *array.Int16Builder:
		b.Append(rapid.Int16().Draw(t, "v"))
	case *array.Uint8Builder:
		b.Append(rapid.Uint8().Draw(t, "v"))
	case *array.Float32Builder:
		b.Append(rapid.Float32().Draw(t, "v"))
	case *array.Float64Builder:
		b.Append(rapid.Float64().Draw(t, "v"))
	case *array.BooleanBuilder:
		b.Append(rapid.Bool().Draw(t, "v"))
	case *array.StringBuilder:
		b.Append(rapid.StringN(0, 12, -1).Draw(t, "v"))
	case *array.BinaryBuilder:
		b.Append(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "v"))
	case *array.FixedSizeBinaryBuilder:
		b.Append([]byte{1, 2, rapid.Byte().Draw(t, "v")})
	case *array.TimestampBuilder:
		b.Append(arrow.Timestamp(rapid.Int64Range(0, 1<<50).Draw(t, "v")))
	case *array.ListBuilder:
		b.Append(true)
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			fill(t, b.ValueBuilder())
		}
	case *array.LargeListBuilder:
		b.Append(true)
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			fill(t, b.ValueBuilder())
		}
	case *array.FixedSizeListBuilder:
		b.Append(true)
		fill(t, b.ValueBuilder())
		fill(t, b.ValueBuilder())
	case *array.StructBuilder:
		b.Append(true)
		fill(t, b.FieldBuilder(0))
		fill(t, b.FieldBuilder(1))
	default:
		t.Fatalf("no values for %T", b)
	}
}

func drawRows(t *rapid.T, mem memory.Allocator, schema *arrow.Schema, least int) arrow.RecordBatch {
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	for range rapid.IntRange(least, 20).Draw(t, "rows") {
		for i := range schema.NumFields() {
			fill(t, b.Field(i))
		}
	}
	rec := b.NewRecordBatch()
	if rec.NumRows() > int64(least) && rapid.Bool().Draw(t, "sliced") {
		lo := rapid.Int64Range(0, rec.NumRows()-int64(least)).Draw(t, "lo")
		hi := rapid.Int64Range(lo+int64(least), rec.NumRows()).Draw(t, "hi")
		part := rec.NewSlice(lo, hi)
		rec.Release()
		return part
	}
	return rec
}

// render is the values of a batch as text, which no layout shows in.
func render(rec arrow.RecordBatch) (out []string) {
	for i := range int(rec.NumRows()) {
		s := ""
		for _, c := range rec.Columns() {
			s += c.ValueStr(i) + "|"
		}
		out = append(out, s)
	}
	return out
}

func same(t *rapid.T, what string, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// TestRows: encoding, splitting, joining and picking keep every value.
func TestRows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(t, 0)
		schema := drawSchema(rt)
		if _, err := Check(schema); err != nil {
			rt.Fatal(err)
		}
		rec := drawRows(rt, mem, schema, 1)
		defer rec.Release()
		want := render(rec)
		if err := Validate(rec); err != nil {
			rt.Fatal(err)
		}

		prefix := make([]byte, rapid.IntRange(0, 3).Draw(rt, "prefix")*8)
		b, err := AppendEncoded(prefix, rec, mem)
		if err != nil {
			rt.Fatal(err)
		}
		if size := len(b) - len(prefix); size > Size(rec) {
			rt.Fatalf("encoded to %d bytes, estimated %d", size, Size(rec))
		}
		dec := NewDecoder(schema, mem)
		defer dec.Release()
		for shift := range 2 { // aligned, and not
			moved := append(make([]byte, shift, len(b)+shift), b[len(prefix):]...)
			got, err := dec.Decode(moved[shift:])
			if err != nil {
				rt.Fatal(err)
			}
			same(rt, "decoded", render(got), want)
			got.Release()
		}

		var joined []arrow.RecordBatch
		limit := rapid.IntRange(1, 3000).Draw(rt, "bytes")
		for _, p := range Split(rec, limit) {
			if p.NumRows() > 1 && Size(p) > limit {
				rt.Fatalf("a piece of %d rows has %d bytes, limit %d", p.NumRows(), Size(p), limit)
			}
			joined = append(joined, p)
		}
		all, err := Concat(joined, mem)
		if err != nil {
			rt.Fatal(err)
		}
		same(rt, "split and joined", render(all), want)
		all.Release()
		for _, p := range joined {
			p.Release()
		}

		idx := rapid.SliceOfN(rapid.IntRange(0, int(rec.NumRows())-1), 0, 12).Draw(rt, "indices")
		took, err := Take(rec, idx, mem)
		if err != nil {
			rt.Fatal(err)
		}
		var picked []string
		for _, i := range idx {
			picked = append(picked, want[i])
		}
		same(rt, "taken", render(took), picked)
		if err := Validate(took); err != nil {
			rt.Fatal(err)
		}
		took.Release()
	})
}

func TestSchemaRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawSchema(rt)
		b, err := EncodeSchema(s)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := DecodeSchema(b)
		if err != nil {
			rt.Fatal(err)
		}
		if !Same(s, got) || Fingerprint(s) != Fingerprint(got) {
			rt.Fatalf("wrote %v, read %v", s, got)
		}
		if _, err := DecodeSchema(b[:rapid.IntRange(0, len(b)-1).Draw(rt, "cut")]); !errors.Is(err, tidemill.ErrCorrupt) {
			rt.Fatalf("cut: %v", err)
		}
	})
}

func TestFingerprintTells(t *testing.T) {
	f := func(name string, t arrow.DataType, null bool) *arrow.Schema {
		return arrow.NewSchema([]arrow.Field{{Name: name, Type: t, Nullable: null}}, nil)
	}
	seen := map[uint64]string{}
	for _, s := range []*arrow.Schema{
		f("a", arrow.PrimitiveTypes.Int64, true), f("a", arrow.PrimitiveTypes.Int64, false), f("b", arrow.PrimitiveTypes.Int64, true),
		f("a", arrow.PrimitiveTypes.Int32, true), f("a", arrow.ListOf(arrow.PrimitiveTypes.Int64), true), f("a", arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int64), true),
		f("a", &arrow.TimestampType{Unit: arrow.Second}, true), f("a", &arrow.TimestampType{Unit: arrow.Second, TimeZone: "UTC"}, true),
		f("a\" int64 true\n\"b", arrow.PrimitiveTypes.Int64, true),
	} {
		fp := Fingerprint(s)
		if other, ok := seen[fp]; ok {
			t.Errorf("%v and %v have the same fingerprint", s, other)
		}
		seen[fp] = s.String()
	}
}

func TestEvolve(t *testing.T) {
	a := arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int64}
	b := arrow.Field{Name: "b", Type: arrow.BinaryTypes.String, Nullable: true}
	c := arrow.Field{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true}
	ab := arrow.NewSchema([]arrow.Field{a, b}, nil)
	for _, x := range []struct {
		want []arrow.Field
		ok   bool
		n    int
	}{
		{[]arrow.Field{a, b}, true, 2},
		{[]arrow.Field{a}, true, 2},
		{[]arrow.Field{a, b, c}, true, 3},
		{[]arrow.Field{a, c}, false, 0},
		{[]arrow.Field{b, a}, false, 0},
		{[]arrow.Field{a, b, {Name: "d", Type: arrow.PrimitiveTypes.Int8}}, false, 0},
		{[]arrow.Field{a, b, b}, false, 0},
		{[]arrow.Field{a, {Name: "b", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, false, 0},
	} {
		got, err := Evolve(ab, arrow.NewSchema(x.want, nil))
		if (err == nil) != x.ok || err == nil && got.NumFields() != x.n || err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%v: %v %v", x.want, got, err)
		}
	}
}

// reference is a message of a few kinds of column, to damage.
func reference(t testing.TB) (*arrow.Schema, []byte) {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "i", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "b", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "s", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "l", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32), Nullable: true},
		{Name: "f", Type: arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Int8), Nullable: true},
		{Name: "x", Type: arrow.StructOf(arrow.Field{Name: "a", Type: arrow.BinaryTypes.String, Nullable: true}), Nullable: true},
	}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for i := range 4 {
		for k := range schema.NumFields() {
			if i == k {
				b.Field(k).AppendNull()
			} else {
				b.Field(k).AppendEmptyValue()
			}
		}
	}
	msg, err := AppendEncoded(nil, b.NewRecordBatch(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return schema, msg
}

// FuzzDecode: any bytes are rows that can be read to the last value, or ErrCorrupt.
func FuzzDecode(f *testing.F) {
	schema, msg := reference(f)
	f.Add(msg)
	f.Add(msg[:len(msg)-8])
	f.Fuzz(func(t *testing.T, b []byte) {
		dec := NewDecoder(schema, nil)
		defer dec.Release()
		rec, err := dec.Decode(bytes.Clone(b))
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Fatalf("error %v", err)
			}
			if _, err := dec.Decode(msg); err != nil {
				t.Fatalf("a good message after a bad one: %v", err)
			}
			return
		}
		if rec.NumRows() > 1<<20 {
			t.Skip("many rows of nothing")
		}
		render(rec)
		rec.Release()
	})
}

// FuzzSchema: any bytes are a schema or ErrCorrupt, at no more cost than their length.
func FuzzSchema(f *testing.F) {
	schema, _ := reference(f)
	b, err := EncodeSchema(schema)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSchema(b)
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if _, err := EncodeSchema(s); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOthersRead: the message is what any Arrow reader takes, after a schema message.
func TestOthersRead(t *testing.T) {
	schema, msg := reference(t)
	head, err := EncodeSchema(schema)
	if err != nil {
		t.Fatal(err)
	}
	end := []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}
	r, err := ipc.NewReader(bytes.NewReader(bytes.Join([][]byte{head, msg, msg, end}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	n := 0
	for r.Next() {
		n += int(r.RecordBatch().NumRows())
	}
	if r.Err() != nil || n != 8 {
		t.Errorf("%d rows, %v", n, r.Err())
	}
}
