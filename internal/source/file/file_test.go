package file

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func checked(t testing.TB) memory.Allocator {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

// all reads everything and renders it: "index: value|value".
func all(rs Rows, limit int) (out []string, err error) {
	for {
		c, err := rs.Next(limit)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if c.Rows.NumRows() < 1 || c.Rows.NumRows() > int64(limit) {
			return out, fmt.Errorf("a chunk of %d rows, limit %d", c.Rows.NumRows(), limit)
		}
		for i := range int(c.Rows.NumRows()) {
			var cells []string
			for _, col := range c.Rows.Columns() {
				cells = append(cells, col.ValueStr(i))
			}
			out = append(out, fmt.Sprintf("%d: %s", c.First+int64(i), strings.Join(cells, "|")))
		}
		c.Rows.Release()
	}
}

func types(s *arrow.Schema) string {
	var out []string
	for _, f := range s.Fields() {
		out = append(out, f.Name+":"+f.Type.String())
	}
	return strings.Join(out, " ")
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		name, in, schema string
		opts             Options
		rows             []string
		bad              []string // "place: what" of each malformed row
	}{
		{name: "a.csv", in: "a,b,c,d,e\n1,1.5,true,x,2024-01-02T03:04:05Z\n-2,3,false,,\n",
			schema: "a:int64 b:float64 c:bool d:utf8 e:timestamp[us, tz=UTC]",
			rows:   []string{"0: 1|1.5|true|x|2024-01-02T03:04:05Z", "1: -2|3|false|(null)|(null)"}},
		{name: "bom.csv", in: "\xEF\xBB\xBFa,b\r\n1,2\r\n\r\n3,4", schema: "a:int64 b:int64", rows: []string{"0: 1|2", "1: 3|4"}},
		{name: "quotes.csv", in: "a,b\n\"x, y\",\"say \"\"hi\"\"\"\n\"two\nlines\",z\nit's 5\" wide,q\n", schema: "a:utf8 b:utf8",
			rows: []string{`0: x, y|say "hi"`, "1: two\nlines|z", `2: it's 5" wide|q`}},
		{name: "ragged.csv", in: "a,b\n1,2\n3\n4,5,6\n7,8\n", schema: "a:int64 b:int64",
			rows: []string{"0: 1|2", "3: 7|8"},
			bad:  []string{"ragged.csv:3:2: 1 fields where the header has 2", "ragged.csv:4:5: 3 fields where the header has 2"}},
		{name: "nan.csv", in: "a,b\n1,2\nNaN,3\n4,-Inf\n5,infinity\n1e400,6\n7,8\n", schema: "a:float64 b:float64",
			rows: []string{"0: 1|2", "5: 7|8"},
			bad: []string{`nan.csv:3:1: column "a": number expected, found "NaN"`, `nan.csv:4:3: column "b": number expected, found "-Inf"`,
				`nan.csv:5:3: column "b": number expected, found "infinity"`, `nan.csv:6:1: column "a": "1e400" is too large for 64 bits`}},
		{name: "late.csv", in: "a,b\n1,x\n2,y\nü,z\n3,ä\xff\n4,w\n", opts: Options{InferRows: 2}, schema: "a:int64 b:utf8",
			rows: []string{"0: 1|x", "1: 2|y", "4: 4|w"},
			bad:  []string{`late.csv:4:1: column "a": whole number expected, found "ü"`, "late.csv:5:4: not UTF-8"}},
		{name: "open.csv", in: "a,b\n\"x,1\ny,2\nz,3\n", schema: "a:utf8 b:int64",
			rows: []string{"1: y|2", "2: z|3"}, bad: []string{"open.csv:2:1: a quote is never closed"}},
		{name: "after.csv", in: "a,b\n\"x\"y,1\nz,2\n", schema: "a:utf8 b:int64",
			rows: []string{"1: z|2"}, bad: []string{"after.csv:2:4: text after a closing quote"}},
		{name: "multi.csv", in: "a,b\n\"one\ntwo\",x\n\"a\nb\",y,z\n\"c\nd\",w\n", schema: "a:utf8 b:utf8",
			rows: []string{"0: one\ntwo|x", "2: c\nd|w"}, bad: []string{"multi.csv:5:6: 3 fields where the header has 2"}},
		{name: "long.csv", in: "a,b\n1,2\n" + strings.Repeat("x", 5000) + ",3\n4,5\n", opts: Options{MaxLine: 100}, schema: "a:int64 b:int64",
			rows: []string{"0: 1|2", "2: 4|5"}, bad: []string{"long.csv:3:1: the line is longer than 100 bytes"}},
		{name: "big.csv", in: "id,h\n18446744073709551615,0x10\n1,1_000\n", schema: "id:utf8 h:utf8", rows: []string{"0: 18446744073709551615|0x10", "1: 1|1_000"}},
		{name: "none.csv", in: "1,x\n2,y\n", opts: Options{NoHeader: true}, schema: "c0:int64 c1:utf8", rows: []string{"0: 1|x", "1: 2|y"}},
		{name: "t.tsv", in: "a\tb\n\"1\t2\n\"\t\n", schema: "a:utf8 b:int64", rows: []string{"0: \"1|2", "1: \"|(null)"}},
		{name: "short.csv", in: "a,b,c\n1,2\n3,4,5\n6,7,8,9\n", opts: Options{FillShort: true}, schema: "a:int64 b:int64 c:int64",
			rows: []string{"0: 1|2|(null)", "1: 3|4|5"}, bad: []string{"short.csv:4:7: 4 fields where the header has 3"}},
		{name: "types.csv", in: "a,b\n1,2\n", opts: Options{Types: map[string]arrow.DataType{"a": arrow.PrimitiveTypes.Float64, "z": arrow.PrimitiveTypes.Int8}},
			schema: "a:float64 b:int64", rows: []string{"0: 1|2"}},
		{name: "given.csv", in: "b,a\n1,2\n300,3\n", opts: Options{Schema: arrow.NewSchema([]arrow.Field{
			{Name: "a", Type: arrow.PrimitiveTypes.Float32, Nullable: true}, {Name: "b", Type: arrow.PrimitiveTypes.Int8, Nullable: true}, {Name: "c", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)},
			schema: "a:float32 b:int8 c:utf8", rows: []string{"0: 2|1|(null)"}, bad: []string{`given.csv:3:1: column "b": "300" does not fit into 8 bits`}},
		{name: "a.jsonl", in: `{"a":1,"b":"x\u00fcy","t":"2024-01-02T03:04:05.5Z","l":[1,2],"s":["p","q"]}` + "\n\n" + `{"a":2.5,"c":true,"b":null,"l":[]}` + "\n",
			schema: "a:float64 b:utf8 t:timestamp[us, tz=UTC] l:list<item: int64, nullable> s:list<item: utf8, nullable> c:bool",
			rows:   []string{`0: 1|xüy|2024-01-02T03:04:05.5Z|[1,2]|["p","q"]|(null)`, `1: 2.5|(null)|(null)|[]|(null)|true`}},
		{name: "bad.jsonl", in: `{"ab":1}` + "\n" + `{"ac":2}` + "\n" + `{"ab":"x"}` + "\n" + `{"ab":1,"ab":2}` + "\n" + `{"ab":{"c":1}}` + "\n" + `{"ab":01}` + "\n" + `{"ab":1` + "\n" +
			`[1]` + "\n" + `{"ab":NaN}` + "\n" + `{"ab":1e999}` + "\n" + `{"ab":1} x` + "\n" + `{"ab":"\q"}` + "\n" + `{"ab":1.5}` + "\n" + `{"ab":7}` + "\n",
			opts: Options{InferRows: 1}, schema: "ab:int64", rows: []string{"0: 1", "13: 7"},
			bad: []string{`bad.jsonl:2:2: unknown field "ac"`, `bad.jsonl:3:7: field "ab": number expected, found string`, `bad.jsonl:4:9: field "ab" is there twice`,
				"bad.jsonl:5:7: nested values are not rows", "bad.jsonl:6:7: not a JSON number", "bad.jsonl:7:8: the line ends where ',' or '}' was expected",
				`bad.jsonl:8:1: an object: { expected, found "[1]"`, `bad.jsonl:9:7: a value expected, found "NaN}"`, `bad.jsonl:10:7: field "ab": whole number expected, found "1e999"`,
				`bad.jsonl:11:10: the end of the line expected, found "x"`, `bad.jsonl:12:9: bad escape in a string`, `bad.jsonl:13:7: field "ab": whole number expected, found "1.5"`}},
		{name: "a.libsvm", in: "# comment\n1 3:0.5 7:2 # more\n-1\n\n+1 x:2\n0 1:y\nq\n0 5\n1 2:nan\n", schema: "label:float64 indices:list<item: int64, nullable> values:list<item: float64, nullable>",
			rows: []string{"0: 1|[3,7]|[0.5,2]", "1: -1|[]|[]"},
			bad: []string{`a.libsvm:5:4: index: whole number expected, found "x"`, `a.libsvm:6:5: value: number expected, found "y"`, `a.libsvm:7:1: label: number expected, found "q"`,
				`a.libsvm:8:3: index:value expected, found "5"`, `a.libsvm:9:5: value: number expected, found "nan"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, limit := range []int{1, 2, 1000} {
				opts := c.opts
				opts.Mem = checked(t)
				var bad []string
				opts.Bad = func(b BadRow) error {
					bad = append(bad, fmt.Sprintf("%s: %s", b.Err.Place, b.Err.What))
					return nil
				}
				// One byte at a time, too: nothing may depend on how reads fall.
				for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
					bad = nil
					rs, err := OpenRows(c.name, r, opts)
					if err != nil {
						t.Fatal(err)
					}
					if got := types(rs.Schema()); got != c.schema {
						t.Errorf("schema %s, want %s", got, c.schema)
					}
					got, err := all(rs, limit)
					if err != nil {
						t.Fatal(err)
					}
					if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.rows) {
						t.Errorf("rows\n%q\nwant\n%q", got, c.rows)
					}
					if fmt.Sprintf("%q", bad) != fmt.Sprintf("%q", c.bad) {
						t.Errorf("bad\n%q\nwant\n%q", bad, c.bad)
					}
					rs.Close()
				}
			}
			if len(c.bad) == 0 {
				return
			}
			// Without anywhere to put bad rows, the first one is the error, after the rows before it.
			opts := c.opts
			opts.Mem = checked(t)
			rs, err := OpenRows(c.name, strings.NewReader(c.in), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer rs.Close()
			got, err := all(rs, 1000)
			var in *tidemill.InputError
			if !errors.As(err, &in) || fmt.Sprintf("%s: %s", in.Place, in.What) != c.bad[0] {
				t.Errorf("error %v, want %s", err, c.bad[0])
			}
			for i := range got {
				if got[i] != c.rows[i] {
					t.Errorf("row %q before the error, want %q", got[i], c.rows[i])
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		opts           Options
	}{
		{"a.csv", "", "a.csv: the file is empty", Options{}},
		{"a.jsonl", "", "a.jsonl: the file is empty", Options{}},
		{"a.libsvm", "", "a.libsvm: the file is empty", Options{}},
		{"a.arrow", "", "a.arrow: the file is empty", Options{}},
		{"a.csv", "a,b\n", "a.csv: the file has a header and no rows", Options{}},
		{"a.csv", "\n\n", "a.csv: the file is empty", Options{}},
		{"a.jsonl", "\n\n", "no rows", Options{}},
		{"a.csv", "a,,c\n1,2,3\n", "a.csv:1:3: column 2 of the header has no name", Options{}},
		{"a.csv", "a,b,a\n1,2,3\n", `a.csv:1:5: column "a" is there twice`, Options{}},
		{"a.arrow", "this is not Arrow at all, not even close", "damaged or of another format", Options{}},
		{"a.arrow", "ARROW1 and nothing that follows from it, nor at the end", "damaged or of another format", Options{}},
		{"a.xyz", "1", "format", Options{}},
		{"a.parquet", "PAR1", "does not read Parquet", Options{}},
		{"a.csv", "a\n1\n", "no format", Options{Format: "xml"}},
		{"a.csv", "a,z\n1,2\n", `a column "z" that the schema lacks`, Options{Schema: arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64}}, nil)}},
		{"a.csv.gz", "\x1f\x8b\x08\x00", "gzip data is damaged", Options{}},
	} {
		rs, err := OpenRows(c.name, strings.NewReader(c.in), c.opts)
		if err == nil {
			_, err = all(rs, 10)
			rs.Close()
		}
		if err == nil || !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: error %v, want %q", c.name, c.in, err, c.want)
		}
	}
}

func zipped(t testing.TB, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGzip(t *testing.T) {
	z := zipped(t, "a,b\n1,2\n")
	for _, name := range []string{"a.csv.gz", "a.csv", "A.CSV.GZ"} {
		rs, err := OpenRows(name, bytes.NewReader(z), Options{Mem: checked(t)})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := all(rs, 5); err != nil || len(got) != 1 || got[0] != "0: 1|2" {
			t.Errorf("%s: %q %v", name, got, err)
		}
		rs.Close()
	}
	if _, err := OpenRows("a.csv.gz", bytes.NewReader(z[:len(z)-6]), Options{}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("cut short: %v", err)
	}
}

func TestBadEndsReading(t *testing.T) {
	stop := errors.New("enough")
	rs, err := OpenRows("a.csv", strings.NewReader("a\n1\nx\n2\n"), Options{InferRows: 1, Mem: checked(t), Bad: func(BadRow) error { return stop }})
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Close()
	if got, err := all(rs, 10); len(got) != 1 || !errors.Is(err, stop) {
		t.Errorf("%q %v", got, err)
	}
}

// TestCSVProperty writes random tables with the standard library and reads them back.
func TestCSVProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cols := rapid.IntRange(2, 5).Draw(rt, "columns")
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab,\"\n ü0")), 0, 8, -1)
		table := rapid.SliceOfN(rapid.SliceOfN(text, cols, cols), 1, 20).Draw(rt, "table")
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		var fields []arrow.Field
		var header []string
		for i := range cols {
			header = append(header, "c"+strconv.Itoa(i))
			fields = append(fields, arrow.Field{Name: header[i], Type: arrow.BinaryTypes.String, Nullable: true})
		}
		w.Write(header)
		w.WriteAll(table)
		rs, err := OpenRows("a.csv", &b, Options{Schema: arrow.NewSchema(fields, nil), Mem: memory.DefaultAllocator})
		if err != nil {
			rt.Fatal(err)
		}
		defer rs.Close()
		limit := rapid.IntRange(1, 7).Draw(rt, "limit")
		for n := 0; n < len(table); {
			c, err := rs.Next(limit)
			if err != nil {
				rt.Fatalf("row %d: %v", n, err)
			}
			for i := range int(c.Rows.NumRows()) {
				for k := range cols {
					col := c.Rows.Column(k).(*array.String)
					if want := table[n][k]; (want == "") != col.IsNull(i) || want != "" && col.Value(i) != want {
						rt.Fatalf("row %d column %d: %q, want %q", n, k, col.ValueStr(i), want)
					}
				}
				n++
			}
		}
		if _, err := rs.Next(1); err != io.EOF {
			rt.Fatalf("after the last row: %v", err)
		}
	})
}

func TestFloatsExactly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.Float64().Draw(rt, "v")
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return
		}
		rs, err := OpenRows("a.csv", strings.NewReader("a\n0.5\n"+strconv.FormatFloat(v, 'g', -1, 64)+"\n"), Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer rs.Close()
		c, err := rs.Next(2)
		if err != nil {
			rt.Fatal(err)
		}
		if got := c.Rows.Column(0).(*array.Float64).Value(1); math.Float64bits(got) != math.Float64bits(v) {
			rt.Fatalf("%v, want %v", got, v)
		}
	})
}

func TestArrow(t *testing.T) {
	mem := checked(t)
	schema := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "s", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	var file, stream bytes.Buffer
	fw, err := ipc.NewFileWriter(&file, ipc.WithSchema(schema), ipc.WithAllocator(mem))
	if err != nil {
		t.Fatal(err)
	}
	sw := ipc.NewWriter(&stream, ipc.WithSchema(schema), ipc.WithAllocator(mem))
	for i := range 3 {
		for k := range 4 {
			b.Field(0).(*array.Int64Builder).Append(int64(4*i + k))
			b.Field(1).(*array.StringBuilder).Append(fmt.Sprint(k))
		}
		rec := b.NewRecordBatch()
		if err := errors.Join(fw.Write(rec), sw.Write(rec)); err != nil {
			t.Fatal(err)
		}
		rec.Release()
	}
	if err := errors.Join(fw.Close(), sw.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.arrow")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer onDisk.Close()
	for _, r := range []io.Reader{onDisk, bytes.NewReader(file.Bytes()), &stream, bytes.NewReader(zipped(t, file.String()))} {
		rs, err := OpenRows("x.arrow", r, Options{Mem: mem})
		if err != nil {
			t.Fatal(err)
		}
		got, err := all(rs, 3)
		if err != nil || len(got) != 12 || got[11] != "11: 11|3" {
			t.Errorf("%q %v", got, err)
		}
		rs.Close()
	}
	for _, cut := range []int{file.Len() / 2, file.Len() - 9} {
		rs, err := OpenRows("x.arrow", bytes.NewReader(file.Bytes()[:cut]), Options{Mem: mem})
		if err == nil {
			_, err = all(rs, 10)
			rs.Close()
		}
		if !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
}

// TestSharedData reads real files whole, where they are at hand.
func TestSharedData(t *testing.T) {
	for _, c := range []struct {
		name string
		opts Options
		rows int
	}{
		{"elec2.csv", Options{}, 45312},
		{"nsl-kdd-train20.csv", Options{}, 25192},
		{"ml-100k-events.csv", Options{}, 100000},
		{"criteo-1k.tsv", Options{NoHeader: true, FillShort: true}, 1000},
	} {
		f, err := os.Open(filepath.Join("..", "..", "..", "..", "shared", "data", c.name))
		if err != nil {
			t.Skipf("%s is not at hand", c.name)
		}
		defer f.Close()
		c.opts.Mem = checked(t)
		rs, err := OpenRows(c.name, f, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			chunk, err := rs.Next(4096)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n += int(chunk.Rows.NumRows())
			chunk.Rows.Release()
		}
		rs.Close()
		if n != c.rows {
			t.Errorf("%s has %d rows, want %d", c.name, n, c.rows)
		}
	}
}

// fuzzRows reads whatever it is given to the end: rows, bad rows or an error, nothing else.
func fuzzRows(f *testing.F, format Format, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := memory.DefaultAllocator
		if format != Arrow { // whose reader forgets what it took when it gives up
			mem = checked(t)
		}
		next := int64(0)
		rs, err := OpenRows("fuzz", bytes.NewReader(b), Options{
			Format: format, Mem: mem, InferRows: 3, MaxLine: 4096, MaxMemory: 1 << 20,
			Bad: func(b BadRow) error {
				if b.Index != next || b.Err.Place.Line < 1 || b.Err.Place.Column < 1 {
					t.Fatalf("bad row %d where %d was next: %v", b.Index, next, b.Err)
				}
				next++
				return nil
			},
		})
		if err != nil {
			return
		}
		defer rs.Close()
		for {
			c, err := rs.Next(2)
			if err != nil {
				return
			}
			if c.First+c.Rows.NumRows() > next+c.Rows.NumRows() || c.First != next && format != Arrow {
				t.Fatalf("rows from %d where %d was next", c.First, next)
			}
			for _, col := range c.Rows.Columns() {
				for i := range col.Len() {
					_ = col.ValueStr(i)
				}
			}
			next = c.First + c.Rows.NumRows()
			c.Rows.Release()
		}
	})
}

func FuzzCSV(f *testing.F) {
	fuzzRows(f, CSV, "a,b\n1,2\n", "a,b\n\"x\ny\",\"z\"\"\"\n3\n", "a\n\"\n1\n2\n", "a,b\n1,\xff\n")
}
func FuzzTSV(f *testing.F) { fuzzRows(f, TSV, "a\tb\n1\t2\n") }
func FuzzJSONL(f *testing.F) {
	fuzzRows(f, JSONL, `{"a":1,"b":"\u00e4","c":[1,2],"d":["x"],"e":null,"f":true}`+"\n"+`{"a":"x"}`)
}
func FuzzLibSVM(f *testing.F) { fuzzRows(f, LibSVM, "1 2:3 4:5\n-1 # x\n") }
func FuzzArrow(f *testing.F) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.PrimitiveTypes.Int64}, {Name: "s", Type: arrow.BinaryTypes.String, Nullable: true}, {Name: "l", Type: arrow.ListOf(arrow.FixedWidthTypes.Boolean), Nullable: true}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for i := range 3 {
		b.Field(0).(*array.Int64Builder).Append(int64(i))
		b.Field(1).(*array.StringBuilder).Append("x")
		b.Field(2).AppendEmptyValue()
	}
	rec := b.NewRecordBatch()
	var stream, file bytes.Buffer
	sw := ipc.NewWriter(&stream, ipc.WithSchema(schema))
	fw, _ := ipc.NewFileWriter(&file, ipc.WithSchema(schema))
	sw.Write(rec)
	fw.Write(rec)
	sw.Close()
	fw.Close()
	fuzzRows(f, Arrow, stream.String(), file.String())
}
