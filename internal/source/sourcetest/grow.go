package sourcetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// grow adds partitions, or skips the test for a driver whose topics cannot grow.
func (e *env) grow(t source.Topic, n int) {
	e.Helper()
	err := t.Grow(e.ctx, n)
	if errors.Is(err, tidemill.ErrDenied) {
		e.Skip("topics of this driver cannot grow")
	}
	e.must(err)
}

func testGrow(e *env) {
	t := e.topic("t", 2)
	other, err := e.s.Open(e.ctx, "t")
	e.must(err)
	e.append(t, 0, 0, 4, "p/4")
	e.append(t, 1, 100, 3, "p/3")
	e.must(t.Retain(e.ctx, "job", tidemill.Cut{4, 3}))
	before, err := t.Info(e.ctx)
	e.must(err)
	r := e.reader(t, 1, 0)

	e.grow(t, 2) // the present number
	for _, n := range []int{-1, 1, source.MaxPartitions + 1} {
		e.is(t.Grow(e.ctx, n), tidemill.ErrInvalid)
	}
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.Partitions != 2 || len(in.Former) != 0 {
		e.Fatalf("nothing was to change: %+v", in)
	}

	e.must(t.Grow(e.ctx, 3))
	e.must(t.Grow(e.ctx, 5))
	e.must(t.Grow(e.ctx, 5))
	for _, t := range []source.Topic{t, other} {
		in, err = t.Info(e.ctx)
		e.must(err)
		if in.Partitions != 5 || in.Identity != before.Identity || !in.Schema.Equal(baseSchema) ||
			!slices.Equal(in.Former, []int{2, 3}) || !slices.Equal(in.First, tidemill.Cut{0, 0, 0, 0, 0}) || !slices.Equal(in.Next, tidemill.Cut{4, 3, 0, 0, 0}) {
			e.Fatalf("after growing: %+v", in)
		}
	}
	e.is(t.Grow(e.ctx, 4), tidemill.ErrInvalid)
	_, err = e.s.Create(e.ctx, "t", 5, baseSchema)
	e.must(err)
	_, err = e.s.Create(e.ctx, "t", 2, baseSchema)
	e.is(err, tidemill.ErrInvalid)

	// What was there stays, and readers go on.
	e.append(t, 1, 103, 2, "p/5")
	e.ascending(e.read(r, 5, 2), 100)
	if got := e.append(t, 0, 50, 4, "p/4"); got != (tidemill.Range{First: 0, Next: 4}) {
		e.Fatalf("a key from before: %v", got)
	}
	// The new partitions are partitions.
	for p := 2; p < 5; p++ {
		if got := e.append(t, p, int64(1000*p), 3, "p/3"); got != (tidemill.Range{First: 0, Next: 3}) {
			e.Fatalf("partition %d: appended at %v", p, got)
		}
		e.ascending(e.read(e.reader(other, p, 0), 3, 2), int64(1000*p))
	}
	if off, err := t.OffsetAt(e.ctx, 4, time.Time{}); err != nil || off != 0 {
		e.Fatalf("offset %d %v", off, err)
	}
	// Holders from before may still say what they knew, and others more.
	e.must(t.Retain(e.ctx, "job", tidemill.Cut{4, 4}))
	e.must(t.Retain(e.ctx, "job", tidemill.Cut{4, 4, 1, 1, 1}))
	e.is(t.Retain(e.ctx, "job", tidemill.Cut{0, 0, 0, 0, 0, 0}), tidemill.ErrInvalid)

	// A reader that waits at the end of a partition does not mind.
	tail := e.reader(t, 2, 3)
	e.must(t.Grow(e.ctx, 6))
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := tail.Next(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		e.Fatalf("a reader at the end returned %v", err)
	}
	e.must(e.s.Delete(e.ctx, "t"))
	again := e.topic("t", 1)
	in, err = again.Info(e.ctx)
	e.must(err)
	if in.Partitions != 1 || len(in.Former) != 0 {
		e.Fatalf("a topic made again: %+v", in)
	}
	e.must(again.Grow(e.ctx, 6))
}

func testReopenGrown(e *env, reopen func(*testing.T, source.Stream, memory.Allocator) source.Stream) {
	t := e.topic("keep", 1)
	e.append(t, 0, 0, 4, "p/4")
	e.grow(t, 3)
	e.append(t, 2, 10, 4, "p/4")
	e.s = reopen(e.T, e.s, e.mem)
	t, err := e.s.Open(e.ctx, "keep")
	e.must(err)
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.Partitions != 3 || !slices.Equal(in.Former, []int{1}) || !slices.Equal(in.Next, tidemill.Cut{4, 0, 4}) {
		e.Fatalf("after reopening: %+v", in)
	}
	e.ascending(e.read(e.reader(t, 2, 0), 4, 4), 10)
	if got := e.append(t, 2, 20, 1, "p/4"); got != (tidemill.Range{First: 0, Next: 4}) {
		e.Fatalf("a key from before the restart: %v", got)
	}
}
