package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// Open returns an empty stream, whose arrays come from mem, and closes it by t.Cleanup.
type Open func(t *testing.T, mem memory.Allocator) source.Stream

// Options say what else a driver can do.
type Options struct {
	// Reopen closes s and whatever serves it, and returns a stream on the same storage; nil
	// for a driver that keeps nothing.
	Reopen func(t *testing.T, s source.Stream, mem memory.Allocator) source.Stream
	// Full opens a stream that holds at least 256 KiB and at most 8 MiB of rows; nil for a
	// driver without bounds.
	Full Open
}

// Run runs the suite.
func Run(t *testing.T, open Open, opts Options) {
	for _, c := range []struct {
		name string
		f    func(*env)
	}{
		{"CreateOpenDelete", testCreate},
		{"Refusals", testRefusals},
		{"AppendRead", testAppendRead},
		{"EveryType", testEveryType},
		{"BadText", testBadText},
		{"CutAnywhere", testCutAnywhere},
		{"AnyOffset", testAnyOffset},
		{"ConcurrentProducers", testConcurrent},
		{"Keys", testKeys},
		{"KeysProperty", testKeysProperty},
		{"KeysFollow", testFollow},
		{"OverlappingProducers", testOverlap},
		{"Evolve", testEvolve},
		{"EvolveWhileReading", testEvolveWhileReading},
		{"WaitsAtTail", testWaits},
		{"PositionAndBuffered", testPosition},
		{"OffsetAt", testOffsetAt},
		{"Retain", testRetain},
		{"Grow", testGrow},
		{"Deleted", testDeleted},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(newEnv(t, open)) })
	}
	if opts.Reopen != nil {
		t.Run("ReopenGrown", func(t *testing.T) { testReopenGrown(newEnv(t, open), opts.Reopen) })
		t.Run("Reopen", func(t *testing.T) { testReopen(newEnv(t, open), opts.Reopen) })
	}
	if opts.Full != nil {
		RunFull(t, opts.Full)
	}
}

// RunFull runs the part of the suite that fills a stream, for a driver that has several
// kinds of bound. open is as Options.Full.
func RunFull(t *testing.T, open Open) {
	t.Run("Full", func(t *testing.T) { testFull(newEnv(t, open)) })
	t.Run("FullDropsWhatNobodyNeeds", func(t *testing.T) { testFullRetain(newEnv(t, open)) })
}

// env is one test's stream and what it needs to talk to it.
type env struct {
	*testing.T
	ctx context.Context
	mem *memory.CheckedAllocator
	s   source.Stream
}

func newEnv(t *testing.T, open Open) *env {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { mem.AssertSize(t, 0) }) // runs after the stream was closed
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return &env{T: t, ctx: ctx, mem: mem, s: open(t, mem)}
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// is fails unless err is of kind.
func (e *env) is(err, kind error) {
	e.Helper()
	if !errors.Is(err, kind) {
		e.Fatalf("got error %v, want one that is %q", err, kind)
	}
}

// Schema of the suite's rows: everything is a function of the id.
var baseSchema = arrow.NewSchema([]arrow.Field{
	{Name: "id", Type: arrow.PrimitiveTypes.Int64},
	{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "even", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "items", Type: arrow.ListOf(arrow.PrimitiveTypes.Int64), Nullable: true},
}, nil)

// wideSchema is baseSchema evolved.
var wideSchema = arrow.NewSchema(append(baseSchema.Fields(),
	arrow.Field{Name: "extra", Type: arrow.PrimitiveTypes.Int64, Nullable: true}), nil)

// rows makes n rows with ids from first on; pad adds that many bytes to each name.
func (e *env) rows(schema *arrow.Schema, first int64, n, pad int) arrow.RecordBatch {
	b := array.NewRecordBuilder(e.mem, schema)
	defer b.Release()
	padding := make([]byte, pad)
	for i := range padding {
		padding[i] = byte('a' + i%26)
	}
	for i := range int64(n) {
		id := first + i
		b.Field(0).(*array.Int64Builder).Append(id)
		if id%7 == 3 {
			b.Field(1).AppendNull()
		} else {
			b.Field(1).(*array.Float64Builder).Append(float64(id) / 4)
		}
		b.Field(2).(*array.StringBuilder).Append(fmt.Sprintf("row %d%s", id, padding))
		b.Field(3).(*array.BooleanBuilder).Append(id%2 == 0)
		items := b.Field(4).(*array.ListBuilder)
		items.Append(true)
		for k := range id % 3 {
			items.ValueBuilder().(*array.Int64Builder).Append(id + k)
		}
		if schema.NumFields() > 5 {
			b.Field(5).(*array.Int64Builder).Append(-id)
		}
	}
	return b.NewRecordBatch()
}

func (e *env) topic(name string, partitions int) source.Topic {
	e.Helper()
	t, err := e.s.Create(e.ctx, name, partitions, baseSchema)
	e.must(err)
	return t
}

// append adds rows with ids from first on.
func (e *env) append(t source.Topic, p int, first int64, n int, key string) tidemill.Range {
	e.Helper()
	rec := e.rows(baseSchema, first, n, 0)
	defer rec.Release()
	r, err := t.Append(e.ctx, p, rec, key)
	e.must(err)
	return r
}

func (e *env) reader(t source.Topic, p int, offset int64) source.Reader {
	e.Helper()
	r, err := t.Reader(e.ctx, p, offset)
	e.must(err)
	e.Cleanup(func() { r.Close() })
	return r
}

// read takes n rows in batches of at most limit and returns their ids; it checks every
// value against its id and the batches against each other.
func (e *env) read(r source.Reader, n, limit int) []int64 {
	e.Helper()
	var ids []int64
	for len(ids) < n {
		at := r.Position()
		b, err := r.Next(e.ctx, min(limit, n-len(ids)))
		e.must(err)
		if b.Rows.NumRows() < 1 || b.Rows.NumRows() > int64(limit) {
			e.Fatalf("a batch of %d rows, limit %d", b.Rows.NumRows(), limit)
		}
		if b.Range.First < at || b.Offset(0) < at || b.Range.Next != r.Position() {
			e.Fatalf("batch %v read at %d, position afterwards %d", b.Range, at, r.Position())
		}
		if b.Offsets == nil && b.Range.Next-b.Range.First != b.Rows.NumRows() {
			e.Fatalf("batch %v has %d rows", b.Range, b.Rows.NumRows())
		}
		if b.Appended.IsZero() {
			e.Fatal("batch without a time")
		}
		ids = append(ids, e.verify(b.Rows)...)
		b.Rows.Release()
	}
	return ids
}

// verify checks every value and returns the ids.
func (e *env) verify(rec arrow.RecordBatch) []int64 {
	e.Helper()
	ids := rec.Column(0).(*array.Int64)
	x := rec.Column(1).(*array.Float64)
	name := rec.Column(2).(*array.String)
	even := rec.Column(3).(*array.Boolean)
	items := rec.Column(4).(*array.List)
	out := make([]int64, rec.NumRows())
	for i := range out {
		id := ids.Value(i)
		out[i] = id
		if x.IsNull(i) != (id%7 == 3) || (x.IsValid(i) && x.Value(i) != float64(id)/4) {
			e.Fatalf("id %d: x is %s", id, x.ValueStr(i))
		}
		if want := fmt.Sprintf("row %d", id); len(name.Value(i)) < len(want) || name.Value(i)[:len(want)] != want {
			e.Fatalf("id %d: name is %.40q", id, name.Value(i))
		}
		if even.Value(i) != (id%2 == 0) {
			e.Fatalf("id %d: even is %v", id, even.Value(i))
		}
		lo, hi := items.ValueOffsets(i)
		if hi-lo != id%3 {
			e.Fatalf("id %d: %d items", id, hi-lo)
		}
		for k := lo; k < hi; k++ {
			if v := items.ListValues().(*array.Int64).Value(int(k)); v != id+k-lo {
				e.Fatalf("id %d: item %d is %d", id, k-lo, v)
			}
		}
		if rec.NumCols() > 5 {
			if c := rec.Column(5).(*array.Int64); c.IsValid(i) && c.Value(i) != -id {
				e.Fatalf("id %d: extra is %d", id, c.Value(i))
			}
		}
	}
	return out
}

// ascending fails unless ids are first, first+1, …
func (e *env) ascending(ids []int64, first int64) {
	e.Helper()
	for i, id := range ids {
		if id != first+int64(i) {
			e.Fatalf("row %d has id %d, want %d", i, id, first+int64(i))
		}
	}
}
