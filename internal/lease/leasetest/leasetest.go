// Package leasetest is the conformance suite of lease.Store: every implementation passes it,
// and whoever writes a new one runs it.
package leasetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
)

// Open returns an empty store, closed by the test's cleanup.
type Open func(t *testing.T, opts lease.Options) lease.Store

// patience ends a test whose condition never comes true.
const patience = 30 * time.Second

// TTL is what the suite's expiring stores use: the shortest that all can keep.
const TTL = time.Second

// Run runs the suite. in runs one test's body; give synctest.Test for a store that lives
// wholly in the process, and nil otherwise.
func Run(t *testing.T, open Open, in func(*testing.T, func(*testing.T))) {
	if in == nil {
		in = func(t *testing.T, f func(*testing.T)) { f(t) }
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"CompareAndSet", compareAndSet},
		{"Refusals", refusals},
		{"OneWinner", oneWinner},
		{"OneUpdater", oneUpdater},
		{"WatchOrder", watchOrder},
		{"WatchEnds", watchEnds},
		{"Expiry", expiry},
		{"UpdateKeepsAlive", updateKeepsAlive},
		{"Fencing", fencing},
		{"Incarnation", incarnation},
	} {
		t.Run(c.name, func(t *testing.T) { in(t, func(t *testing.T) { c.run(t, open) }) })
	}
	// Needs no clock, and rapid reads the test's deadline, which a bubble forbids.
	t.Run("Model", func(t *testing.T) { model(t, open) })
}

func compareAndSet(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	r1, err := s.Create(ctx, "jobs/a", []byte("1"))
	must(t, err)
	_, err = s.Create(ctx, "jobs/a", []byte("x"))
	wantKind(t, err, tidemill.ErrExists)
	r2, err := s.Update(ctx, "jobs/a", []byte("2"), r1)
	must(t, err)
	if r2 <= r1 {
		t.Fatalf("revision %d after %d", r2, r1)
	}
	_, err = s.Update(ctx, "jobs/a", []byte("x"), r1)
	wantKind(t, err, tidemill.ErrConflict)
	e, err := s.Get(ctx, "jobs/a")
	must(t, err)
	if string(e.Value) != "2" || e.Revision != r2 || e.Key != "jobs/a" || e.Deleted {
		t.Fatalf("got %+v, want value 2 at revision %d", e, r2)
	}
	wantKind(t, s.Delete(ctx, "jobs/a", r1), tidemill.ErrConflict)
	must(t, s.Delete(ctx, "jobs/a", r2))
	_, err = s.Get(ctx, "jobs/a")
	wantKind(t, err, tidemill.ErrNotFound)
	wantKind(t, s.Delete(ctx, "jobs/a", r2), tidemill.ErrConflict)
	_, err = s.Update(ctx, "jobs/a", nil, r2)
	wantKind(t, err, tidemill.ErrConflict)
	r3, err := s.Create(ctx, "jobs/a", nil)
	must(t, err)
	if r3 <= r2 {
		t.Fatalf("revision %d after %d", r3, r2)
	}
	for _, k := range []string{"jobs/b", "jobs.c.d", "other"} {
		_, err := s.Create(ctx, k, []byte(k))
		must(t, err)
	}
	for prefix, want := range map[string]int{"": 4, "jobs": 3, "jobs/": 2, "jobs.c.": 1, "jobs.c.d": 1, "none": 0} {
		list, err := s.List(ctx, prefix)
		must(t, err)
		if len(list) != want {
			t.Errorf("List(%q) has %d entries, want %d: %v", prefix, len(list), want, list)
		}
		for i := 1; i < len(list); i++ {
			if list[i-1].Key >= list[i].Key {
				t.Errorf("List(%q) is not sorted: %v", prefix, list)
			}
		}
	}
}

func refusals(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	for _, key := range []string{"", "_x", ".a", "a.", "a..b", "a b", "a*", ">", "ü", string(make([]byte, 257))} {
		_, err := s.Create(ctx, key, nil)
		wantKind(t, err, tidemill.ErrInvalid)
		_, err = s.Get(ctx, key)
		wantKind(t, err, tidemill.ErrInvalid)
		wantKind(t, s.Delete(ctx, key, 1), tidemill.ErrInvalid)
	}
	_, err := s.Create(ctx, "big", make([]byte, lease.MaxValue+1))
	wantKind(t, err, tidemill.ErrInvalid)
	big := bytes.Repeat([]byte{7}, 512<<10)
	_, err = s.Create(ctx, "big", big)
	must(t, err)
	e, err := s.Get(ctx, "big")
	must(t, err)
	if !bytes.Equal(e.Value, big) {
		t.Fatal("a value of half a MiB came back changed")
	}
	_, err = s.Update(ctx, "never", nil, 0)
	wantKind(t, err, tidemill.ErrConflict)
}

// race runs f in n goroutines at once and returns how many returned nil; the others must
// return kind.
func race(t *testing.T, n int, kind error, f func(i int) error) (winners []int) {
	t.Helper()
	errs := make([]error, n)
	var start, done sync.WaitGroup
	start.Add(1)
	for i := range n {
		done.Go(func() {
			start.Wait()
			errs[i] = f(i)
		})
	}
	start.Done()
	done.Wait()
	for i, err := range errs {
		if err == nil {
			winners = append(winners, i)
		} else if !errors.Is(err, kind) {
			t.Errorf("racer %d: %v, want %v", i, err, kind)
		}
	}
	return winners
}

func oneWinner(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	for round := range 20 {
		key := fmt.Sprint("lease.", round)
		won := race(t, 16, tidemill.ErrExists, func(i int) error {
			_, err := s.Create(ctx, key, []byte{byte(i)})
			return err
		})
		if len(won) != 1 {
			t.Fatalf("round %d: racers %v all won", round, won)
		}
		e, err := s.Get(ctx, key)
		must(t, err)
		if int(e.Value[0]) != won[0] {
			t.Fatalf("round %d: racer %d won, racer %d is stored", round, won[0], e.Value[0])
		}
	}
}

func oneUpdater(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	rev, err := s.Create(ctx, "counter", nil)
	must(t, err)
	for range 20 {
		revs := make([]uint64, 16)
		won := race(t, 16, tidemill.ErrConflict, func(i int) (err error) {
			revs[i], err = s.Update(ctx, "counter", []byte{byte(i)}, rev)
			return err
		})
		if len(won) != 1 {
			t.Fatalf("racers %v all updated revision %d", won, rev)
		}
		rev = revs[won[0]]
	}
}

func watchOrder(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	a, err := s.Create(ctx, "w/a", []byte("1"))
	must(t, err)
	_, err = s.Create(ctx, "other", []byte("1"))
	must(t, err)
	gone, err := s.Create(ctx, "w/gone", nil)
	must(t, err)
	must(t, s.Delete(ctx, "w/gone", gone))
	w, err := s.Watch(ctx, "w/")
	must(t, err)
	if e := Next(t, w); e.Key != "w/a" || string(e.Value) != "1" || e.Revision != a {
		t.Fatalf("first came %+v, want w/a", e)
	}
	if e := Next(t, w); e.Key != "" {
		t.Fatalf("then came %+v, want the caught-up mark", e)
	}
	a, err = s.Update(ctx, "w/a", []byte("2"), a)
	must(t, err)
	if e := Next(t, w); e.Key != "w/a" || string(e.Value) != "2" || e.Revision != a {
		t.Fatalf("got %+v, want w/a at revision %d", e, a)
	}
	b, err := s.Create(ctx, "w/b", nil)
	must(t, err)
	if e := Next(t, w); e.Key != "w/b" || e.Revision != b || len(e.Value) != 0 {
		t.Fatalf("got %+v, want w/b", e)
	}
	must(t, s.Delete(ctx, "w/a", a))
	if e := Next(t, w); e.Key != "w/a" || !e.Deleted || e.Revision != a {
		t.Fatalf("got %+v, want w/a deleted, last revision %d", e, a)
	}
}

func watchEnds(t *testing.T, open Open) {
	s := open(t, lease.Options{})
	ctx, cancel := context.WithCancel(background(t))
	_, err := s.Create(ctx, "k", nil)
	must(t, err)
	w, err := s.Watch(ctx, "")
	must(t, err)
	cancel()
	drain(t, w)
	if _, err := s.Watch(ctx, ""); err == nil {
		t.Error("a watch began with an ended context")
	}
	w, err = s.Watch(background(t), "")
	must(t, err)
	must(t, s.Close())
	drain(t, w)
}

func expiry(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{TTL: TTL})
	if s.TTL() != TTL {
		t.Fatalf("TTL is %v", s.TTL())
	}
	rev, err := s.Create(ctx, "session", []byte("me"))
	must(t, err)
	w, err := s.Watch(ctx, "session")
	must(t, err)
	if e := Next(t, w); e.Key != "session" || e.Deleted {
		t.Fatalf("first came %+v", e)
	}
	if e := Next(t, w); e.Key != "" {
		t.Fatalf("then came %+v, want the caught-up mark", e)
	}
	if e := Next(t, w); e.Key != "session" || !e.Deleted {
		t.Fatalf("then came %+v, want the expiry", e)
	}
	_, err = s.Get(ctx, "session")
	wantKind(t, err, tidemill.ErrNotFound)
	_, err = s.Update(ctx, "session", nil, rev)
	wantKind(t, err, tidemill.ErrConflict)
	again, err := s.Create(ctx, "session", nil)
	must(t, err)
	if again <= rev {
		t.Fatalf("the second epoch %d is not above the first %d", again, rev)
	}
}

// updateKeepsAlive: an entry updated again and again outlives its TTL, and still expires when
// the updates end. Another entry, never updated, is the clock.
func updateKeepsAlive(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{TTL: 2 * TTL})
	w, err := s.Watch(ctx, "")
	must(t, err)
	rev, err := s.Create(ctx, "kept", nil)
	must(t, err)
	_, err = s.Create(ctx, "left", nil)
	must(t, err)
	tick := time.NewTicker(TTL / 4)
	defer tick.Stop()
	for left := true; left; {
		select {
		case <-tick.C:
			rev, err = s.Update(ctx, "kept", nil, rev)
			must(t, err)
		case e := <-w:
			left = !(e.Key == "left" && e.Deleted)
		}
	}
	rev, err = s.Update(ctx, "kept", nil, rev)
	must(t, err)
	for e := Next(t, w); e.Key != "kept" || !e.Deleted; e = Next(t, w) {
	}
	_, err = s.Update(ctx, "kept", nil, rev)
	wantKind(t, err, tidemill.ErrConflict)
}

// fencing: a holder that lost its entry can neither renew nor delete its successor's.
func fencing(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	old, err := s.Create(ctx, "owner", []byte("old"))
	must(t, err)
	must(t, s.Delete(ctx, "owner", old))
	young, err := s.Create(ctx, "owner", []byte("young"))
	must(t, err)
	_, err = s.Update(ctx, "owner", []byte("old"), old)
	wantKind(t, err, tidemill.ErrConflict)
	wantKind(t, s.Delete(ctx, "owner", old), tidemill.ErrConflict)
	e, err := s.Get(ctx, "owner")
	must(t, err)
	if e.Revision != young || young <= old {
		t.Fatalf("got %+v, want the entry of epoch %d, above %d", e, young, old)
	}
}

func incarnation(t *testing.T, open Open) {
	ctx, a, b := background(t), open(t, lease.Options{}), open(t, lease.Options{})
	first, err := a.Incarnation(ctx)
	must(t, err)
	again, err := a.Incarnation(ctx)
	must(t, err)
	other, err := b.Incarnation(ctx)
	must(t, err)
	if first == "" || first != again || first == other {
		t.Fatalf("one store is called %q and %q, another %q", first, again, other)
	}
	list, err := a.List(ctx, "")
	must(t, err)
	if len(list) != 0 {
		t.Fatalf("an empty store lists %v", list)
	}
}

// model compares random operations with a map, and what a watcher made of them too.
func model(t *testing.T, open Open) {
	ctx, s := background(t), open(t, lease.Options{})
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		prefix := fmt.Sprintf("m%d/", round)
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := s.Watch(wctx, prefix)
		must(t, err)
		want := map[string]lease.Entry{}
		var last uint64
		key := func() string { return prefix + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key") }
		value := func() []byte { return rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "value") }
		// The revision to expect: mostly the entry's own, else any that was given out, or none.
		given := []uint64{0}
		expect := func(k string) uint64 {
			if e, ok := want[k]; ok && rapid.IntRange(0, 3).Draw(t, "stale") > 0 {
				return e.Revision
			}
			return rapid.SampledFrom(given).Draw(t, "at")
		}
		put := func(k string, v []byte, rev uint64) {
			if rev <= last {
				t.Fatalf("revision %d after %d", rev, last)
			}
			last, want[k] = rev, lease.Entry{Key: k, Value: v, Revision: rev}
			given = append(given, rev)
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				k, v := key(), value()
				rev, err := s.Create(ctx, k, v)
				if _, ok := want[k]; ok {
					wantKind(t, err, tidemill.ErrExists)
					return
				}
				must(t, err)
				put(k, v, rev)
			},
			"update": func(t *rapid.T) {
				k, v := key(), value()
				at := expect(k)
				rev, err := s.Update(ctx, k, v, at)
				if e, ok := want[k]; !ok || e.Revision != at {
					wantKind(t, err, tidemill.ErrConflict)
					return
				}
				must(t, err)
				put(k, v, rev)
			},
			"delete": func(t *rapid.T) {
				k := key()
				at := expect(k)
				err := s.Delete(ctx, k, at)
				if e, ok := want[k]; !ok || e.Revision != at {
					wantKind(t, err, tidemill.ErrConflict)
					return
				}
				must(t, err)
				delete(want, k)
			},
			"": func(t *rapid.T) {
				k := key()
				got, err := s.Get(ctx, k)
				e, ok := want[k]
				if !ok {
					wantKind(t, err, tidemill.ErrNotFound)
					return
				}
				must(t, err)
				if got.Revision != e.Revision || !bytes.Equal(got.Value, e.Value) {
					t.Fatalf("got %+v, want %+v", got, e)
				}
			},
		})
		end := prefix + "end"
		_, err = s.Create(ctx, end, nil)
		must(t, err)
		seen := map[string]lease.Entry{}
		for e := Next(t, w); e.Key != end; e = Next(t, w) {
			switch {
			case e.Deleted:
				delete(seen, e.Key)
			case e.Key != "":
				seen[e.Key] = e
			}
		}
		if len(seen) != len(want) {
			t.Fatalf("the watcher ended with %v, want %v", seen, want)
		}
		for k, e := range want {
			if got := seen[k]; got.Revision != e.Revision || !bytes.Equal(got.Value, e.Value) {
				t.Fatalf("the watcher ended with %+v, want %+v", got, e)
			}
		}
	})
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// Next returns the next entry of a watch, failing the test when none comes.
func Next(t fataler, w <-chan lease.Entry) lease.Entry {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case e, ok := <-w:
		if !ok {
			t.Fatalf("the watch ended")
		}
		return e
	case <-timer.C:
		t.Fatalf("nothing came from the watch in %v", patience)
	}
	return lease.Entry{}
}

func drain(t fataler, w <-chan lease.Entry) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case _, ok := <-w:
			if !ok {
				return
			}
		case <-timer.C:
			t.Fatalf("the watch did not end in %v", patience)
		}
	}
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func wantKind(t fataler, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want %v", err, kind)
	}
}

func background(t *testing.T) context.Context { return t.Context() }
