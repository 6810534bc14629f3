package worker

import (
	"context"
	"errors"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/spec"
)

// newTestBatcher returns a batcher of two parameter servers whose partition holds rows 0 to 7.
func newTestBatcher(t *testing.T) *batcher {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}, {Name: "y", Type: arrow.PrimitiveTypes.Int64}}, nil)
	rb := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer rb.Release()
	rb.Field(0).(*array.Int64Builder).AppendValues([]int64{0, 1, 2, 3, 4, 5, 6, 7}, nil)
	rb.Field(1).(*array.Int64Builder).AppendValues([]int64{0, 1, 0, 1, 0, 1, 0, 1}, nil)
	doc, err := spec.Parse([]byte(`model: m
stream: {topic: m}
label: {column: y, positive: 1}
features: [{name: id, column: id, hash: {}}]
architecture: {kind: logistic}
`), "m.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Compile(doc.Spec, schema)
	if err != nil {
		t.Fatal(err)
	}
	o := &loop{w: New(Config{}), m: m}
	o.in = &reading{rows: &readAhead{pieces: make(chan piece), have: []*block{{Batch: tidemill.Batch{Range: tidemill.Range{First: 0, Next: 8}, Rows: rb.NewRecordBatch()}, refs: 1}}}}
	return newBatcher(o, &tidemill.Assignment{Shards: []tidemill.Owner{{Member: "a"}, {Member: "b"}}})
}

// A push that is repeated prepares the next batch once more; its rows are not read again.
func TestPreparedAheadTwice(t *testing.T) {
	b := newTestBatcher(t)
	ctx := t.Context()
	first, second, third := tidemill.Range{First: 0, Next: 2}, tidemill.Range{First: 2, Next: 4}, tidemill.Range{First: 4, Next: 6}
	if err := b.begin(ctx, Batch{Range: first}); err != nil {
		t.Fatal(err)
	}
	b.ahead(ctx, second)
	b.ahead(ctx, second)
	if err := b.begin(ctx, Batch{Range: second}); err != nil {
		t.Fatal(err)
	}
	ids := b.rec.Column(0).(*array.Int64).Int64Values()
	if b.kept() != 2 || ids[0] != 2 || ids[1] != 3 {
		t.Errorf("the second batch holds %v", ids)
	}
	b.ahead(ctx, third)
	if err := b.begin(ctx, Batch{Range: third}); err != nil {
		t.Fatal(err)
	}
}

// What fails ahead is said, as it was, when the batch is begun; what was only cut short is tried again.
func TestPreparedAheadFails(t *testing.T) {
	b := newTestBatcher(t)
	rng := tidemill.Range{First: 8, Next: 9}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	b.ahead(cut, rng)
	planted := errors.New("planted")
	b.o.in.rows.pieces = make(chan piece, 1)
	b.o.in.rows.pieces <- piece{err: planted}
	b.ahead(t.Context(), rng)
	b.ahead(t.Context(), rng)
	if err := b.begin(t.Context(), Batch{Range: rng}); !errors.Is(err, planted) {
		t.Errorf("begun with %v", err)
	}
}
