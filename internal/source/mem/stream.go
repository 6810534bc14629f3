package mem

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Config of a Stream. The zero value is usable.
type Config struct {
	// MaxBytes bounds the rows of all topics together, as rows.Size estimates them; 0 means
	// no bound. At 80 % of it, rows that no holder needs are dropped.
	MaxBytes int64
	// Now is the clock that stamps appends; nil means time.Now.
	Now func() time.Time
	// Mem serves the arrays that reading makes; nil means Go's heap.
	Mem memory.Allocator
}

// Stream implements source.Stream in memory.
type Stream struct {
	cfg Config

	mu     sync.Mutex
	topics map[string]*topic // guarded by mu
	made   int               // guarded by mu; topics ever made, for identities
	bytes  int64             // guarded by mu; size of all rows held
	closed bool              // guarded by mu
}

var _ source.Stream = (*Stream)(nil)

// New returns an empty Stream.
func New(cfg Config) *Stream {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Stream{cfg: cfg, topics: make(map[string]*topic)}
}

var errClosed = fmt.Errorf("the stream is closed: %w", tidemill.ErrUnavailable)

// Create implements source.Stream.
func (s *Stream) Create(ctx context.Context, name string, partitions int, schema *arrow.Schema) (source.Topic, error) {
	if err := source.CheckName("topic", name); err != nil {
		return nil, err
	}
	if err := source.CheckPartitions(name, partitions); err != nil {
		return nil, err
	}
	if schema != nil {
		var err error
		if schema, err = rows.Check(schema); err != nil {
			return nil, fmt.Errorf("topic %q: %w", name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if t := s.topics[name]; t != nil {
		if err := source.CheckExisting(name, len(t.parts), partitions); err != nil {
			return nil, err
		}
		if schema != nil {
			if err := rows.Compatible(t.schema, schema); err != nil {
				return nil, fmt.Errorf("topic %q: %w", name, err)
			}
		}
		return t, nil
	}
	if schema == nil {
		return nil, source.NotFound(name, s.names())
	}
	s.made++
	t := &topic{
		s: s, name: name, identity: fmt.Sprintf("mem-%d", s.made), schema: schema,
		holders: make(map[string]tidemill.Cut), wake: make(chan struct{}),
	}
	t.fitter = rows.NewFitter(schema, s.cfg.Mem)
	for range max(1, partitions) {
		t.parts = append(t.parts, &partition{keys: make(map[string]*keyLog)})
	}
	s.topics[name] = t
	return t, nil
}

// Open implements source.Stream.
func (s *Stream) Open(ctx context.Context, name string) (source.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	return nil, source.NotFound(name, s.names())
}

// names lists the topics, sorted; s.mu is held.
func (s *Stream) names() []string {
	names := make([]string, 0, len(s.topics))
	for n := range s.topics {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Topics implements source.Stream.
func (s *Stream) Topics(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	return s.names(), nil
}

// Delete implements source.Stream. Open handles and readers of the topic fail from then on.
func (s *Stream) Delete(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	t := s.topics[name]
	if t == nil {
		return source.NotFound(name, s.names())
	}
	delete(s.topics, name)
	t.kill(fmt.Errorf("topic %q was deleted: %w", name, tidemill.ErrNotFound))
	return nil
}

// Close drops all topics. Readers fail with tidemill.ErrUnavailable.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, t := range s.topics {
		t.kill(errClosed)
	}
	return nil
}
