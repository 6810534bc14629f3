package feature

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

func TestCheckAndDrop(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	schema := fields("x", arrow.PrimitiveTypes.Float64, "z", arrow.PrimitiveTypes.Float32, "s", arrow.BinaryTypes.String,
		"w", arrow.PrimitiveTypes.Float64, "t", arrow.BinaryTypes.String, "y", arrow.BinaryTypes.String, "id", arrow.PrimitiveTypes.Int64)
	s := job(tidemill.FeatureSpec{Column: "x"}, tidemill.FeatureSpec{Name: "z", Column: "z", Log1p: true}, tidemill.FeatureSpec{Column: "s"})
	s.Label.Positive, s.Label.Negative = []string{"up"}, []string{"down"}
	s.Weight, s.Time.Column = "w", "t"
	p := compile(t, s, schema)
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	nan, inf := math.NaN(), math.Inf(1)
	for i, r := range []struct {
		x      float64
		z      float32
		s      string
		w      float64
		t, y   string
		xValid bool
	}{
		{1, 1, "a", 1, "2024-01-01T00:00:00Z", "up", true},
		{nan, 1, "a", 1, "2024-01-01T00:00:00Z", "up", true},
		{nan, 1, "a", 1, "2024-01-01T00:00:00Z", "up", false}, // NaN beneath a null
		{1e300, 1, "a", 1, "2024-01-01T00:00:00Z", "up", true},
		{1, float32(inf), "a", 1, "2024-01-01T00:00:00Z", "up", true},
		{1, 1, "\xff", 1, "2024-01-01T00:00:00Z", "up", true},
		{1, 1, "a", -1, "2024-01-01T00:00:00Z", "up", true},
		{1, 1, "a", inf, "2024-01-01T00:00:00Z", "up", true},
		{1, 1, "a", 0, "yesterday", "up", true},
		{1, 1, "a", 0, "2024-01-01T00:00:00Z", "sideways", true},
		{1, math.MaxFloat32, "a", 0, "2024-01-01T00:00:00Z", "down", true},
		{nan, 1, "\xff", -1, "x", "x", true}, // one report for one row
	} {
		if r.xValid {
			b.Field(0).(*array.Float64Builder).Append(r.x)
		} else {
			b.Field(0).AppendNull()
		}
		b.Field(1).(*array.Float32Builder).Append(r.z)
		b.Field(2).(*array.StringBuilder).Append(r.s)
		b.Field(3).(*array.Float64Builder).Append(r.w)
		b.Field(4).(*array.StringBuilder).Append(r.t)
		b.Field(5).(*array.StringBuilder).Append(r.y)
		b.Field(6).(*array.Int64Builder).Append(int64(i))
	}
	rows := b.NewRecordBatch()
	defer rows.Release()
	bad := p.Check(rows, true)
	type at struct {
		row    int
		column string
		reason string
	}
	want := []at{{1, "x", "not a finite number"}, {3, "x", "too large"}, {4, "z", "not a finite number"}, {5, "s", "not UTF-8"},
		{6, "w", "weight -1"}, {7, "w", "weight +Inf"}, {8, "t", "not an RFC 3339 time"}, {9, "y", `label "sideways" is none`}, {11, "x", "finite"}}
	if len(bad) != len(want) {
		t.Fatalf("got %+v", bad)
	}
	for i, b := range bad {
		if b.Row != want[i].row || b.Column != want[i].column || !strings.Contains(b.Reason, want[i].reason) {
			t.Errorf("got %+v, want %+v", b, want[i])
		}
	}
	if serving := p.Check(rows, false); len(serving) != 5 {
		t.Errorf("serving: %+v", serving)
	}
	sub := rows.NewSlice(3, 6)
	if shifted := p.Check(sub, true); len(shifted) != 3 || shifted[0].Row != 0 {
		t.Errorf("slice: %+v", shifted)
	}
	sub.Release()

	for _, tc := range []struct {
		bad  []int
		want []int64
	}{
		{nil, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, {[]int{0}, []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{[]int{11, 11}[:1], []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, {[]int{1, 3, 4, 5, 6, 7, 8, 9, 11}, []int64{0, 2, 10}},
		{[]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, nil},
	} {
		var list []BadRow
		for _, r := range tc.bad {
			list = append(list, BadRow{Row: r})
		}
		kept := Drop(rows, list)
		if got := kept.Column(6).(*array.Int64).Int64Values(); !slices.Equal(got, tc.want) || kept.NumRows() != int64(len(tc.want)) {
			t.Errorf("without %v: %v", tc.bad, got)
		}
		kept.Release()
	}
	good := Drop(rows, bad)
	defer good.Release()
	if rest := p.Check(good, true); rest != nil {
		t.Errorf("after Drop: %+v", rest)
	}
	in := new(engine.Inputs)
	if err := p.Labels(in, good); err != nil || !slices.Equal(in.Labels, []float32{1, 1, 0}) || !slices.Equal(in.Weights, []float32{1, 1, 0}) {
		t.Errorf("labels %v weights %v, %v", in.Labels, in.Weights, err)
	}
	if err := p.Labels(in, rows); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("bad rows have labels: %v", err)
	}
}

func TestCheckLists(t *testing.T) {
	schema := fields("l", arrow.ListOf(arrow.BinaryTypes.String), "y", arrow.PrimitiveTypes.Int8)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	l := b.Field(0).(*array.ListBuilder)
	v := l.ValueBuilder().(*array.StringBuilder)
	l.Append(true)
	v.AppendValues([]string{"a", "b"}, nil)
	l.Append(true)
	v.AppendValues([]string{"a", "\xc3"}, nil)
	l.AppendNull()
	b.Field(1).(*array.Int8Builder).AppendValues([]int8{1, 0, 1}, nil)
	rows := b.NewRecordBatch()
	defer rows.Release()
	p := compile(t, job(tidemill.FeatureSpec{Column: "l", MultiHot: &tidemill.MultiHot{}}), schema)
	if bad := p.Check(rows, true); len(bad) != 1 || bad[0].Row != 1 {
		t.Errorf("got %+v", bad)
	}
}

func TestLabels(t *testing.T) {
	four := 4.0
	str, i8, f64 := arrow.BinaryTypes.String, arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Float64
	nan := float32(math.NaN())
	tests := []struct {
		name string
		spec tidemill.LabelSpec
		dt   arrow.DataType
		rows []string
		want []float32 // NaN: a bad row
	}{
		{"default", tidemill.LabelSpec{}, i8, []string{"1", "0", "2", "null"}, []float32{1, 0, nan, nan}},
		{"default bool", tidemill.LabelSpec{}, arrow.FixedWidthTypes.Boolean, []string{"true", "false", "null"}, []float32{1, 0, nan}},
		{"positive", tidemill.LabelSpec{Positive: []string{"1.0", "2"}}, f64, []string{"1", "2", "3", "null"}, []float32{1, 1, 0, nan}},
		{"negative", tidemill.LabelSpec{Negative: []string{"normal"}}, str, []string{`"normal"`, `"smurf"`, `""`, "null"}, []float32{0, 1, 1, nan}},
		{"both", tidemill.LabelSpec{Positive: []string{"y"}, Negative: []string{"n"}}, str, []string{`"y"`, `"n"`, `"?"`}, []float32{1, 0, nan}},
		{"dictionary", tidemill.LabelSpec{Positive: []string{"y"}}, &arrow.DictionaryType{IndexType: i8, ValueType: str}, []string{`"y"`, `"n"`, "null"}, []float32{1, 0, nan}},
		{"at least", tidemill.LabelSpec{AtLeast: &four}, i8, []string{"3", "4", "5", "null"}, []float32{0, 1, 1, nan}},
		{"regression", tidemill.LabelSpec{Type: tidemill.Regression}, f64, []string{"1.5", "-2", "1e300", "null"}, []float32{1.5, -2, nan, nan}},
		{"multiclass", tidemill.LabelSpec{Type: tidemill.Multiclass, Classes: []string{"b", "a", "c"}}, str, []string{`"a"`, `"c"`, `"b"`, `"d"`}, []float32{1, 2, 0, nan}},
		{"classes of numbers", tidemill.LabelSpec{Type: tidemill.Multiclass, Classes: []string{"5", "1"}}, i8, []string{"1", "5", "3"}, []float32{1, 0, nan}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			schema := fields("x", i8, "y", tc.dt)
			s := job(tidemill.FeatureSpec{Column: "x"})
			tc.spec.Column = "y"
			s.Label = tc.spec
			p := compile(t, s, schema)
			if got := p.Shape().Outputs; got != max(1, len(tc.spec.Classes)) {
				t.Errorf("%d outputs", got)
			}
			var text []string
			for _, v := range tc.rows {
				text = append(text, `{"x":1,"y":`+v+`}`)
			}
			rows := batch(t, schema, text...)
			var bad []int
			var want []float32
			for i, v := range tc.want {
				if v != v {
					bad = append(bad, i)
				} else {
					want = append(want, v)
				}
			}
			found := p.Check(rows, true)
			var got []int
			for _, b := range found {
				got = append(got, b.Row)
			}
			if !reflect.DeepEqual(got, bad) {
				t.Errorf("bad rows %+v, want %v", found, bad)
			}
			if p.Check(rows, false) != nil {
				t.Error("labels matter when serving")
			}
			in := new(engine.Inputs)
			if err := p.Labels(in, Drop(rows, found)); err != nil || !slices.Equal(in.Labels, want) || len(in.Weights) != 0 {
				t.Errorf("labels %v, want %v, %v", in.Labels, want, err)
			}
		})
	}
}

// A weight column added later is null in older rows, which count as before.
func TestNullWeight(t *testing.T) {
	schema := fields("x", arrow.PrimitiveTypes.Int8, "w", arrow.PrimitiveTypes.Int32, "y", arrow.PrimitiveTypes.Int8)
	s := job(tidemill.FeatureSpec{Column: "x"})
	s.Weight = "w"
	p := compile(t, s, schema)
	rows := batch(t, schema, `{"x":1,"w":null,"y":1}`, `{"x":1,"w":3,"y":1}`)
	in := new(engine.Inputs)
	if err := p.Labels(in, rows); err != nil || !slices.Equal(in.Weights, []float32{1, 3}) || p.Check(rows, true) != nil {
		t.Errorf("weights %v, %v", in.Weights, err)
	}
}
