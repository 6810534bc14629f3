package sourcetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// testFollow: a key that says which one it follows is appended behind that one only.
func testFollow(e *env) {
	t := e.topic("t", 2)
	conflict := func(p int, key string) {
		e.Helper()
		rec := e.rows(baseSchema, 900, 2, 0)
		defer rec.Release()
		r, err := t.Append(e.ctx, p, rec, key)
		e.is(err, tidemill.ErrConflict)
		if r != (tidemill.Range{}) {
			e.Fatalf("refused, and appended at %v", r)
		}
	}
	conflict(0, "in/3..9") // nothing is there to follow
	r1 := e.append(t, 0, 0, 4, "in/0..4")
	conflict(0, "in/0..6") // it overlaps, to beyond what is there
	conflict(0, "in/0..2") // it overlaps, within what is there
	conflict(0, "in/2..6")
	conflict(0, "in/5..6") // it leaves a gap
	r2 := e.append(t, 0, 4, 3, "in/4..7")
	if r1 != (tidemill.Range{First: 0, Next: 4}) || r2 != (tidemill.Range{First: 4, Next: 7}) {
		e.Fatalf("appended at %v and %v", r1, r2)
	}
	// The same key again, with or without what it follows, adds nothing.
	for _, key := range []string{"in/0..4", "in/4", "in/1..4"} {
		if r := e.append(t, 0, 900, 1, key); r != r1 {
			e.Fatalf("key %s again: %v", key, r)
		}
	}
	if r := e.append(t, 0, 7, 1, "in/8"); r != (tidemill.Range{First: 7, Next: 8}) {
		e.Fatalf("without AFTER: %v", r)
	}
	e.append(t, 1, 0, 2, "in/0..2") // another partition has keys of its own
	e.append(t, 0, 8, 1, "other/0..1")
	e.append(t, 0, 9, 1, "in/8..9")
	last, err := t.LastKey(e.ctx, 0, "in")
	e.must(err)
	if last != "in/9" {
		e.Fatalf("last key %q", last)
	}
	for _, key := range []string{"in/9..9", "in/12..11", "in/..11", "in/9..", "in/09..11", "in/-1..11", "9..11", "in/9..10..11", strings.Repeat("k", source.MaxKeyLength) + "/0..1"} {
		rec := e.rows(baseSchema, 0, 1, 0)
		_, err := t.Append(e.ctx, 0, rec, key)
		rec.Release()
		e.is(err, tidemill.ErrInvalid)
	}
	e.ascending(e.read(e.reader(t, 0, 0), 10, 4), 0)
}

// testOverlap: several producers append one input at the same time, each with cuts of its own. What
// the others have, each leaves out, as it learns where it is; every row is there once, in order.
func testOverlap(e *env) {
	const producers, rows = 4, 120
	topics := make([]source.Topic, producers)
	for i := range topics {
		t, err := e.s.Create(e.ctx, "t", 1, baseSchema)
		e.must(err)
		topics[i] = t
	}
	produce := func(t source.Topic, batch int64) error {
		at := int64(0)
		for at < rows {
			k := source.Key{Prefix: "in", Number: min(rows, at-at%batch+batch), After: at}
			rec := e.rows(baseSchema, at, int(k.Number-at), 0)
			_, err := t.Append(e.ctx, 0, rec, k.String())
			rec.Release()
			if err == nil {
				at = k.Number
				continue
			}
			if !errors.Is(err, tidemill.ErrConflict) {
				return fmt.Errorf("batches of %d: %w", batch, err)
			}
			last, err := t.LastKey(e.ctx, 0, "in")
			if err != nil {
				return err
			}
			_, n, err := source.ParseKey(last)
			if err != nil || n <= at {
				return fmt.Errorf("batches of %d: refused at %d, and the last key is %q: %w", batch, at, last, errors.Join(err, tidemill.ErrConflict))
			}
			at = n
		}
		return nil
	}
	errs := make([]error, producers)
	var wg sync.WaitGroup
	for i, t := range topics {
		wg.Go(func() { errs[i] = produce(t, int64([]int{5, 7, 11, 16}[i])) })
	}
	wg.Wait()
	e.must(errors.Join(errs...))
	in, err := topics[0].Info(e.ctx)
	e.must(err)
	if !slices.Equal(in.Next, tidemill.Cut{rows}) {
		e.Fatalf("the log ends at %v after %d rows", in.Next, rows)
	}
	e.ascending(e.read(e.reader(topics[0], 0, 0), rows, 16), 0)
}
