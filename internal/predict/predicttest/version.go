// Package predicttest makes small real versions for tests: a logistic model over a number, a
// category and their cross, with weights drawn from a seed.
package predicttest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// Schema is that of the stream: price and count are numbers, city text, flag a bool, y the
// label.
func Schema() *arrow.Schema {
	return arrow.NewSchema([]arrow.Field{
		{Name: "price", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "count", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "city", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "y", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	}, nil)
}

// Spec is the job's.
func Spec(name string) tidemill.Spec {
	return tidemill.Spec{
		Model: name, Stream: tidemill.StreamSpec{Topic: name},
		Label: tidemill.LabelSpec{Column: "y", Type: tidemill.Binary, Positive: []string{"1"}},
		Features: []tidemill.FeatureSpec{
			{Name: "price", Column: "price"},
			{Name: "bucket", Column: "price", Bucketize: &tidemill.Bucketize{Uniform: []float64{0, 1, 11}}},
			{Name: "count", Column: "count", Log1p: true},
			{Name: "city", Column: "city", Hash: &tidemill.HashSpec{}},
			{Name: "flag", Column: "flag", Hash: &tidemill.HashSpec{}},
			{Name: "city_x_bucket", Cross: []string{"city", "bucket"}},
		},
		Architecture: tidemill.Architecture{Kind: tidemill.Logistic},
		Optimizer:    tidemill.OptimizerSpec{Sparse: tidemill.OptimizerChoice{Kind: tidemill.SGD}, Dense: tidemill.OptimizerChoice{Kind: tidemill.SGD}},
		Seed:         7, Shards: tidemill.DefaultShards,
		Serve: tidemill.ServeSpec{MaxBatch: 1024, Keep: 2},
	}
}

// Rows returns n rows drawn from seed, with labels. The caller releases them.
func Rows(n int, seed uint64) arrow.RecordBatch {
	r := rand.New(rand.NewPCG(seed, 1))
	b := array.NewRecordBuilder(memory.DefaultAllocator, Schema())
	defer b.Release()
	for range n {
		b.Field(0).(*array.Float64Builder).Append(r.Float64())
		b.Field(1).(*array.Int64Builder).Append(r.Int64N(1000))
		b.Field(2).(*array.StringBuilder).Append([]string{"Oslo", "Lima", "Riga", "Atlantis"}[r.IntN(4)])
		b.Field(3).(*array.BooleanBuilder).Append(r.IntN(2) == 0)
		b.Field(4).(*array.Int64Builder).Append(r.Int64N(2))
	}
	return b.NewRecordBatch()
}

// Files returns version number of a model, its weights drawn from the number, with probes.
func Files(tb testing.TB, name string, number int64) *snapshot.VersionFiles {
	tb.Helper()
	spec := Spec(name)
	return Make(tb, spec, number)
}

// Make returns a version of any binary spec over Schema.
func Make(tb testing.TB, spec tidemill.Spec, number int64) *snapshot.VersionFiles {
	tb.Helper()
	m, err := model.Compile(&spec, Schema())
	if err != nil {
		tb.Fatal(err)
	}
	schema, err := model.EncodeSchema(Schema())
	if err != nil {
		tb.Fatal(err)
	}
	f := &snapshot.VersionFiles{
		Version: tidemill.Version{
			Model: spec.Model, Number: number, Job: spec.Model, Lineage: "1", Cut: tidemill.Cut{number * 100}, SpecHash: spec.Hash(),
			Created: time.Unix(1700000000+number, 0).UTC(), Profile: m.Engine.Profile(),
		},
		Spec: spec, SchemaIPC: schema,
	}
	if m.Plan.Learns() {
		if f.Transforms, err = m.Plan.NewState().AppendBinary(nil); err != nil {
			tb.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(uint64(number), 2))
	rows := Rows(200, 3)
	defer rows.Release()
	var in engine.Inputs
	state, err := m.Plan.LoadState(f.Transforms)
	if !m.Plan.Learns() {
		state, err = nil, nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	if err := m.Plan.Sparse(m.Plan.NewWorkspace(), &in, rows, state); err != nil {
		tb.Fatal(err)
	}
	for t, look := range engine.Lookups(nil, &engine.Scratch{}, &in, m.Engine) {
		table := snapshot.Frozen{TableSpec: m.Layout.Tables[t].TableSpec}
		for _, id := range look.Unique {
			if id%4 != 0 { // some ids stay unknown
				table.IDs = append(table.IDs, id)
			}
		}
		for range len(table.IDs) * table.Dim {
			table.Weights = append(table.Weights, float32(r.NormFloat64()))
		}
		f.Tables = append(f.Tables, table)
	}
	for _, t := range m.Layout.Tensors {
		v := snapshot.FrozenTensor{TensorSpec: t.TensorSpec}
		for range t.Len() {
			v.Values = append(v.Values, float32(r.NormFloat64()))
		}
		f.Tensors = append(f.Tensors, v)
	}
	probes := Rows(16, 5)
	defer probes.Release()
	if f.Probes.Rows, err = predict.EncodeRows(probes); err != nil {
		tb.Fatal(err)
	}
	loaded, err := predict.Load(f)
	if err != nil {
		tb.Fatal(err)
	}
	if f.Probes.Expected, err = loaded.NewScorer().Predict(nil, probes); err != nil {
		tb.Fatal(err)
	}
	return f
}
