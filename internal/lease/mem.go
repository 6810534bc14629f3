package lease

import (
	"context"
	"crypto/rand"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
)

// Mem is a Store inside one process: for a single node without a stream, and for tests, where
// a testing/synctest bubble drives its clock.
type Mem struct {
	ttl         time.Duration
	incarnation string

	mu       sync.Mutex
	closed   bool
	rev      uint64
	entries  map[string]*memEntry
	watchers map[*memWatcher]struct{}
}

type memEntry struct {
	value []byte
	rev   uint64
	timer *time.Timer // nil without a TTL
}

// NewMem returns an empty store.
func NewMem(opts Options) (*Mem, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	return &Mem{
		ttl:         opts.TTL,
		incarnation: rand.Text(),
		rev:         uint64(time.Now().UnixMicro()),
		entries:     map[string]*memEntry{},
		watchers:    map[*memWatcher]struct{}{},
	}, nil
}

// Create implements Store.
func (m *Mem) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := Check(key, value); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return 0, err
	}
	if _, ok := m.entries[key]; ok {
		return 0, fmt.Errorf("create %s: %w", key, tidemill.ErrExists)
	}
	return m.put(key, value), nil
}

// Update implements Store.
func (m *Mem) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := Check(key, value); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return 0, err
	}
	if e, ok := m.entries[key]; !ok || e.rev != rev {
		return 0, fmt.Errorf("update %s: %w", key, tidemill.ErrConflict)
	}
	return m.put(key, value), nil
}

// Delete implements Store.
func (m *Mem) Delete(ctx context.Context, key string, rev uint64) error {
	if err := Check(key, nil); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	if e, ok := m.entries[key]; !ok || e.rev != rev {
		return fmt.Errorf("delete %s: %w", key, tidemill.ErrConflict)
	}
	m.remove(key)
	return nil
}

// Get implements Store.
func (m *Mem) Get(ctx context.Context, key string) (Entry, error) {
	if err := Check(key, nil); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return Entry{}, err
	}
	e, ok := m.entries[key]
	if !ok {
		return Entry{}, fmt.Errorf("key %s: %w", key, tidemill.ErrNotFound)
	}
	return e.entry(key), nil
}

// List implements Store.
func (m *Mem) List(ctx context.Context, prefix string) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	return m.list(prefix), nil
}

// Watch implements Store.
func (m *Mem) Watch(ctx context.Context, prefix string) (<-chan Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	w := newMemWatcher(prefix)
	for _, e := range m.list(prefix) {
		w.offer(e)
	}
	w.offer(Entry{})
	m.watchers[w] = struct{}{}
	go func() {
		w.run(ctx)
		m.mu.Lock()
		delete(m.watchers, w)
		m.mu.Unlock()
	}()
	return w.out, nil
}

// Incarnation implements Store.
func (m *Mem) Incarnation(context.Context) (string, error) { return m.incarnation, nil }

// TTL implements Store.
func (m *Mem) TTL() time.Duration { return m.ttl }

// Close implements Store. What it held is gone with it.
func (m *Mem) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, e := range m.entries {
		if e.timer != nil {
			e.timer.Stop()
		}
	}
	for w := range m.watchers {
		w.close()
	}
	return nil
}

// usable, put, remove, list: the caller holds m.mu.

func (m *Mem) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed {
		return fmt.Errorf("the lease store is closed: %w", tidemill.ErrUnavailable)
	}
	return nil
}

func (m *Mem) put(key string, value []byte) uint64 {
	m.rev++
	rev := m.rev
	e := m.entries[key]
	if e == nil {
		e = &memEntry{}
		m.entries[key] = e
	}
	e.value, e.rev = append([]byte(nil), value...), rev
	if m.ttl > 0 {
		if e.timer != nil {
			e.timer.Stop()
		}
		// The revision makes a timer that fired too late harmless.
		e.timer = time.AfterFunc(m.ttl, func() { m.expire(key, rev) })
	}
	m.tell(e.entry(key))
	return rev
}

func (m *Mem) expire(key string, rev uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[key]; ok && e.rev == rev && !m.closed {
		m.remove(key)
	}
}

func (m *Mem) remove(key string) {
	e := m.entries[key]
	if e.timer != nil {
		e.timer.Stop()
	}
	delete(m.entries, key)
	m.tell(Entry{Key: key, Deleted: true})
}

func (m *Mem) list(prefix string) []Entry {
	var out []Entry
	for k, e := range m.entries {
		if strings.HasPrefix(k, prefix) {
			out = append(out, e.entry(k))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
	return out
}

func (m *Mem) tell(e Entry) {
	for w := range m.watchers {
		if strings.HasPrefix(e.Key, w.prefix) {
			e.Value = append([]byte(nil), e.Value...)
			w.offer(e)
		}
	}
}

func (e *memEntry) entry(key string) Entry {
	return Entry{Key: key, Value: append([]byte(nil), e.value...), Revision: e.rev}
}

// memWatcher hands entries to one reader without ever making a writer wait: of each key it
// keeps the newest entry that the reader has not taken.
type memWatcher struct {
	prefix string
	out    chan Entry
	ready  chan struct{} // capacity 1
	done   chan struct{}

	mu      sync.Mutex
	closed  bool
	order   []string // keys with a pending entry, oldest first; "" is the caught-up mark
	pending map[string]Entry
	sent    map[string]uint64 // delivered and not deleted since: key → revision
}

func newMemWatcher(prefix string) *memWatcher {
	return &memWatcher{
		prefix: prefix, out: make(chan Entry), ready: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[string]Entry{}, sent: map[string]uint64{},
	}
}

func (w *memWatcher) offer(e Entry) {
	w.mu.Lock()
	if _, ok := w.pending[e.Key]; !ok {
		w.order = append(w.order, e.Key)
	}
	w.pending[e.Key] = e
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// next takes the oldest pending entry that the reader has to see.
func (w *memWatcher) next() (Entry, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.order) > 0 {
		key := w.order[0]
		w.order = w.order[1:]
		e := w.pending[key]
		delete(w.pending, key)
		if e.Deleted {
			rev, ok := w.sent[key]
			if !ok {
				continue
			}
			e.Revision = rev
			delete(w.sent, key)
		} else if key != "" {
			w.sent[key] = e.Revision
		}
		return e, true
	}
	return Entry{}, false
}

func (w *memWatcher) run(ctx context.Context) {
	defer close(w.out)
	for {
		e, ok := w.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-w.done:
				return
			case <-w.ready:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-w.done:
			return
		case w.out <- e:
		}
	}
}

func (w *memWatcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.done)
	}
}
