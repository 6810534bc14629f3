package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
)

// What a faulty way to the store does to a write.
const (
	fine   = iota
	refuse // fails at once, nothing written
	hang   // nothing written, no answer until the context ends
	mute   // written, but no answer until the context ends
	slow   // written, answered slowWait later
)

const slowWait = 2 * time.Second

// faulty is one process's way to a shared store.
type faulty struct {
	lease.Store
	mode atomic.Int32
}

func (f *faulty) through(ctx context.Context, write func() error) error {
	unreachable := fmt.Errorf("cut off: %w", tidemill.ErrUnavailable)
	switch f.mode.Load() {
	case refuse:
		return unreachable
	case hang:
		<-ctx.Done()
		return unreachable
	case slow:
		err := write()
		<-time.After(slowWait)
		return err
	case mute:
		if err := write(); err != nil {
			return err
		}
		<-ctx.Done()
		return unreachable
	}
	return write()
}

func (f *faulty) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	err = f.through(ctx, func() (err error) { rev, err = f.Store.Create(ctx, key, value); return })
	return rev, err
}

func (f *faulty) Update(ctx context.Context, key string, value []byte, at uint64) (rev uint64, err error) {
	err = f.through(ctx, func() (err error) { rev, err = f.Store.Update(ctx, key, value, at); return })
	return rev, err
}

func (f *faulty) Delete(ctx context.Context, key string, rev uint64) error {
	return f.through(ctx, func() error { return f.Store.Delete(ctx, key, rev) })
}

const ttl = 3 * time.Second

func start(t *testing.T, ctx context.Context, store lease.Store, value string) (*lease.Session, <-chan error) {
	t.Helper()
	s, err := lease.NewSession(store, "leader", []byte(value), lease.SessionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, done
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestSessionHoldsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openMem(t, lease.Options{TTL: ttl})
		ctx, cancel := context.WithCancel(t.Context())
		a, aDone := start(t, ctx, store, "a")
		synctest.Wait()
		if !closed(a.Acquired()) || !a.Valid() || a.Epoch() == 0 {
			t.Fatal("a free lease was not acquired at once")
		}
		bctx, bcancel := context.WithCancel(t.Context())
		b, bDone := start(t, bctx, store, "b")
		epoch := a.Epoch()
		for range 100 {
			<-time.After(ttl / 7)
			if !a.Valid() || b.Valid() || closed(b.Acquired()) || closed(a.Lost()) {
				t.Fatal("the holder changed")
			}
		}
		e, err := store.Get(ctx, "leader")
		if err != nil || e.Revision <= epoch || a.Epoch() != epoch {
			t.Fatalf("epoch %d → %d, entry %+v, %v", epoch, a.Epoch(), e, err)
		}
		if err := a.SetValue([]byte("a2")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if e, _ := store.Get(ctx, "leader"); string(e.Value) != "a2" {
			t.Fatalf("the entry says %q after SetValue", e.Value)
		}
		cancel()
		synctest.Wait()
		if err := <-aDone; err != nil || a.Valid() || !closed(a.Lost()) {
			t.Fatalf("after its context: %v, valid %v", err, a.Valid())
		}
		if !b.Valid() || b.Epoch() <= epoch {
			t.Fatalf("a released lease was not taken over at once: valid %v, epoch %d after %d", b.Valid(), b.Epoch(), epoch)
		}
		bcancel()
		<-bDone
	})
}

// An answer that took most of the lease's time leaves little of it, and that is used.
func TestSessionAnsweredLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := &faulty{Store: openMem(t, lease.Options{TTL: ttl})}
		way.mode.Store(slow)
		ctx, cancel := context.WithCancel(t.Context())
		s, done := start(t, ctx, way, "a")
		<-time.After(slowWait / 2)
		way.mode.Store(fine)
		<-s.Acquired()
		for range 20 {
			if !s.Valid() || closed(s.Lost()) {
				t.Fatal("the lease was given up without an attempt to renew it")
			}
			<-time.After(ttl / 7)
		}
		cancel()
		<-done
	})
}

func TestSessionCutOff(t *testing.T) {
	for _, mode := range []int32{refuse, hang, mute} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := openMem(t, lease.Options{TTL: ttl})
				way := &faulty{Store: store}
				a, aDone := start(t, t.Context(), way, "a")
				synctest.Wait()
				epoch := a.Epoch()
				ctx, cancel := context.WithCancel(t.Context())
				b, bDone := start(t, ctx, store, "b")
				way.mode.Store(mode)
				for !b.Valid() {
					<-time.After(10 * time.Millisecond)
					if a.Valid() && b.Valid() {
						t.Fatal("two holders")
					}
				}
				if !closed(a.Lost()) || b.Epoch() <= epoch {
					t.Fatalf("lost %v, epoch %d after %d", closed(a.Lost()), b.Epoch(), epoch)
				}
				if err := <-aDone; !errors.Is(err, tidemill.ErrFenced) {
					t.Fatalf("the cut off holder returned %v", err)
				}
				cancel()
				<-bDone
			})
		})
	}
}

// TestSessionRidesOut: a store that is away for less than the lease lasts costs nothing.
func TestSessionRidesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := &faulty{Store: openMem(t, lease.Options{TTL: ttl})}
		ctx, cancel := context.WithCancel(t.Context())
		a, done := start(t, ctx, way, "a")
		synctest.Wait()
		for range 10 {
			way.mode.Store(refuse)
			<-time.After(1300 * time.Millisecond)
			way.mode.Store(fine)
			<-time.After(2 * time.Second)
			if !a.Valid() {
				t.Fatal("lost")
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestSessionTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openMem(t, lease.Options{TTL: ttl})
		a, done := start(t, t.Context(), store, "a")
		synctest.Wait()
		e, err := store.Get(t.Context(), "leader")
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Delete(t.Context(), "leader", e.Revision); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, tidemill.ErrFenced) || a.Valid() || !closed(a.Lost()) {
			t.Fatalf("after its entry was deleted: %v, valid %v", err, a.Valid())
		}
	})
}

// TestSessionConfirm: only the store can confirm a lease, and one that it has given to somebody
// else, or does not answer for, is not confirmed.
func TestSessionConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := openMem(t, lease.Options{TTL: ttl})
		way := &faulty{Store: store}
		ctx, cancel := context.WithCancel(t.Context())
		s, done := start(t, ctx, way, "a")
		synctest.Wait()
		before, err := store.Get(ctx, "leader")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err := store.Get(ctx, "leader"); err != nil || e.Revision <= before.Revision {
			t.Fatalf("confirmed without the store: revision %d after %d, %v", e.Revision, before.Revision, err)
		}
		way.mode.Store(hang) // not even a renewal that is under way counts
		short, over := context.WithTimeout(ctx, ttl/6)
		if err := s.Confirm(short); !errors.Is(err, tidemill.ErrUnavailable) {
			t.Fatalf("confirmed by nobody: %v", err)
		}
		over()
		way.mode.Store(fine)
		e, err := store.Get(ctx, "leader")
		if err == nil {
			err = store.Delete(ctx, "leader", e.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.Create(ctx, "leader", []byte("b")); err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx); !errors.Is(err, tidemill.ErrFenced) {
			t.Fatalf("confirmed although another holds it: %v", err)
		}
		cancel()
		<-done
	})
}

func TestSessionRefusals(t *testing.T) {
	forever, short := openMem(t, lease.Options{}), openMem(t, lease.Options{TTL: ttl})
	for name, c := range map[string]struct {
		store lease.Store
		key   string
		cfg   lease.SessionConfig
	}{
		"no TTL":        {forever, "k", lease.SessionConfig{}},
		"bad key":       {short, "_k", lease.SessionConfig{}},
		"slow renewal":  {short, "k", lease.SessionConfig{Renew: ttl}},
		"no time left":  {short, "k", lease.SessionConfig{Renew: ttl / 2, Margin: ttl / 2}},
		"negative":      {short, "k", lease.SessionConfig{Renew: -1}},
		"negative slip": {short, "k", lease.SessionConfig{Margin: -1}},
	} {
		if _, err := lease.NewSession(c.store, c.key, nil, c.cfg); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, d := range []time.Duration{-1, time.Millisecond, 1500 * time.Millisecond, 25 * time.Hour} {
		if _, err := lease.NewMem(lease.Options{TTL: d}); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("TTL %v: %v", d, err)
		}
	}
}

// fault is what happens to one process's way to the store for a while.
type fault struct {
	who      int
	mode     int32
	from, to time.Duration
}

// TestSessionNeverTwo lets processes with random faults contend: at no moment do two hold the
// lease, epochs grow from holder to holder, and once the faults end somebody holds it.
func TestSessionNeverTwo(t *testing.T) {
	const processes = 3
	rapid.Check(t, func(rt *rapid.T) {
		faults := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fault {
			from := time.Duration(rapid.IntRange(0, 20_000).Draw(t, "from")) * time.Millisecond
			return fault{
				who: rapid.IntRange(0, processes-1).Draw(t, "who"), mode: rapid.Int32Range(refuse, mute).Draw(t, "mode"),
				from: from, to: from + time.Duration(rapid.IntRange(1, 8_000).Draw(t, "for"))*time.Millisecond,
			}
		}), 0, 8).Draw(rt, "faults")
		var problem string
		synctest.Test(t, func(t *testing.T) { problem = contend(t, processes, faults) })
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

func contend(t *testing.T, processes int, faults []fault) (problem string) {
	store, err := lease.NewMem(lease.Options{TTL: ttl})
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		store.Close()
	}()
	ways := make([]*faulty, processes)
	holders := make([]atomic.Pointer[lease.Session], processes)
	for i := range ways {
		ways[i] = &faulty{Store: store}
		wg.Go(func() {
			for ctx.Err() == nil {
				s, err := lease.NewSession(ways[i], "leader", nil, lease.SessionConfig{})
				if err != nil {
					panic(err)
				}
				holders[i].Store(s)
				_ = s.Run(ctx) // lost: begin again
			}
		})
	}
	const step = 20 * time.Millisecond
	var epoch uint64
	last := -1
	for at := time.Duration(0); at < 28*time.Second+3*ttl; at += step {
		for i, w := range ways {
			mode := int32(fine)
			for _, f := range faults {
				if f.who == i && f.from <= at && at < f.to {
					mode = f.mode
				}
			}
			w.mode.Store(mode)
		}
		<-time.After(step)
		holder := -1
		for i := range holders {
			s := holders[i].Load()
			if s == nil || !s.Valid() {
				continue
			}
			if holder >= 0 {
				return fmt.Sprintf("at %v both %d and %d hold the lease", at, holder, i)
			}
			holder = i
			if s.Epoch() < epoch || s.Epoch() == epoch && last != i {
				return fmt.Sprintf("at %v process %d has epoch %d after %d of process %d", at, i, s.Epoch(), epoch, last)
			}
			epoch, last = s.Epoch(), i
		}
		if at > 28*time.Second+2*ttl && holder < 0 {
			return fmt.Sprintf("at %v, %v after the last fault, nobody holds the lease", at, at-28*time.Second)
		}
	}
	return ""
}
