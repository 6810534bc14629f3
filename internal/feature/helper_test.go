package feature

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// batch builds a record batch from JSON rows.
func batch(t testing.TB, schema *arrow.Schema, rows ...string) arrow.RecordBatch {
	t.Helper()
	rec, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader("["+strings.Join(rows, ",")+"]"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Release)
	return rec
}

func fields(pairs ...any) *arrow.Schema {
	var list []arrow.Field
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, arrow.Field{Name: pairs[i].(string), Type: pairs[i+1].(arrow.DataType), Nullable: true})
	}
	return arrow.NewSchema(list, nil)
}

// job is a spec with a binary label y and the given features.
func job(features ...tidemill.FeatureSpec) *tidemill.Spec {
	return &tidemill.Spec{Model: "m", Stream: tidemill.StreamSpec{Topic: "t"}, Label: tidemill.LabelSpec{Column: "y"}, Features: features}
}

func compile(t testing.TB, s *tidemill.Spec, schema *arrow.Schema) *Plan {
	t.Helper()
	p, err := Compile(s, schema)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inputs runs Sparse and Numeric on rows.
func inputs(t testing.TB, p *Plan, rows arrow.RecordBatch, st *State) *engine.Inputs {
	t.Helper()
	in := new(engine.Inputs)
	w := p.NewWorkspace()
	if err := p.Sparse(w, in, rows, st); err != nil {
		t.Fatal(err)
	}
	if err := p.Numeric(w, in, rows, st); err != nil {
		t.Fatal(err)
	}
	if in.N != int(rows.NumRows()) || len(in.Offsets) != in.N*in.Fields+1 || len(in.Dense) != in.N*in.Width || int(in.Offsets[len(in.Offsets)-1]) != len(in.IDs) {
		t.Fatalf("inputs of inconsistent lengths: N %d, %d offsets, %d ids, %d dense", in.N, len(in.Offsets), len(in.IDs), len(in.Dense))
	}
	return in
}

// at returns the ids of a field of a row.
func at(in *engine.Inputs, row, field int) []uint64 {
	k := row*in.Fields + field
	return in.IDs[in.Offsets[k]:in.Offsets[k+1]]
}

// one returns the only id of a field of a row.
func one(t testing.TB, in *engine.Inputs, row, field int) uint64 {
	t.Helper()
	ids := at(in, row, field)
	if len(ids) != 1 {
		t.Fatalf("row %d field %d has %d ids", row, field, len(ids))
	}
	return ids[0]
}

// learn merges the delta of rows into st.
func learn(t testing.TB, p *Plan, st *State, rows arrow.RecordBatch) {
	t.Helper()
	delta, err := p.AppendDelta(nil, p.NewWorkspace(), rows)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Merge(delta); err != nil {
		t.Fatal(err)
	}
}

func near(a, b, tolerance float64) bool {
	return math.Abs(a-b) <= tolerance*max(1, math.Abs(a), math.Abs(b))
}

// wideSpec uses every transform; wideSchema has its columns.
func wideSpec() *tidemill.Spec {
	impute := 2.5
	s := job(
		tidemill.FeatureSpec{Name: "plain", Column: "f64"},
		tidemill.FeatureSpec{Name: "imputed", Column: "f32", Impute: &impute, Clip: []float64{-4, 4}},
		tidemill.FeatureSpec{Name: "log", Column: "i64", Log1p: true, Standardize: &tidemill.Standardize{}},
		tidemill.FeatureSpec{Name: "std", Column: "f64", Standardize: &tidemill.Standardize{}},
		tidemill.FeatureSpec{Name: "when", Column: "ts"},
		tidemill.FeatureSpec{Name: "edges", Column: "f64", Bucketize: &tidemill.Bucketize{Edges: []float64{-1, 0, 0.5, 3}}},
		tidemill.FeatureSpec{Name: "quant", Column: "f64", Clip: []float64{-50, 50}, Bucketize: &tidemill.Bucketize{Quantiles: 4, LearnRows: 20}},
		tidemill.FeatureSpec{Name: "moving", Column: "i64", Standardize: &tidemill.Standardize{}, Bucketize: &tidemill.Bucketize{Uniform: []float64{-2, 2, 5}}},
		tidemill.FeatureSpec{Name: "text", Column: "text"},
		tidemill.FeatureSpec{Name: "few", Column: "text", Hash: &tidemill.HashSpec{Buckets: 3}},
		tidemill.FeatureSpec{Name: "known", Column: "dict", Vocabulary: &tidemill.Vocabulary{Values: []string{"a", "b"}}},
		tidemill.FeatureSpec{Name: "learned", Column: "text", Vocabulary: &tidemill.Vocabulary{LearnRows: 15, MaxSize: 2}},
		tidemill.FeatureSpec{Name: "number", Column: "i64", Hash: &tidemill.HashSpec{}},
		tidemill.FeatureSpec{Name: "flag", Column: "bool", Hash: &tidemill.HashSpec{}},
		tidemill.FeatureSpec{Name: "words", Column: "words", MultiHot: &tidemill.MultiHot{Max: 4}},
		tidemill.FeatureSpec{Name: "list", Column: "list", MultiHot: &tidemill.MultiHot{}},
		tidemill.FeatureSpec{Name: "topics", Column: "words", MultiHot: &tidemill.MultiHot{}, Vocabulary: &tidemill.Vocabulary{LearnRows: 10}},
		tidemill.FeatureSpec{Cross: []string{"edges", "text"}},
		tidemill.FeatureSpec{Cross: []string{"list", "quant", "words"}},
	)
	s.Weight = "weight"
	s.Time.Column = "ts"
	return s
}

func wideSchema() *arrow.Schema {
	return fields(
		"f64", arrow.PrimitiveTypes.Float64, "f32", arrow.PrimitiveTypes.Float32, "i64", arrow.PrimitiveTypes.Int64,
		"ts", arrow.FixedWidthTypes.Timestamp_us, "text", arrow.BinaryTypes.String,
		"dict", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String},
		"bool", arrow.FixedWidthTypes.Boolean, "words", arrow.BinaryTypes.LargeString, "list", arrow.ListOf(arrow.PrimitiveTypes.Int32),
		"weight", arrow.PrimitiveTypes.Float32, "y", arrow.PrimitiveTypes.Int8)
}

// drawRow draws a JSON row of wideSchema; any feature column may be null.
func drawRow(t *rapid.T) string {
	maybe := func(name, v string) string {
		if rapid.IntRange(0, 6).Draw(t, name+" null") == 0 {
			return "null"
		}
		return v
	}
	word := rapid.SampledFrom([]string{"a", "b", "c", "", "ä", "long long word"})
	number := rapid.Float64Range(-100, 100)
	list := rapid.SliceOfN(rapid.Int32Range(0, 5), 0, 8).Draw(t, "list")
	return fmt.Sprintf(`{"f64":%s,"f32":%s,"i64":%s,"ts":%s,"text":%s,"dict":%s,"bool":%s,"words":%s,"list":%s,"weight":%s,"y":%d}`,
		maybe("f64", fmt.Sprint(number.Draw(t, "f64"))), maybe("f32", fmt.Sprint(float32(number.Draw(t, "f32")))),
		maybe("i64", fmt.Sprint(rapid.Int32().Draw(t, "i64"))), maybe("ts", fmt.Sprint(rapid.Int32().Draw(t, "ts"))),
		maybe("text", fmt.Sprintf("%q", word.Draw(t, "text"))), maybe("dict", fmt.Sprintf("%q", word.Draw(t, "dict"))),
		maybe("bool", fmt.Sprint(rapid.Bool().Draw(t, "bool"))),
		maybe("words", fmt.Sprintf("%q", strings.Join(rapid.SliceOfN(word, 0, 6).Draw(t, "words"), " "))),
		maybe("list", strings.ReplaceAll(fmt.Sprint(list), " ", ",")), maybe("weight", fmt.Sprint(rapid.Float32Range(0, 3).Draw(t, "weight"))),
		rapid.IntRange(0, 1).Draw(t, "y"))
}
