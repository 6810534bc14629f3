package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// Router is a stream that also opens topics in Kafka where a job's spec says so. It keeps the
// Streams that it made, one per way to reach and read Kafka; the other methods are those of the
// stream it was made of.
type Router struct {
	source.Stream
	cfg Config

	mu     sync.Mutex
	open   map[string]*Stream // guarded by mu; by spec as JSON
	closed bool               // guarded by mu
}

var _ source.SpecOpener = (*Router)(nil)

// NewRouter returns a Router over own, which stays the caller's. cfg.Spec is not used.
func NewRouter(own source.Stream, cfg Config) *Router {
	return &Router{Stream: own, cfg: cfg, open: map[string]*Stream{}}
}

// OpenSpec implements source.SpecOpener.
func (r *Router) OpenSpec(ctx context.Context, spec *tidemill.StreamSpec) (source.Topic, error) {
	if spec.Kafka == nil {
		return r.Open(ctx, spec.Topic)
	}
	s, err := r.stream(spec.Kafka)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, spec.Topic)
}

func (r *Router) stream(spec *tidemill.KafkaSpec) (*Stream, error) {
	key, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("stream.kafka: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("the stream is closed: %w", tidemill.ErrUnavailable)
	}
	if s := r.open[string(key)]; s != nil {
		return s, nil
	}
	cfg := r.cfg
	own := *spec
	cfg.Spec = &own
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	r.open[string(key)] = s
	return s, nil
}

// Close closes the connections to Kafka, not the stream that the Router was made of.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, s := range r.open {
		s.Close()
	}
	r.open = nil
	return nil
}
