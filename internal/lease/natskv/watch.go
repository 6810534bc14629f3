package natskv

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill/internal/lease"
)

const (
	// checkEvery is how often a watch asks whether the bucket is still the same one.
	checkEvery = 5 * time.Second
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// Watch implements lease.Store.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan lease.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, s.wrap("watch", prefix, errors.New("the store is closed"))
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{store: s, prefix: prefix, out: make(chan lease.Entry), known: map[string]uint64{}}
	s.watches[w] = cancel
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer close(w.out)
		w.run(ctx)
		cancel()
		s.mu.Lock()
		delete(s.watches, w)
		s.mu.Unlock()
	}()
	return w.out, nil
}

// watch turns any number of replays into one consistent sequence of entries: it remembers
// what it delivered, skips what is still so, and reports as deleted what is missing.
type watch struct {
	store  *Store
	prefix string
	out    chan lease.Entry
	known  map[string]uint64 // delivered and not deleted: key → revision
	marked bool              // the caught-up mark was delivered
}

func (w *watch) run(ctx context.Context) {
	nc := w.store.nc
	status := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(status)
	retry := retryFirst
	for ctx.Err() == nil && !nc.IsClosed() {
		if w.follow(ctx, status) {
			retry = retryFirst
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-status: // the connection is back: no need to wait
		}
		t.Stop()
		retry = min(2*retry, retryMost)
	}
}

// follow delivers one replay and what comes after it, until something says that the replay
// may have been cut: a reconnect, a bucket made anew, an ended subscription. It reports
// whether it got past the replay.
func (w *watch) follow(ctx context.Context, status <-chan nats.Status) bool {
	incarnation, err := w.store.Incarnation(ctx)
	if err != nil {
		return false
	}
	r, err := w.store.replay(ctx, w.prefix)
	if err != nil {
		return false
	}
	defer r.close()
	seen := map[string]bool{}
	caughtUp := false
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return caughtUp
		case <-status:
			return caughtUp
		case <-check.C:
			if now, err := w.store.Incarnation(ctx); err != nil || now != incarnation {
				return caughtUp
			}
		case e, ok := <-r.updates:
			switch {
			case !ok:
				return caughtUp
			case e != nil:
				ent, wanted := r.entry(e)
				if !wanted {
					continue
				}
				seen[ent.Key] = true
				if !w.deliver(ctx, ent) {
					return caughtUp
				}
			case !caughtUp:
				for key := range w.known {
					if !seen[key] && !w.deliver(ctx, lease.Entry{Key: key, Deleted: true}) {
						return false
					}
				}
				caughtUp, seen = true, map[string]bool{}
				if !w.marked {
					w.marked = true
					if !w.send(ctx, lease.Entry{}) {
						return true
					}
				}
			}
		}
	}
}

// deliver sends what the reader does not know yet; false when ctx ended.
func (w *watch) deliver(ctx context.Context, e lease.Entry) bool {
	rev, had := w.known[e.Key]
	switch {
	case e.Deleted && !had, !e.Deleted && had && rev == e.Revision:
		return true
	case e.Deleted:
		// Not the marker's own sequence: nobody may take that for a revision to write at.
		e.Revision = rev
		delete(w.known, e.Key)
	default:
		w.known[e.Key] = e.Revision
	}
	return w.send(ctx, e)
}

func (w *watch) send(ctx context.Context, e lease.Entry) bool {
	select {
	case <-ctx.Done():
		return false
	case w.out <- e:
		return true
	}
}

// replay is one subscription: the last message of each key below a prefix, a nil, then new
// messages.
type replay struct {
	prefix  string
	watcher jetstream.KeyWatcher
	updates <-chan jetstream.KeyValueEntry
	cancel  context.CancelFunc
}

func (s *Store) replay(ctx context.Context, prefix string) (*replay, error) {
	ctx, cancel := context.WithCancel(ctx)
	// The context is the subscription's for its whole life, so the time to set it up is bounded
	// beside it.
	slow := time.AfterFunc(attempt, cancel)
	defer slow.Stop()
	kv, err := s.js.KeyValue(ctx, s.bucket)
	if err != nil {
		cancel()
		return nil, err
	}
	// The server filters by whole parts between dots, the rest is done by entry.
	filter := jetstream.AllKeys
	if i := strings.LastIndexByte(prefix, '.'); i > 0 {
		filter = prefix[:i+1] + jetstream.AllKeys
	}
	kw, err := kv.Watch(ctx, filter)
	if err != nil {
		cancel()
		return nil, err
	}
	return &replay{prefix: prefix, watcher: kw, updates: kw.Updates(), cancel: cancel}, nil
}

// close ends the subscription without waiting: the library tells the server, which may be
// gone. Its callback may be waiting to hand over an entry, so the rest is read away until the
// library closes the channel.
func (r *replay) close() {
	r.cancel()
	go func() {
		_ = r.watcher.Stop() // already stopped when the connection is gone
	}()
	go func() {
		for range r.updates {
		}
	}()
}

// next returns the next entry that matches, nil when the replay is complete; false when ctx
// or the subscription ended.
func (r *replay) next(ctx context.Context) (*lease.Entry, bool) {
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case e, ok := <-r.updates:
			if !ok {
				return nil, false
			}
			if e == nil {
				return nil, true
			}
			if ent, wanted := r.entry(e); wanted {
				return &ent, true
			}
		}
	}
}

func (r *replay) entry(e jetstream.KeyValueEntry) (lease.Entry, bool) {
	key := e.Key()
	if key == incarnationKey || !strings.HasPrefix(key, r.prefix) {
		return lease.Entry{}, false
	}
	ent := lease.Entry{Key: key, Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut}
	if !ent.Deleted {
		ent.Value = e.Value()
	}
	return ent, true
}
