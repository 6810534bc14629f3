package feature

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Every numeric type yields the same dense number and, hashed, the same id for the same value.
func TestNumberTypes(t *testing.T) {
	types := []arrow.DataType{
		arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int64,
		arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint16, arrow.PrimitiveTypes.Uint32, arrow.PrimitiveTypes.Uint64,
		arrow.FixedWidthTypes.Float16, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64,
	}
	s := job(tidemill.FeatureSpec{Name: "d", Column: "x"}, tidemill.FeatureSpec{Name: "h", Column: "x", Hash: &tidemill.HashSpec{}})
	want := hashNumber(seedOf("h"), 3)
	for _, dt := range types {
		schema := fields("x", dt, "y", arrow.PrimitiveTypes.Int64)
		rows := batch(t, schema, `{"x":9,"y":1}`, `{"x":3,"y":0}`, `{"x":null,"y":0}`)
		p := compile(t, s, schema)
		in := inputs(t, p, rows.NewSlice(1, 3), nil)
		if in.Dense[0] != 3 || in.Dense[1] != 0 {
			t.Errorf("%s: dense %v", dt, in.Dense)
		}
		if one(t, in, 0, 0) != want || one(t, in, 1, 0) != special(seedOf("h"), tagNull) {
			t.Errorf("%s: ids %x", dt, in.IDs)
		}
		if p.Check(rows, true) != nil {
			t.Errorf("%s: %v", dt, p.Check(rows, true))
		}
	}
}

func TestCanonicalNumbers(t *testing.T) {
	same := [][2]uint64{
		{canonFloat(-1), ^uint64(0)}, {canonFloat(math.Copysign(0, -1)), 0}, {canonFloat(1 << 62), 1 << 62},
		{canonFloat(1 << 63), canonUint(1 << 63)}, {canonFloat(-(1 << 63)), 1 << 63}, {canonFloat(float64(float32(0.5))), canonFloat(0.5)},
		{canonFloat(math.NaN()), canonFloat(-math.NaN())},
	}
	for i, c := range same {
		if c[0] != c[1] {
			t.Errorf("pair %d: %x and %x", i, c[0], c[1])
		}
	}
	all := []uint64{canonUint(1 << 63), uint64(1 << 63), ^uint64(0), canonUint(math.MaxUint64), canonFloat(1 << 64), canonFloat(0.5), canonFloat(-0.5), canonFloat(math.Inf(1)), canonFloat(math.NaN())}
	slices.Sort(all)
	if len(slices.Compact(all)) != 9 {
		t.Error("different numbers have one canonical form")
	}
	for _, c := range []struct {
		text string
		want uint64
	}{{"3", 3}, {"3.0", 3}, {"-1", ^uint64(0)}, {"18446744073709551615", canonUint(math.MaxUint64)}, {"0.5", canonFloat(0.5)}} {
		if got, ok := canonText(c.text); !ok || got != c.want {
			t.Errorf("%s is %x, %v", c.text, got, ok)
		}
	}
	for _, text := range []string{"", "x", "NaN", "inf", "1e999"} {
		if _, ok := canonText(text); ok {
			t.Errorf("%q is a number", text)
		}
	}
}

// Every text layout yields the same id for the same bytes, dictionary or not.
func TestTextTypes(t *testing.T) {
	dict := func(index, value arrow.DataType) arrow.DataType {
		return &arrow.DictionaryType{IndexType: index, ValueType: value}
	}
	str, bin := arrow.BinaryTypes.String, arrow.BinaryTypes.Binary
	types := []arrow.DataType{
		str, bin, arrow.BinaryTypes.LargeString, arrow.BinaryTypes.LargeBinary, arrow.BinaryTypes.StringView, arrow.BinaryTypes.BinaryView,
		&arrow.FixedSizeBinaryType{ByteWidth: 5},
		dict(arrow.PrimitiveTypes.Int8, str), dict(arrow.PrimitiveTypes.Uint16, str), dict(arrow.PrimitiveTypes.Int64, bin),
	}
	const hello, world = "hello", "world"
	for _, dt := range types {
		b := array.NewBuilder(memory.DefaultAllocator, dt)
		for range 20 { // a dictionary longer and shorter than the rows
			for _, v := range []string{hello, "", world} {
				if v == "" {
					b.AppendNull()
					continue
				}
				var err error
				switch b := b.(type) {
				case *array.BinaryDictionaryBuilder:
					err = b.AppendString(v)
				case *array.StringBuilder:
					b.Append(v)
				case *array.LargeStringBuilder:
					b.Append(v)
				case *array.StringViewBuilder:
					b.Append(v)
				case *array.BinaryBuilder: // binary and large binary
					b.Append([]byte(v))
				case *array.BinaryViewBuilder:
					b.Append([]byte(v))
				case *array.FixedSizeBinaryBuilder:
					b.Append([]byte(v))
				default:
					t.Fatalf("builder %T", b)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		arr := b.NewArray()
		b.Release()
		schema := fields("x", dt)
		rows := array.NewRecordBatch(schema, []arrow.Array{arr}, int64(arr.Len()))
		p := compile(t, job(tidemill.FeatureSpec{Column: "x"}), fields("x", dt, "y", arrow.PrimitiveTypes.Int8))
		for _, r := range []arrow.RecordBatch{rows, rows.NewSlice(3, 60), rows.NewSlice(30, 31)} {
			in := inputs(t, p, r, nil)
			seed := seedOf("x")
			want := []uint64{hashText(seed, []byte(hello)), special(seed, tagNull), hashText(seed, []byte(world))}
			for i := range in.N {
				if one(t, in, i, 0) != want[i%3] {
					t.Fatalf("%s: row %d of %d has id %x", dt, i, in.N, in.IDs[i])
				}
			}
			if bad := p.Check(r, false); bad != nil {
				t.Errorf("%s: %v", dt, bad)
			}
		}
		rows.Release()
		arr.Release()
	}
}

// A dictionary may hold large text, and nulls of its own.
func TestDictionaryValues(t *testing.T) {
	lb := array.NewLargeStringBuilder(memory.DefaultAllocator)
	lb.AppendValues([]string{"zero", "one", "two"}, []bool{true, false, true})
	values := lb.NewArray()
	defer values.Release()
	tail := array.NewSlice(values, 1, 3) // null, two
	defer tail.Release()
	ib := array.NewInt32Builder(memory.DefaultAllocator)
	ib.AppendValues([]int32{1, 0, 9, 1}, []bool{true, true, false, true})
	index := ib.NewArray()
	defer index.Release()
	dt := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.LargeString}
	arr := array.NewDictionaryArray(dt, index, tail)
	defer arr.Release()
	schema := fields("x", dt)
	rows := array.NewRecordBatch(schema, []arrow.Array{arr}, 4)
	defer rows.Release()
	p := compile(t, job(tidemill.FeatureSpec{Column: "x"}, tidemill.FeatureSpec{Name: "m", Column: "x", MultiHot: &tidemill.MultiHot{}}),
		fields("x", dt, "y", arrow.PrimitiveTypes.Int8))
	for f, name := range []string{"x", "m"} {
		two, null := hashText(seedOf(name), []byte("two")), special(seedOf(name), tagNull)
		for _, r := range []arrow.RecordBatch{rows, rows.NewSlice(0, 1), rows.NewSlice(2, 4)} {
			in := inputs(t, p, r, nil)
			want := []uint64{two, null, null, two}
			if in.N == 2 {
				want = want[2:]
			}
			for i := range in.N {
				if one(t, in, i, f) != want[i] {
					t.Errorf("field %s: row %d of %d has id %x", name, i, in.N, one(t, in, i, f))
				}
			}
		}
	}
}

func TestTimeTypes(t *testing.T) {
	const day = 20_000 // 2024-10-04
	for _, c := range []struct {
		dt    arrow.DataType
		value string
	}{
		{arrow.FixedWidthTypes.Timestamp_s, "#1728000000"}, {arrow.FixedWidthTypes.Timestamp_ms, "#1728000000000"},
		{arrow.FixedWidthTypes.Timestamp_us, "#1728000000000000"}, {arrow.FixedWidthTypes.Timestamp_ns, "#1728000000000000000"},
		{arrow.FixedWidthTypes.Date32, "2024-10-04"}, {arrow.FixedWidthTypes.Date64, "2024-10-04"},
		{arrow.PrimitiveTypes.Int64, "#1728000000000"}, {arrow.PrimitiveTypes.Uint64, "#1728000000000"}, {arrow.BinaryTypes.String, "2024-10-04T02:00:00+02:00"},
	} {
		schema := fields("t", c.dt, "y", arrow.PrimitiveTypes.Int8)
		v := fmt.Sprintf("%q", c.value)
		if c.value[0] == '#' {
			v = c.value[1:]
		}
		rows := batch(t, schema, `{"t":null,"y":1}`, `{"t":`+v+`,"y":1}`, `{"t":`+v+`,"y":1}`)
		s := job(tidemill.FeatureSpec{Column: "t", Hash: &tidemill.HashSpec{}})
		s.Time.Column = "t"
		p := compile(t, s, schema)
		lo, hi, ok := p.EventTimes(rows)
		if !ok || lo != day*dayMillis || hi != lo {
			t.Errorf("%s: %d %d %v", c.dt, lo, hi, ok)
		}
		if _, _, ok := p.EventTimes(rows.NewSlice(0, 1)); ok {
			t.Errorf("%s: a null time counts", c.dt)
		}
		if classOf(c.dt) == classTime {
			in := inputs(t, p, rows, nil)
			if one(t, in, 1, 0) != hashNumber(seedOf("t"), day*dayMillis) {
				t.Errorf("%s: id %x", c.dt, in.IDs[1])
			}
		}
	}
	ms := make([]int64, 4)
	millis(ms, []int64{-1, -1000, 1999, math.MinInt64}, 1, 1000)
	if !slices.Equal(ms, []int64{-1, -1, 1, math.MinInt64/1000 - 1}) {
		t.Errorf("rounding down: %v", ms)
	}
	millis(ms, []int64{math.MaxInt64, math.MinInt64, -math.MaxInt64, 5}, 1000, 1)
	if !slices.Equal(ms, []int64{math.MaxInt64, math.MinInt64, math.MinInt64, 5000}) {
		t.Errorf("saturation: %v", ms)
	}
}

func TestNumericPipeline(t *testing.T) {
	impute := -3.0
	schema := fields("x", arrow.PrimitiveTypes.Float64, "y", arrow.PrimitiveTypes.Int8)
	rows := batch(t, schema, `{"x":null}`, `{"x":1}`, `{"x":-8}`, `{"x":8}`)
	tests := []struct {
		f    tidemill.FeatureSpec
		want []float64
	}{
		{tidemill.FeatureSpec{}, []float64{0, 1, -8, 8}},
		{tidemill.FeatureSpec{Impute: &impute}, []float64{-3, 1, -8, 8}},
		{tidemill.FeatureSpec{Clip: []float64{1, 5}}, []float64{1, 1, 1, 5}},
		{tidemill.FeatureSpec{Log1p: true}, []float64{0, math.Ln2, -math.Log(9), math.Log(9)}},
		{tidemill.FeatureSpec{Impute: &impute, Clip: []float64{-2, 4}, Log1p: true}, []float64{-math.Log(3), math.Ln2, -math.Log(3), math.Log(5)}},
	}
	for i, tc := range tests {
		tc.f.Column = "x"
		in := inputs(t, compile(t, job(tc.f), schema), rows, nil)
		for k, want := range tc.want {
			if !near(float64(in.Dense[k]), want, 1e-6) {
				t.Errorf("case %d row %d: %v, want %v", i, k, in.Dense[k], want)
			}
		}
	}
}

func TestStandardize(t *testing.T) {
	schema := fields("x", arrow.PrimitiveTypes.Float64, "c", arrow.PrimitiveTypes.Float64, "y", arrow.PrimitiveTypes.Int8)
	std := &tidemill.Standardize{}
	p := compile(t, job(tidemill.FeatureSpec{Column: "x", Standardize: std}, tidemill.FeatureSpec{Column: "c", Standardize: std}), schema)
	rows := batch(t, schema, `{"x":1,"c":0.1}`, `{"x":null,"c":0.1}`, `{"x":3,"c":0.1}`, `{"x":8,"c":0.1}`)
	st := p.NewState()
	if in := inputs(t, p, rows, st); slices.Max(in.Dense) != 0 || slices.Min(in.Dense) != 0 {
		t.Errorf("before any row: %v", in.Dense)
	}
	learn(t, p, st, rows.NewSlice(0, 2))
	learn(t, p, st, rows.NewSlice(2, 4))
	in := inputs(t, p, rows, st)
	mean, sd := 4.0, math.Sqrt((9.0+1+16)/3)
	for i, want := range []float64{(1 - mean) / sd, 0, (3 - mean) / sd, (8 - mean) / sd} {
		if !near(float64(in.Dense[2*i]), want, 1e-6) {
			t.Errorf("row %d: %v, want %v", i, in.Dense[2*i], want)
		}
		if in.Dense[2*i+1] != 0 {
			t.Errorf("row %d: a constant column gives %v", i, in.Dense[2*i+1])
		}
	}
}

func TestBuckets(t *testing.T) {
	schema := fields("x", arrow.PrimitiveTypes.Float64, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(tidemill.FeatureSpec{Column: "x", Bucketize: &tidemill.Bucketize{Edges: []float64{0, 1, 10}}}), schema)
	rows := batch(t, schema, `{"x":-0.1}`, `{"x":0}`, `{"x":0.99}`, `{"x":1}`, `{"x":10}`, `{"x":1e300}`, `{"x":null}`)
	in := inputs(t, p, rows, nil)
	seed := seedOf("x")
	for i, k := range []uint64{0, 1, 1, 2, 3, 3} {
		if one(t, in, i, 0) != hashNumber(seed, k) {
			t.Errorf("row %d is not in bucket %d", i, k)
		}
	}
	if one(t, in, 6, 0) != special(seed, tagNull) {
		t.Error("a null has no bucket of its own")
	}
	if got := fixedEdges(&tidemill.Bucketize{Geometric: []float64{1, 100, 3}}); len(got) != 3 || !near(got[1], 10, 1e-12) || got[2] != 100 {
		t.Errorf("geometric edges %v", got)
	}
	if got := fixedEdges(&tidemill.Bucketize{Uniform: []float64{0, 1, 5}}); !slices.Equal(got, []float64{0, 0.25, 0.5, 0.75, 1}) {
		t.Errorf("uniform edges %v", got)
	}
}

func TestQuantileEdges(t *testing.T) {
	for _, tc := range []struct {
		sample []float64
		q      int
		want   []float64
	}{
		{[]float64{4, 2, 3, 1}, 2, []float64{3}},
		{[]float64{1, 2, 3, 4, 5, 6, 7, 8}, 4, []float64{3, 5, 7}},
		{[]float64{0, 0, 0, 0, 0, 1, 2, 3}, 2, []float64{1}}, // many zeros: zero has its own bucket
		{[]float64{1, 5, 5, 5, 5, 5, 5, 9}, 4, []float64{5, 9}},
		{[]float64{7, 7, 7}, 3, nil},
	} {
		if got := quantileEdges(slices.Clone(tc.sample), tc.q); !slices.Equal(got, tc.want) {
			t.Errorf("%v into %d: %v, want %v", tc.sample, tc.q, got, tc.want)
		}
	}
}

func TestVocabularyAndHash(t *testing.T) {
	schema := fields("s", arrow.BinaryTypes.String, "n", arrow.PrimitiveTypes.Int16, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(
		tidemill.FeatureSpec{Name: "s", Column: "s", Vocabulary: &tidemill.Vocabulary{Values: []string{"a", "b"}}},
		tidemill.FeatureSpec{Name: "n", Column: "n", Vocabulary: &tidemill.Vocabulary{Values: []string{"1", "2.0"}}},
		tidemill.FeatureSpec{Name: "h", Column: "n", Hash: &tidemill.HashSpec{Buckets: 4}},
	), schema)
	var text []string
	for i := range 100 {
		text = append(text, fmt.Sprintf(`{"s":"%c","n":%d}`, 'a'+i%4, i))
	}
	in := inputs(t, p, batch(t, schema, append(text, `{"s":null,"n":null}`)...), nil)
	if one(t, in, 0, 0) == one(t, in, 1, 0) || one(t, in, 2, 0) != one(t, in, 3, 0) || one(t, in, 2, 0) != special(seedOf("s"), tagOther) {
		t.Error("known values do not have ids of their own, or unknown ones do")
	}
	if one(t, in, 2, 1) != hashNumber(seedOf("n"), 2) || one(t, in, 3, 1) != special(seedOf("n"), tagOther) {
		t.Error("numbers in a vocabulary are not compared by value")
	}
	seen := map[uint64]int{}
	for i := range 100 {
		seen[one(t, in, i, 2)]++
	}
	if len(seen) != 4 {
		t.Errorf("%d buckets", len(seen))
	}
	for f := range 3 {
		if one(t, in, 100, f) != special(seedOf(p.Shape().FieldNames[f]), tagNull) {
			t.Errorf("field %d: the null has no id of its own", f)
		}
	}
}

// A batch, its slices and a copy with the columns in another order and more of them yield
// the same inputs.
func TestSplitInvariance(t *testing.T) {
	s, schema := wideSpec(), wideSchema()
	p := compile(t, s, schema)
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(rt, "rows")
		text := make([]string, n)
		for i := range text {
			text[i] = drawRow(rt)
		}
		rows := batch(t, schema, text...)
		st := p.NewState()
		learn(t, p, st, rows)
		whole := inputs(t, p, rows, st)

		var parts engine.Inputs
		parts.Reset(whole.Fields, whole.Width)
		in, w := new(engine.Inputs), p.NewWorkspace()
		for lo := 0; lo < n; {
			hi := rapid.IntRange(lo+1, n).Draw(rt, "cut")
			part := rows.NewSlice(int64(lo), int64(hi))
			if err := p.Numeric(w, in, part, st); err != nil {
				rt.Fatal(err)
			}
			dense := slices.Clone(in.Dense)
			if err := p.Sparse(w, in, part, st); err != nil {
				rt.Fatal(err)
			}
			base := int32(len(parts.IDs))
			parts.IDs = append(parts.IDs, in.IDs...)
			for _, o := range in.Offsets[1:] {
				parts.Offsets = append(parts.Offsets, base+o)
			}
			parts.Dense = append(parts.Dense, dense...)
			part.Release()
			lo = hi
		}
		if !slices.Equal(parts.IDs, whole.IDs) || !slices.Equal(parts.Offsets, whole.Offsets) || !slices.Equal(parts.Dense, whole.Dense) {
			rt.Fatal("slices and the whole differ")
		}

		cols := []arrow.Array{rows.Column(0)}
		list := []arrow.Field{{Name: "new", Type: arrow.PrimitiveTypes.Float64}}
		for i := int(rows.NumCols()) - 1; i >= 0; i-- {
			cols, list = append(cols, rows.Column(i)), append(list, schema.Field(i))
		}
		turned := array.NewRecordBatch(arrow.NewSchema(list, nil), cols, int64(n))
		defer turned.Release()
		other := inputs(t, p, turned, st)
		if !slices.Equal(other.IDs, whole.IDs) || !slices.Equal(other.Dense, whole.Dense) {
			rt.Fatal("the order of columns matters")
		}
	})
}

func TestMissingAndWrongColumns(t *testing.T) {
	schema := fields("a", arrow.PrimitiveTypes.Float64, "b", arrow.BinaryTypes.String, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(tidemill.FeatureSpec{Column: "a"}, tidemill.FeatureSpec{Column: "b"}), schema)
	cols := p.Columns()
	if len(cols) != 2 || cols[0].Name != "a" || cols[1].Type.ID() != arrow.STRING {
		t.Errorf("columns %v", cols)
	}
	w, in := p.NewWorkspace(), new(engine.Inputs)
	noB := batch(t, fields("a", arrow.PrimitiveTypes.Float64), `{"a":1}`)
	if err := p.Sparse(w, in, noB, nil); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), `column "b" is missing`) {
		t.Errorf("missing text: %v", err)
	}
	if err := p.Numeric(w, in, noB, nil); err != nil {
		t.Errorf("numeric: %v", err)
	}
	if err := p.Labels(in, noB); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("missing label: %v", err)
	}
	swapped := batch(t, fields("a", arrow.BinaryTypes.String, "b", arrow.PrimitiveTypes.Float64), `{"a":"x","b":1}`)
	if err := p.Numeric(w, in, swapped, nil); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), `column "a"`) {
		t.Errorf("text for a number: %v", err)
	}
	if err := compile(t, wideSpec(), wideSchema()).Sparse(w, in, noB, nil); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("foreign workspace: %v", err)
	}
	if _, err := Compile(job(tidemill.FeatureSpec{Column: "c"}), schema); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("unknown column: %v", err)
	}
	if _, err := Compile(job(tidemill.FeatureSpec{Column: "a"}), nil); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("no schema: %v", err)
	}
}

func TestIDSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfDistinct(rapid.Uint64Range(0, 300), rapid.ID[uint64]).Draw(t, "ids")
		s := newIDSet(ids)
		for i, id := range ids {
			if s.get(id) != int32(i) {
				t.Fatalf("id %d is at %d, not %d", id, s.get(id), i)
			}
		}
		for id := range uint64(300) {
			if !slices.Contains(ids, id) && s.get(id) >= 0 {
				t.Fatalf("id %d was never put", id)
			}
		}
	})
}

// One plan, and one state that nobody writes, serve any number of goroutines.
func TestConcurrentUse(t *testing.T) {
	p := compile(t, wideSpec(), wideSchema())
	rows := batch(t, wideSchema(), `{"f64":1,"text":"a","dict":"b","words":"x y","list":[1,2],"y":1}`, `{"y":0}`)
	sub := rows.NewSlice(0, 2) // whose null counts nobody has taken yet
	defer sub.Release()
	st := p.NewState()
	want := inputs(t, p, rows, st)
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			w, in := p.NewWorkspace(), new(engine.Inputs)
			for range 50 {
				if bad := p.Check(sub, true); bad != nil {
					return fmt.Errorf("bad rows %v", bad)
				}
				if err := errors.Join(p.Sparse(w, in, sub, st), p.Numeric(w, in, sub, st), p.Labels(in, sub)); err != nil {
					return err
				}
				if !slices.Equal(in.IDs, want.IDs) {
					return errors.New("the inputs differ")
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
