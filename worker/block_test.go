package worker

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/spec"
)

// pieces is a source.Reader of rows that are there.
type pieces struct {
	rows []tidemill.Batch
	end  int64
}

func (p *pieces) Next(ctx context.Context, _ int) (tidemill.Batch, error) {
	if len(p.rows) == 0 {
		<-ctx.Done()
		return tidemill.Batch{}, ctx.Err()
	}
	b := p.rows[0]
	p.rows = p.rows[1:]
	return b, nil
}

func (p *pieces) Buffered() (int, int64) { return 0, p.end }
func (p *pieces) Position() int64        { return 0 }
func (p *pieces) Close() error           { return nil }

// However rows come in pieces and are cut into batches, with usable and unusable ones among them, a
// batch's inputs are those of its rows.
func TestBatchesOfBlocks(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "y", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms, Nullable: true},
		{Name: "x", Type: arrow.PrimitiveTypes.Float64}, {Name: "w", Type: arrow.PrimitiveTypes.Float32}, {Name: "c", Type: arrow.BinaryTypes.String},
	}, nil)
	rapid.Check(t, func(t *rapid.T) {
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		multi := ""
		if rapid.Bool().Draw(t, "words") {
			multi = "multi_hot: {}"
		} else {
			multi = "hash: {}"
		}
		weight := ""
		if rapid.Bool().Draw(t, "weights") {
			weight = "weight: w\n"
		}
		doc, err := spec.Parse(fmt.Appendf(nil, `model: m
stream: {topic: m}
label: {column: y, positive: 1, negative: 0}
time: {column: ts}
%sfeatures: [{name: x, column: x}, {name: b, column: x, bucketize: {uniform: [0, 1, 3]}}, {name: c, column: c, %s}]
architecture: {kind: logistic}
`, weight, multi), "m.yaml")
		if err != nil {
			t.Fatal(err)
		}
		m, err := model.Compile(doc.Spec, schema)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(1, 60).Draw(t, "rows")
		bad := map[int]bool{} // in half of the streams
		if rapid.Bool().Draw(t, "bad") {
			bad[rapid.IntRange(0, n-1).Draw(t, "bad row")] = true
		}
		rb := array.NewRecordBuilder(mem, schema)
		for i := range n {
			label := int64(rapid.IntRange(0, 1).Draw(t, "label"))
			if bad[i] {
				label = 7
			}
			rb.Field(0).(*array.Int64Builder).Append(label)
			if rapid.Bool().Draw(t, "time") {
				rb.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(rapid.IntRange(1, 50).Draw(t, "ms")))
			} else {
				rb.Field(1).AppendNull()
			}
			rb.Field(2).(*array.Float64Builder).Append(rapid.Float64Range(-1, 2).Draw(t, "x"))
			rb.Field(3).(*array.Float32Builder).Append(rapid.Float32Range(0, 2).Draw(t, "w"))
			rb.Field(4).(*array.StringBuilder).Append(rapid.SampledFrom([]string{"", "a", "b", "a b", "c a d"}).Draw(t, "c"))
		}
		all := rb.NewRecordBatch()
		rb.Release()
		in := &pieces{end: int64(n)}
		for at := 0; at < n; {
			k := min(n-at, rapid.IntRange(1, 20).Draw(t, "piece"))
			in.rows = append(in.rows, tidemill.Batch{Range: tidemill.Range{First: int64(at), Next: int64(at + k)}, Rows: all.NewSlice(int64(at), int64(at+k))})
			at += k
		}
		o := &loop{w: New(Config{}), m: m}
		o.in = &reading{rows: newReadAhead(context.Background(), in, m.Plan, 4, 0, int64(n))}
		b := newBatcher(o, &tidemill.Assignment{Shards: []tidemill.Owner{{Member: "a"}}})
		for at := 0; at < n; {
			k := min(n-at, rapid.IntRange(1, 25).Draw(t, "batch"))
			rng := tidemill.Range{First: int64(at), Next: int64(at + k)}
			if err := b.begin(t.Context(), Batch{Range: rng}); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "separate") {
				if err := b.separate(); err != nil {
					t.Fatal(err)
				}
			}
			if !b.made {
				if err := m.Plan.Numeric(b.ws, b.in, b.rec, nil); err != nil {
					t.Fatal(err)
				}
				if err := m.Plan.Labels(b.in, b.rec); err != nil {
					t.Fatal(err)
				}
			}
			part := all.NewSlice(int64(at), int64(at+k))
			checked := m.Plan.Check(part, true)
			if len(checked) != len(b.bad) {
				t.Fatalf("%v: %d rows put aside, want %d", rng, len(b.bad), len(checked))
			}
			if len(checked) == 0 {
				var want engine.Inputs
				ws := m.Plan.NewWorkspace()
				if m.Plan.Sparse(ws, &want, part, nil) != nil || m.Plan.Numeric(ws, &want, part, nil) != nil || m.Plan.Labels(&want, part) != nil {
					t.Fatal("the rows cannot be used")
				}
				got := b.in
				if got.N != want.N || got.Fields != want.Fields || got.Width != want.Width || len(got.Values) != 0 ||
					!slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Offsets, want.Offsets) || !slices.Equal(got.Dense, want.Dense) ||
					!slices.Equal(got.Labels, want.Labels) || !slices.Equal(got.Weights, want.Weights) {
					t.Fatalf("%v: inputs %+v, want %+v", rng, *got, want)
				}
				if err := got.Check(true); err != nil {
					t.Fatal(err)
				}
				if _, newest, _ := m.Plan.EventTimes(part); b.made && b.newest != newest {
					t.Fatalf("%v: newest event time %d, want %d", rng, b.newest, newest)
				}
			}
			part.Release()
			at += k
		}
		b.prepared.release()
		b.spare.release()
		o.in.rows.close()
		all.Release()
		mem.AssertSize(fatal{t}, 0)
	})
}

// fatal makes a rapid.T what the allocator reports to.
type fatal struct{ *rapid.T }

func (f fatal) Helper() {}
