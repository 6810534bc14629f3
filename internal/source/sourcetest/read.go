package sourcetest

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

func testEveryType(e *env) {
	types := []arrow.DataType{
		arrow.FixedWidthTypes.Boolean, arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int16, arrow.PrimitiveTypes.Int32,
		arrow.PrimitiveTypes.Int64, arrow.PrimitiveTypes.Uint8, arrow.PrimitiveTypes.Uint16, arrow.PrimitiveTypes.Uint32,
		arrow.PrimitiveTypes.Uint64, arrow.PrimitiveTypes.Float32, arrow.PrimitiveTypes.Float64,
		arrow.BinaryTypes.String, arrow.BinaryTypes.LargeString, arrow.BinaryTypes.Binary, arrow.BinaryTypes.LargeBinary,
		&arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, arrow.FixedWidthTypes.Date32,
		&arrow.FixedSizeBinaryType{ByteWidth: 5}, &arrow.Decimal128Type{Precision: 20, Scale: 3},
		arrow.ListOf(arrow.BinaryTypes.String), arrow.LargeListOf(arrow.PrimitiveTypes.Float32),
		arrow.FixedSizeListOf(3, arrow.PrimitiveTypes.Float64),
		arrow.StructOf(arrow.Field{Name: "a", Type: arrow.PrimitiveTypes.Int32, Nullable: true}, arrow.Field{Name: "b", Type: arrow.ListOf(arrow.PrimitiveTypes.Int64), Nullable: true}),
	}
	fields := make([]arrow.Field, len(types))
	for i, dt := range types {
		fields[i] = arrow.Field{Name: dt.Name() + string(rune('a'+i)), Type: dt, Nullable: true}
	}
	schema := arrow.NewSchema(fields, nil)
	t, err := e.s.Create(e.ctx, "types", 1, schema)
	e.must(err)
	b := array.NewRecordBuilder(e.mem, schema)
	defer b.Release()
	for i := range types {
		f := b.Field(i)
		f.AppendEmptyValue()
		f.AppendNull()
		f.AppendEmptyValue()
	}
	b.Field(10).(*array.Float64Builder).AppendValues([]float64{math.NaN(), math.Inf(-1), math.Copysign(0, -1)}, nil)
	for i := range types {
		if i != 10 {
			b.Field(i).AppendEmptyValue()
			b.Field(i).AppendNull()
			b.Field(i).AppendNull()
		}
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	_, err = t.Append(e.ctx, 0, rec, "")
	e.must(err)
	got, err := e.reader(t, 0, 0).Next(e.ctx, 100)
	e.must(err)
	defer got.Rows.Release()
	if !array.RecordEqual(rec, got.Rows) && !array.RecordApproxEqual(rec, got.Rows, array.WithNaNsEqual(true)) {
		e.Fatalf("wrote %v\nread %v", rec, got.Rows)
	}
}

func testCutAnywhere(e *env) {
	const n = 60
	t := e.topic("t", 1)
	for at, i := 0, 1; at < n; i++ {
		k := min(i*3%11+1, n-at)
		e.append(t, 0, int64(at), k, "")
		at += k
	}
	rapid.Check(e.T, func(rt *rapid.T) {
		start := rapid.IntRange(0, n).Draw(rt, "start")
		limits := rapid.SliceOfN(rapid.IntRange(1, 25), 1, 8).Draw(rt, "limits")
		r, err := t.Reader(e.ctx, 0, int64(start))
		e.must(err)
		defer r.Close()
		var ids []int64
		for i := 0; len(ids) < n-start; i++ {
			b, err := r.Next(e.ctx, limits[i%len(limits)])
			e.must(err)
			if b.Rows.NumRows() > int64(limits[i%len(limits)]) {
				rt.Fatalf("%d rows, limit %d", b.Rows.NumRows(), limits[i%len(limits)])
			}
			ids = append(ids, e.verify(b.Rows)...)
			b.Rows.Release()
		}
		e.ascending(ids, int64(start))
	})
}

func testAnyOffset(e *env) {
	t := e.topic("t", 1)
	at := int64(0)
	for _, k := range []int{1, 1, 200, 1, 3, 50, 1, 1, 1, 7} {
		e.append(t, 0, at, k, "")
		at += int64(k)
	}
	for off := int64(0); off < at; off += 1 + off/9 {
		r := e.reader(t, 0, off)
		if r.Position() != off {
			e.Fatalf("position %d at offset %d", r.Position(), off)
		}
		e.ascending(e.read(r, 1, 1), off)
		e.must(r.Close())
	}
}

func testEvolve(e *env) {
	t := e.topic("t", 1)
	e.append(t, 0, 0, 3, "")
	refuse := func(fields ...arrow.Field) {
		e.Helper()
		e.is(t.Evolve(e.ctx, arrow.NewSchema(fields, nil)), tidemill.ErrInvalid)
	}
	f := baseSchema.Fields()
	extra := wideSchema.Field(5)
	refuse(append(slices.Clone(f), arrow.Field{Name: "extra", Type: arrow.PrimitiveTypes.Int64})...) // not nullable
	refuse(append([]arrow.Field{extra}, f...)...)                                                    // not at the end
	refuse(append(slices.Clone(f[:4]), extra)...)                                                    // one dropped
	refuse(append(slices.Clone(f), f[0])...)                                                         // twice
	changed := slices.Clone(f)
	changed[1].Type = arrow.PrimitiveTypes.Float32
	refuse(changed...)
	e.must(t.Evolve(e.ctx, baseSchema)) // nothing new
	e.must(t.Evolve(e.ctx, wideSchema))
	e.must(t.Evolve(e.ctx, wideSchema))
	e.must(t.Evolve(e.ctx, baseSchema)) // somebody who does not know the new column
	in, err := t.Info(e.ctx)
	e.must(err)
	if !in.Schema.Equal(wideSchema) {
		e.Fatalf("schema %v", in.Schema)
	}
	e.append(t, 0, 3, 2, "") // rows without it still fit
	rec := e.rows(wideSchema, 5, 3, 0)
	_, err = t.Append(e.ctx, 0, rec, "")
	rec.Release()
	e.must(err)
	e.checkExtra(t, 8, 5)
}

// checkExtra reads n rows at once and expects the extra column null before row known.
func (e *env) checkExtra(t source.Topic, n, known int) {
	e.Helper()
	r, err := t.Reader(e.ctx, 0, 0)
	e.must(err)
	defer r.Close()
	seen := 0
	for seen < n {
		b, err := r.Next(e.ctx, n)
		e.must(err)
		if !b.Rows.Schema().Equal(wideSchema) {
			e.Fatalf("rows of schema %v", b.Rows.Schema())
		}
		e.ascending(e.verify(b.Rows), int64(seen))
		for i := range int(b.Rows.NumRows()) {
			if null := b.Rows.Column(5).IsNull(i); null != (seen < known) {
				e.Fatalf("row %d: extra is %s", seen, b.Rows.Column(5).ValueStr(i))
			}
			seen++
		}
		b.Rows.Release()
	}
}

func testEvolveWhileReading(e *env) {
	t := e.topic("t", 1)
	e.append(t, 0, 0, 5, "")
	r := e.reader(t, 0, 0)
	e.ascending(e.read(r, 2, 2), 0)
	e.must(t.Evolve(e.ctx, wideSchema))
	rec := e.rows(wideSchema, 5, 2, 0)
	_, err := t.Append(e.ctx, 0, rec, "")
	rec.Release()
	e.must(err)
	e.ascending(e.read(r, 5, 10), 2)
	b, err := e.reader(t, 0, 4).Next(e.ctx, 1)
	e.must(err)
	if !b.Rows.Schema().Equal(wideSchema) || b.Rows.Column(5).IsValid(0) {
		e.Fatalf("an older row read later: %v", b.Rows)
	}
	b.Rows.Release()
}

func testWaits(e *env) {
	t := e.topic("t", 1)
	r := e.reader(t, 0, 0)
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
	_, err := r.Next(ctx, 1)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("waiting at the tail ended with %v", err)
	}
	for i := range int64(20) {
		got := make(chan []int64)
		go func() {
			b, err := r.Next(e.ctx, 10)
			if err != nil {
				e.Error(err)
				got <- nil
				return
			}
			ids := e.verify(b.Rows)
			b.Rows.Release()
			got <- ids
		}()
		e.append(t, 0, i, 1, "")
		if ids := <-got; len(ids) != 1 || ids[0] != i {
			e.Fatalf("append %d woke the reader with %v", i, ids)
		}
	}
	canceled, stop := context.WithCancel(e.ctx)
	stop()
	if _, err := r.Next(canceled, 1); !errors.Is(err, context.Canceled) {
		e.Fatalf("a canceled wait ended with %v", err)
	}
}

func testPosition(e *env) {
	const n = 40
	t := e.topic("t", 1)
	for at := range n / 8 {
		e.append(t, 0, int64(8*at), 8, "")
	}
	r := e.reader(t, 0, 0)
	if _, end := r.Buffered(); end != n {
		e.Fatalf("end %d before the first row, want %d", end, n)
	}
	for r.Position() < n {
		before := r.Position()
		b, err := r.Next(e.ctx, 3)
		e.must(err)
		if r.Position() != before+b.Rows.NumRows() {
			e.Fatalf("position %d after %d rows from %d", r.Position(), b.Rows.NumRows(), before)
		}
		b.Rows.Release()
		rows, end := r.Buffered()
		if end != n || rows < 0 || r.Position()+int64(rows) > end {
			e.Fatalf("at %d: %d buffered of %d", r.Position(), rows, end)
		}
		if rows == 0 {
			continue
		}
		// What is buffered comes without waiting.
		done, cancel := context.WithCancel(e.ctx)
		cancel()
		b, err = r.Next(done, rows)
		e.must(err)
		b.Rows.Release()
	}
	if rows, end := r.Buffered(); rows != 0 || end != r.Position() {
		e.Fatalf("at the end: %d buffered, end %d, position %d", rows, end, r.Position())
	}
	e.append(t, 0, n, 2, "")
	e.ascending(e.read(r, 2, 1), n)
	if _, end := r.Buffered(); end != n+2 {
		e.Fatalf("end %d after another append", end)
	}
}

func testOffsetAt(e *env) {
	t := e.topic("t", 1)
	if off, err := t.OffsetAt(e.ctx, 0, time.Now()); err != nil || off != 0 {
		e.Fatalf("of nothing: %d %v", off, err)
	}
	for i := range int64(6) {
		e.append(t, 0, 3*i, 3, "")
	}
	type span struct {
		first int64
		at    time.Time
	}
	var spans []span
	r := e.reader(t, 0, 0)
	for len(spans) < 6 {
		b, err := r.Next(e.ctx, 3-int(r.Position()%3))
		e.must(err)
		if b.Range.First%3 == 0 {
			spans = append(spans, span{b.Range.First, b.Appended})
		}
		b.Rows.Release()
	}
	for i, s := range spans {
		off, err := t.OffsetAt(e.ctx, 0, s.at)
		e.must(err)
		// Several appends may share a stamp on a coarse clock: the first of them is the answer.
		if off > s.first || !spans[off/3].at.Equal(s.at) {
			e.Fatalf("append %d at %v: offset %d, want %d", i, s.at, off, s.first)
		}
	}
	for _, c := range []struct {
		at   time.Time
		want int64
	}{{time.Unix(0, 0), 0}, {spans[0].at.Add(-time.Nanosecond), 0}, {spans[5].at.Add(time.Nanosecond), 18}, {spans[5].at.Add(time.Hour), 18}} {
		if off, err := t.OffsetAt(e.ctx, 0, c.at); err != nil || off != c.want {
			e.Fatalf("at %v: %d %v, want %d", c.at, off, err, c.want)
		}
	}
}

func testDeleted(e *env) {
	t := e.topic("t", 1)
	e.append(t, 0, 0, 3, "")
	e.must(e.s.Delete(e.ctx, "t"))
	_, err := t.Info(e.ctx)
	e.is(err, tidemill.ErrNotFound)
	rec := e.rows(baseSchema, 0, 1, 0)
	defer rec.Release()
	_, err = t.Append(e.ctx, 0, rec, "")
	e.is(err, tidemill.ErrNotFound)
	_, err = t.Reader(e.ctx, 0, 0)
	e.is(err, tidemill.ErrNotFound)
	e.topic("t", 1)
	_, err = t.Append(e.ctx, 0, rec, "")
	e.is(err, tidemill.ErrNotFound) // a handle of the old topic does not reach the new one
}
