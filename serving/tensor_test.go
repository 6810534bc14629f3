package serving

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/float16"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// column decodes a tensor for a column of a type and prints what came out.
func decoded(t testing.TB, typ arrow.DataType, x tensor) string {
	t.Helper()
	c, err := newColumn("c", typ)
	if err != nil {
		t.Fatal(err)
	}
	arr, err := c.array(&x)
	if err != nil {
		if !errors.Is(err, tidemill.ErrInvalid) {
			t.Fatalf("%v is not ErrInvalid", err)
		}
		return "error"
	}
	defer arr.Release()
	return fmt.Sprint(arr)
}

func TestColumns(t *testing.T) {
	js := func(datatype, shape, data string) tensor {
		var s []int64
		if err := json.Unmarshal([]byte(shape), &s); err != nil {
			t.Fatal(err)
		}
		return tensor{name: "c", datatype: datatype, shape: s, text: []byte(data)}
	}
	dictionary := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	ms := &arrow.TimestampType{Unit: arrow.Millisecond}
	for _, c := range []struct {
		typ  arrow.DataType
		x    tensor
		want string
	}{
		{arrow.PrimitiveTypes.Int8, js("INT64", "[2]", "[127,-128]"), "[127 -128]"},
		{arrow.PrimitiveTypes.Int8, js("INT64", "[2]", "[127,128]"), "error"},
		{arrow.PrimitiveTypes.Uint32, js("INT64", "[1]", "[-1]"), "error"},
		{arrow.PrimitiveTypes.Int64, js("UINT8", "[2]", "[255,null]"), "[255 (null)]"},
		{arrow.PrimitiveTypes.Int64, js("FP64", "[2]", "[3.0,1e3]"), "[3 1000]"},
		{arrow.PrimitiveTypes.Int64, js("INT64", "[2]", "[3.0,1e3]"), "[3 1000]"},
		{arrow.PrimitiveTypes.Uint64, js("UINT64", "[1]", "[18446744073709551615]"), "[18446744073709551615]"},
		{arrow.PrimitiveTypes.Uint64, js("INT64", "[1]", "[-1]"), "error"},
		{arrow.PrimitiveTypes.Uint64, js("UINT64", "[1]", "[1.5]"), "error"},
		{arrow.PrimitiveTypes.Float32, js("FP64", "[2]", "[0.5,null]"), "[0.5 (null)]"},
		{arrow.PrimitiveTypes.Float32, js("FP64", "[1]", "[1e39]"), "error"},
		{arrow.PrimitiveTypes.Float32, js("INT64", "[1]", "[16777217]"), "error"},
		{arrow.PrimitiveTypes.Float32, js("INT64", "[1]", "[16777218]"), "[1.6777218e+07]"},
		{arrow.PrimitiveTypes.Float64, js("INT32", "[2,1]", "[[1],[2]]"), "[1 2]"},
		{arrow.PrimitiveTypes.Float64, js("UINT64", "[1]", "[18446744073709551615]"), "error"},
		{arrow.FixedWidthTypes.Boolean, js("BOOL", "[3]", "[true,false,null]"), "[true false (null)]"},
		{arrow.FixedWidthTypes.Boolean, js("INT8", "[1]", "[1]"), "error"},
		{arrow.BinaryTypes.String, js("BYTES", "[3]", `["a","",null]`), `["a" "" (null)]`},
		{arrow.BinaryTypes.LargeString, js("BYTES", "[1]", `["\u00e9\ud83d\ude00"]`), `["é😀"]`},
		{dictionary, js("BYTES", "[1]", `["x"]`), `["x"]`},
		{ms, js("INT64", "[2]", `[1700000000000,null]`), `[1700000000000 (null)]`},
		{ms, js("BYTES", "[1]", `["2023-11-14T22:13:20Z"]`), `[1700000000000]`},
		{ms, js("BYTES", "[1]", `["yesterday"]`), `error`},
		{arrow.FixedWidthTypes.Date32, js("INT64", "[1]", `[19675]`), `[2023-11-14]`},
		{arrow.ListOf(arrow.PrimitiveTypes.Int32), js("INT64", "[2,2]", `[[1,2],[3,4]]`), `[[1 2] [3 4]]`},
		{arrow.ListOf(arrow.PrimitiveTypes.Int32), js("INT64", "[2,2]", `[1,2,3,4]`), `[[1 2] [3 4]]`},
		{arrow.ListOf(arrow.BinaryTypes.String), js("BYTES", "[1,2]", `[["a","b"]]`), `[["a" "b"]]`},
		{arrow.ListOf(arrow.PrimitiveTypes.Int64), js("INT64", "[2]", `[1,2]`), `error`},
		{arrow.PrimitiveTypes.Int64, js("INT64", "[2,2]", `[1,2,3,4]`), `error`},
	} {
		got := strings.ReplaceAll(decoded(t, c.typ, c.x), "\n", " ")
		if got != c.want && c.typ.ID() != arrow.TIMESTAMP {
			t.Errorf("%s %v %s as %s: %s, want %s", c.x.datatype, c.x.shape, c.x.text, c.typ, got, c.want)
		}
		if c.typ.ID() == arrow.TIMESTAMP && (got == "error") != (c.want == "error") {
			t.Errorf("%s as %s: %s, want %s", c.x.text, c.typ, got, c.want)
		}
	}
	if _, err := newColumn("c", arrow.Null); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error("a column of nulls:", err)
	}
}

func TestTimesEqualNumbers(t *testing.T) {
	for _, unit := range []arrow.TimeUnit{arrow.Second, arrow.Millisecond, arrow.Microsecond, arrow.Nanosecond} {
		typ := &arrow.TimestampType{Unit: unit}
		c, err := newColumn("c", typ)
		if err != nil {
			t.Fatal(err)
		}
		arr, err := c.array(&tensor{name: "c", datatype: "BYTES", shape: []int64{1}, text: []byte(`["2023-11-14T23:13:20+01:00"]`)})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := int64(arr.(*array.Timestamp).Value(0)), 1700000000*int64(1e9/unit.Multiplier()); got != want {
			t.Errorf("%v: %d, want %d", unit, got, want)
		}
		arr.Release()
	}
}

func TestHalf(t *testing.T) {
	for h, want := range map[uint16]float64{0: 0, 1: 0x1p-24, 0x3ff: 0x3ffp-24, 0x8001: -0x1p-24} {
		if got := half(h); got != want {
			t.Errorf("half(%#x) = %v, want %v", h, got, want)
		}
	}
	for h := range 1 << 16 {
		if h>>10&31 == 0 {
			continue // arrow-go reads denormals wrongly
		}
		want := float64(float16.FromBits(uint16(h)).Float32())
		if got := half(uint16(h)); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("half(%#x) = %v, want %v", h, got, want)
		}
	}
}

func TestRawReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 1, 20).Draw(t, "texts")
		var raw []byte
		for _, x := range texts {
			raw = append(binary.LittleEndian.AppendUint32(raw, uint32(len(x))), x...)
		}
		v, err := decodeBytes(raw, len(texts))
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range texts {
			if string(v.data[v.offsets[i]:v.offsets[i+1]]) != string(x) {
				t.Fatalf("element %d differs", i)
			}
		}
		ints := rapid.SliceOfN(rapid.Int16(), 1, 20).Draw(t, "ints")
		raw = raw[:0]
		for _, x := range ints {
			raw = binary.LittleEndian.AppendUint16(raw, uint16(x))
		}
		if v, err = decodeRaw(raw, datatypes["INT16"], len(ints)); err != nil {
			t.Fatal(err)
		}
		for i, x := range ints {
			if v.ints[i] != int64(x) {
				t.Fatalf("element %d is %d, want %d", i, v.ints[i], x)
			}
		}
	})
}

func FuzzRawTensor(f *testing.F) {
	f.Add("FP32", []byte{0, 0, 128, 63}, int64(1), int64(1))
	f.Add("BOOL", []byte{0, 1}, int64(2), int64(1))
	f.Add("INT8", []byte{0xff}, int64(1), int64(1))
	f.Add("FP16", []byte{0, 0x7c}, int64(1), int64(1))
	types := []arrow.DataType{arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Uint64, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64,
		arrow.FixedWidthTypes.Boolean, arrow.BinaryTypes.String, arrow.ListOf(arrow.PrimitiveTypes.Int64), arrow.FixedWidthTypes.Date32}
	f.Fuzz(func(t *testing.T, name string, data []byte, rows, width int64) {
		for _, typ := range types {
			c, err := newColumn("c", typ)
			if err != nil {
				t.Fatal(err)
			}
			x := tensor{name: "c", datatype: name, shape: []int64{rows, width}, raw: data}
			if x.checkShape(1024) != nil {
				continue
			}
			arr, err := c.array(&x)
			if err != nil {
				if !errors.Is(err, tidemill.ErrInvalid) {
					t.Fatal(err)
				}
				continue
			}
			if int64(arr.Len()) != rows {
				t.Fatalf("%d rows, want %d", arr.Len(), rows)
			}
			arr.Release()
		}
	})
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 'a', 0, 0, 0, 0}, 2)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1)
	f.Add([]byte{1, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, raw []byte, n int) {
		if n < 1 || n > 1<<16 {
			return
		}
		v, err := decodeBytes(raw, n)
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if len(v.offsets) != n+1 || len(v.data)+4*n != len(raw) {
			t.Fatalf("%d elements of %d bytes from %d bytes", len(v.offsets)-1, len(v.data), len(raw))
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"id":"7","inputs":[{"name":"price","shape":[1],"datatype":"FP64","data":[1.5]}],"outputs":[{"name":"prediction"}]}`,
		`{"inputs":[{"name":"c","shape":[1,2],"datatype":"BYTES","data":[["a","\ud83d\ude00"]]}]}`,
		`{"inputs":[{"name":"c","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}}]}` + "\x01",
		`[[[[1,2]]]]`, `{"a":{"a":null,"b":[true,false]},"c":1e9}`, "\"\\u12", `-`, `{"inputs":[{}]}`,
	} {
		f.Add([]byte(s), "")
	}
	f.Add([]byte(`{"inputs":[]}x`), "13")
	f.Fuzz(func(t *testing.T, body []byte, header string) {
		// The reader takes nothing that the standard library refuses.
		r := reader{data: body}
		if _, err := r.skip(); err == nil && r.end() == nil && !json.Valid(body) {
			t.Fatal("accepted what is no JSON")
		} else if err == nil && !utf8.Valid(body) && r.end() == nil {
			t.Fatal("accepted what is no UTF-8")
		}
		var h []string
		if header != "" {
			h = []string{header}
		}
		req, err := parseInfer(body, h)
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for i := range req.inputs {
			x := &req.inputs[i]
			if x.checkShape(1024) != nil {
				continue
			}
			if _, v, err := x.decode(); err == nil && v == nil {
				t.Fatal("no values and no error")
			} else if err != nil && !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatal(err)
			}
		}
	})
}
