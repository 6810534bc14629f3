package sourcetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

func testCreate(e *env) {
	_, err := e.s.Open(e.ctx, "clicks")
	e.is(err, tidemill.ErrNotFound)
	_, err = e.s.Create(e.ctx, "clicks", 0, nil)
	e.is(err, tidemill.ErrNotFound)
	t, err := e.s.Create(e.ctx, "clicks", 3, baseSchema)
	e.must(err)
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.Name != "clicks" || in.Partitions != 3 || in.Identity == "" || len(in.First) != 3 || len(in.Next) != 3 || in.Next.Rows() != 0 {
		e.Fatalf("new topic: %+v", in)
	}
	if !in.Schema.Equal(baseSchema) {
		e.Fatalf("schema %v", in.Schema)
	}
	for _, n := range []int{0, 3} {
		_, err = e.s.Create(e.ctx, "clicks", n, baseSchema)
		e.must(err)
	}
	_, err = e.s.Create(e.ctx, "clicks", 0, nil)
	e.must(err)
	e.topic("a.b-c_D9", 1)
	_, err = e.s.Open(e.ctx, "clcks")
	e.is(err, tidemill.ErrNotFound)
	if !strings.Contains(err.Error(), `"clicks"`) {
		e.Fatalf("the nearest name is not offered: %v", err)
	}
	names, err := e.s.Topics(e.ctx)
	e.must(err)
	if !slices.Equal(names, []string{"a.b-c_D9", "clicks"}) {
		e.Fatalf("topics %v", names)
	}
	e.must(e.s.Delete(e.ctx, "clicks"))
	e.is(e.s.Delete(e.ctx, "clicks"), tidemill.ErrNotFound)
	_, err = e.s.Open(e.ctx, "clicks")
	e.is(err, tidemill.ErrNotFound)
	again := e.topic("clicks", 1)
	in2, err := again.Info(e.ctx)
	e.must(err)
	if in2.Identity == in.Identity || in2.Partitions != 1 {
		e.Fatalf("a topic made again: %+v", in2)
	}
}

func testRefusals(e *env) {
	for _, name := range []string{"", ".", "..", "a/b", "a b", "ü", "a*", "a>", strings.Repeat("x", 129)} {
		_, err := e.s.Create(e.ctx, name, 1, baseSchema)
		e.is(err, tidemill.ErrInvalid)
	}
	for _, n := range []int{-1, source.MaxPartitions + 1} {
		_, err := e.s.Create(e.ctx, "t", n, baseSchema)
		e.is(err, tidemill.ErrInvalid)
	}
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	for _, fields := range [][]arrow.Field{
		nil,
		{{Name: "", Type: arrow.PrimitiveTypes.Int64}},
		{{Name: "a", Type: arrow.PrimitiveTypes.Int64}, {Name: "a", Type: arrow.PrimitiveTypes.Int64}},
		{{Name: "d", Type: dict}},
		{{Name: "n", Type: arrow.Null}},
	} {
		_, err := e.s.Create(e.ctx, "t", 1, arrow.NewSchema(fields, nil))
		e.is(err, tidemill.ErrInvalid)
	}
	t := e.topic("t", 2)
	_, err := e.s.Create(e.ctx, "t", 5, baseSchema)
	e.is(err, tidemill.ErrInvalid)
	other := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.BinaryTypes.String}}, nil)
	_, err = e.s.Create(e.ctx, "t", 2, other)
	e.is(err, tidemill.ErrInvalid)
	if !strings.Contains(err.Error(), `"id"`) {
		e.Fatalf("the column is not named: %v", err)
	}
	rec := e.rows(baseSchema, 0, 2, 0)
	defer rec.Release()
	for _, p := range []int{-1, 2} {
		_, err = t.Append(e.ctx, p, rec, "")
		e.is(err, tidemill.ErrInvalid)
		_, err = t.Reader(e.ctx, p, 0)
		e.is(err, tidemill.ErrInvalid)
	}
	for _, key := range []string{"nokey", "k/", "k/x", "k/-1", "k/01", "k/+1", "k/99999999999999999999", strings.Repeat("k", source.MaxKeyLength) + "/1"} {
		_, err = t.Append(e.ctx, 0, rec, key)
		e.is(err, tidemill.ErrInvalid)
	}
	wide := e.rows(wideSchema, 0, 2, 0)
	defer wide.Release()
	_, err = t.Append(e.ctx, 0, wide, "")
	e.is(err, tidemill.ErrInvalid)
	if !strings.Contains(err.Error(), `"extra"`) {
		e.Fatalf("the column is not named: %v", err)
	}
	// A null where there must be none.
	b := array.NewRecordBuilder(e.mem, arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil))
	b.Field(0).AppendNull()
	null := b.NewRecordBatch()
	b.Release()
	_, err = t.Append(e.ctx, 0, null, "")
	null.Release()
	e.is(err, tidemill.ErrInvalid)
	for _, off := range []int64{-1, 1} {
		_, err = t.Reader(e.ctx, 0, off)
		e.is(err, tidemill.ErrInvalid)
	}
	e.is(t.Retain(e.ctx, "job", tidemill.Cut{0, 0, 0}), tidemill.ErrInvalid)
	e.is(t.Retain(e.ctx, "a/b", tidemill.Cut{0, 0}), tidemill.ErrInvalid)
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.Next.Rows() != 0 {
		e.Fatalf("refused rows were kept: %v", in.Next)
	}
}

func testAppendRead(e *env) {
	t := e.topic("t", 2)
	if r := e.append(t, 1, 0, 10, ""); r != (tidemill.Range{First: 0, Next: 10}) {
		e.Fatalf("first append at %v", r)
	}
	if r := e.append(t, 1, 10, 5, ""); r != (tidemill.Range{First: 10, Next: 15}) {
		e.Fatalf("second append at %v", r)
	}
	empty := e.rows(baseSchema, 0, 0, 0)
	r, err := t.Append(e.ctx, 1, empty, "")
	empty.Release()
	e.must(err)
	if r != (tidemill.Range{First: 15, Next: 15}) {
		e.Fatalf("no rows appended at %v", r)
	}
	// A slice, and columns in another order with a nullable one left out.
	rec := e.rows(baseSchema, 10, 20, 0)
	part := rec.NewSlice(5, 8)
	_, err = t.Append(e.ctx, 1, part, "")
	e.must(err)
	part.Release()
	few := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{baseSchema.Field(2), baseSchema.Field(0)}, nil),
		[]arrow.Array{rec.Column(2), rec.Column(0)}, rec.NumRows())
	_, err = t.Append(e.ctx, 0, few, "")
	e.must(err)
	few.Release()
	rec.Release()
	e.ascending(e.read(e.reader(t, 1, 0), 18, 4), 0)
	b, err := e.reader(t, 0, 0).Next(e.ctx, 100)
	e.must(err)
	if !b.Rows.Schema().Equal(baseSchema) || b.Rows.Column(1).NullN() != 20 || b.Rows.Column(0).(*array.Int64).Value(19) != 29 {
		e.Fatalf("rows with columns left out: %v", b.Rows)
	}
	b.Rows.Release()
	in, err := t.Info(e.ctx)
	e.must(err)
	if !slices.Equal(in.Next, tidemill.Cut{20, 18}) || !slices.Equal(in.First, tidemill.Cut{0, 0}) {
		e.Fatalf("bounds %v %v", in.First, in.Next)
	}
}

func testConcurrent(e *env) {
	const producers, appends = 6, 25
	topics := make([]source.Topic, producers)
	for i := range topics {
		t, err := e.s.Create(e.ctx, "t", 1, baseSchema)
		e.must(err)
		topics[i] = t
	}
	type got struct {
		r     tidemill.Range
		first int64
	}
	all := make([][]got, producers)
	var wg sync.WaitGroup
	for i := range producers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := range appends {
				first := int64(i*1_000_000 + k*100)
				rec := e.rows(baseSchema, first, 1+(i+k)%5, 0)
				r, err := topics[i].Append(e.ctx, 0, rec, fmt.Sprintf("p%d/%d", i, k))
				rec.Release()
				if err != nil {
					e.Error(err)
					return
				}
				all[i] = append(all[i], got{r, first})
			}
		}()
	}
	wg.Wait()
	if e.Failed() {
		return
	}
	flat := slices.Concat(all...)
	slices.SortFunc(flat, func(a, b got) int { return int(a.r.First - b.r.First) })
	next := int64(0)
	for _, g := range flat {
		if g.r.First != next {
			e.Fatalf("range %v where %d was next", g.r, next)
		}
		next = g.r.Next
	}
	ids := e.read(e.reader(topics[0], 0, 0), int(next), 64)
	for _, g := range flat {
		e.ascending(ids[g.r.First:g.r.Next], g.first)
	}
}

func testKeys(e *env) {
	t := e.topic("t", 2)
	last, err := t.LastKey(e.ctx, 0, "job/1")
	e.must(err)
	if last != "" {
		e.Fatalf("last key of nothing: %q", last)
	}
	r1 := e.append(t, 0, 0, 3, "job/1/10")
	r2 := e.append(t, 0, 3, 4, "job/1/20")
	e.append(t, 0, 100, 1, "job/2/1") // another prefix
	r3 := e.append(t, 0, 7, 2, "job/1/30")
	for range 2 {
		for i, want := range []tidemill.Range{r1, r2, r3} {
			// The rows of a repeated key do not matter.
			if r := e.append(t, 0, 55, 9, fmt.Sprintf("job/1/%d", 10*(i+1))); r != want {
				e.Fatalf("key %d again: %v, want %v", i+1, r, want)
			}
		}
	}
	for _, key := range []string{"job/1/9", "job/1/15", "job/1/0"} {
		rec := e.rows(baseSchema, 0, 1, 0)
		_, err := t.Append(e.ctx, 0, rec, key)
		rec.Release()
		e.is(err, tidemill.ErrInvalid)
	}
	last, err = t.LastKey(e.ctx, 0, "job/1")
	e.must(err)
	if last != "job/1/30" {
		e.Fatalf("last key %q", last)
	}
	if last, err = t.LastKey(e.ctx, 1, "job/1"); err != nil || last != "" {
		e.Fatalf("last key of another partition: %q %v", last, err)
	}
	if r := e.append(t, 1, 0, 3, "job/1/10"); r != (tidemill.Range{First: 0, Next: 3}) {
		e.Fatalf("the same key in another partition: %v", r)
	}
	in, err := t.Info(e.ctx)
	e.must(err)
	if !slices.Equal(in.Next, tidemill.Cut{10, 3}) {
		e.Fatalf("ends %v", in.Next)
	}
}

// testKeysProperty appends and repeats at random: what is stored must be what a plain map
// of first appends says.
func testKeysProperty(e *env) {
	n := 0
	rapid.Check(e.T, func(rt *rapid.T) {
		n++
		t := e.topic(fmt.Sprintf("t%d", n), 1)
		type call struct {
			key  string
			rows tidemill.Range
		}
		var calls []call
		next := map[string]int64{}
		var want []int64
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			prefix := rapid.SampledFrom([]string{"a", "b", "a/b", ""}).Draw(rt, "prefix")
			if len(calls) > 0 && rapid.Bool().Draw(rt, "repeat") {
				c := rapid.SampledFrom(calls).Draw(rt, "call")
				if r := e.append(t, 0, 999, 1, c.key); r != c.rows {
					rt.Fatalf("key %q again: %v, want %v", c.key, r, c.rows)
				}
				continue
			}
			next[prefix] += int64(rapid.IntRange(1, 5).Draw(rt, "gap"))
			c := call{key: source.FormatKey(prefix, next[prefix])}
			rows := rapid.IntRange(1, 4).Draw(rt, "rows")
			c.rows = e.append(t, 0, int64(len(want)), rows, c.key)
			if c.rows != (tidemill.Range{First: int64(len(want)), Next: int64(len(want) + rows)}) {
				rt.Fatalf("appended at %v, want %d", c.rows, len(want))
			}
			for range rows {
				want = append(want, int64(len(want)))
			}
			calls = append(calls, c)
		}
		for prefix, number := range next {
			if last, err := t.LastKey(e.ctx, 0, prefix); err != nil || last != source.FormatKey(prefix, number) {
				rt.Fatalf("last key of %q: %q %v, want %d", prefix, last, err, number)
			}
		}
		in, err := t.Info(e.ctx)
		e.must(err)
		if in.Next[0] != int64(len(want)) {
			rt.Fatalf("end %d, want %d", in.Next[0], len(want))
		}
		e.must(e.s.Delete(e.ctx, in.Name))
	})
}
