package sourcetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

func testRetain(e *env) {
	t := e.topic("t", 2)
	e.append(t, 0, 0, 10, "")
	e.must(t.Retain(e.ctx, "job.a", tidemill.Cut{5, 0}))
	e.must(t.Retain(e.ctx, "job.b", tidemill.Cut{7, 0}))
	e.must(t.Retain(e.ctx, "job.a", tidemill.Cut{9, 0}))
	e.must(t.Retain(e.ctx, "job.a", nil))
	e.must(t.Retain(e.ctx, "job.a", nil))
	e.ascending(e.read(e.reader(t, 0, 0), 10, 10), 0) // nothing is dropped without pressure
}

func testReopen(e *env, reopen func(*testing.T, source.Stream, memory.Allocator) source.Stream) {
	t := e.topic("keep", 2)
	for i := range int64(5) {
		e.append(t, int(i%2), 4*i, 4, fmt.Sprintf("p/%d", i+1))
	}
	e.must(t.Evolve(e.ctx, wideSchema))
	before, err := t.Info(e.ctx)
	e.must(err)
	e.must(t.Retain(e.ctx, "job", tidemill.Cut{1, 1}))
	e.s = reopen(e.T, e.s, e.mem)
	t, err = e.s.Open(e.ctx, "keep")
	e.must(err)
	after, err := t.Info(e.ctx)
	e.must(err)
	if before.Identity != after.Identity || !slices.Equal(before.Next, after.Next) || !after.Schema.Equal(wideSchema) {
		e.Fatalf("before %+v, after %+v", before, after)
	}
	if r := e.append(t, 0, 99, 1, "p/3"); r != (tidemill.Range{First: 4, Next: 8}) {
		e.Fatalf("a key from before the restart: %v", r)
	}
	if last, err := t.LastKey(e.ctx, 1, "p"); err != nil || last != "p/4" {
		e.Fatalf("last key %q %v", last, err)
	}
	if r := e.append(t, 1, 99, 1, ""); r.First != 8 {
		e.Fatalf("appended at %v", r)
	}
	ids := e.read(e.reader(t, 0, 0), 12, 5)
	if !slices.Equal(ids, []int64{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19}) {
		e.Fatalf("ids %v", ids)
	}
}

// fill appends until the stream refuses and returns how many rows it took.
func (e *env) fill(t source.Topic, from int64) int64 {
	e.Helper()
	const n, pad = 32, 1024
	for next, i := from, 0; ; i++ {
		if i > 1000 {
			e.Fatal("the stream never fills")
		}
		rec := e.rows(baseSchema, next, n, pad)
		_, err := t.Append(e.ctx, 0, rec, fmt.Sprintf("fill/%d", next+n))
		rec.Release()
		if errors.Is(err, tidemill.ErrFull) {
			return next - from
		}
		e.must(err)
		next += n
	}
}

func testFull(e *env) {
	t := e.topic("t", 1)
	held := e.fill(t, 0)
	if held == 0 {
		e.Fatal("not one append fits")
	}
	// It stays full, and what was there is intact.
	rec := e.rows(baseSchema, 0, 64, 1024)
	for range 3 {
		_, err := t.Append(e.ctx, 0, rec, "")
		e.is(err, tidemill.ErrFull)
	}
	rec.Release()
	e.ascending(e.read(e.reader(t, 0, 0), int(held), 50), 0)
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.First[0] != 0 || in.Next[0] != held {
		e.Fatalf("held [%d,%d), want [0,%d)", in.First[0], in.Next[0], held)
	}
}

func testFullRetain(e *env) {
	t := e.topic("t", 1)
	e.append(t, 0, 0, 8, "other/8")
	held := 8 + e.fill(t, 8)
	cut := held / 2
	e.must(t.Retain(e.ctx, "job", tidemill.Cut{cut}))
	more := e.fill(t, held)
	if more == 0 {
		e.Fatal("rows that no holder needs still fill the stream")
	}
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.First[0] == 0 || in.First[0] > cut || in.Next[0] != held+more {
		e.Fatalf("held [%d,%d), the holder needs %d on, %d were appended", in.First[0], in.Next[0], cut, held+more)
	}
	e.ascending(e.read(e.reader(t, 0, in.First[0]), int(in.Next[0]-in.First[0]), 100), in.First[0])
	_, err = t.Reader(e.ctx, 0, 0)
	e.is(err, tidemill.ErrInvalid)
	e.is(t.Retain(e.ctx, "late", tidemill.Cut{0}), tidemill.ErrNotFound)
	e.is(t.Retain(e.ctx, "late", tidemill.Cut{}), tidemill.ErrNotFound)
	// Keys are remembered although their rows are gone.
	if r := e.append(t, 0, 0, 8, "other/8"); r != (tidemill.Range{First: 0, Next: 8}) {
		e.Fatalf("a key whose rows were dropped: %v", r)
	}
	if last, err := t.LastKey(e.ctx, 0, "other"); err != nil || last != "other/8" {
		e.Fatalf("last key %q %v", last, err)
	}
}
