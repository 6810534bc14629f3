package serving

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// Config says what a Server serves and within which limits.
type Config struct {
	// Store holds the models. Required.
	Store *blob.Bucket
	// Models are the models to serve. Empty: every model of the store, also those that come
	// later.
	Models []string
	// Poll is how often the store is asked for new champions; Hint makes it sooner. 0 means
	// one second.
	Poll time.Duration
	// MaxConcurrent is how many requests are answered at a time; more are refused as
	// unavailable. 0 means 64 per CPU.
	MaxConcurrent int
	// MaxBody is the largest HTTP body in bytes, after decompression; 0 means 64 MiB. The gRPC
	// server has a limit of its own.
	MaxBody int64
	// Isolator computes for engines that may end their process; nil computes all in this one.
	Isolator engine.Isolator
	// Version is the build's, for server metadata.
	Version string
	// NoReflection leaves gRPC reflection unregistered.
	NoReflection bool
	// Logger; nil discards.
	Logger *slog.Logger
	// Metrics registers the server's metrics; nil keeps them unregistered.
	Metrics prometheus.Registerer
	// Now is the clock of OnLive and of latencies; nil means time.Now.
	Now func() time.Time
	Events
}

// Events are called by the goroutine that follows the model; they should return soon.
type Events struct {
	// OnLive: from now on requests without a version are answered by this one.
	OnLive func(model string, version int64, cut tidemill.Cut, at time.Time)
	// OnRetired: the version left memory, after its last reader.
	OnRetired func(model string, version int64)
}

// Server serves models. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	health  *health.Server
	slots   chan struct{}
	running atomic.Bool
	leaving atomic.Bool

	// mu guards models, which only grows, and ready, which never falls; see also leaving.
	mu      sync.RWMutex
	models  map[string]*served
	scanned bool
	ready   bool
	// rescan asks for another look at which models the store has.
	rescan chan struct{}
}

// New returns a Server that Run brings to life, or ErrInvalid.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, tidemill.Invalid("serving without a store", "give one")
	}
	for _, m := range cfg.Models {
		if err := snapshot.CheckName("model", m); err != nil {
			return nil, err
		}
	}
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = 64 * runtime.GOMAXPROCS(0)
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, health: health.NewServer(), slots: make(chan struct{}, cfg.MaxConcurrent),
		models: map[string]*served{}, rescan: make(chan struct{}, 1),
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, err
	}
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	s.health.SetServingStatus(inferenceService, healthpb.HealthCheckResponse_NOT_SERVING)
	return s, nil
}

const inferenceService = "inference.GRPCInferenceService"

// Run follows the models until ctx ends; then it does what Leave does and returns nil.
// Requests are still answered after that, with the versions that are loaded, until the
// listeners close. Run may be called once.
func (s *Server) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("serving: Run was called twice")
	}
	defer s.Leave()
	g, ctx := errgroup.WithContext(ctx)
	follow := func(name string) {
		if m, added := s.add(name); added {
			g.Go(func() error { s.follow(ctx, m); return nil })
		}
	}
	for _, name := range s.cfg.Models {
		follow(name)
	}
	g.Go(func() error {
		s.discover(ctx, follow)
		return nil
	})
	return g.Wait()
}

// Live returns the version that answers requests without one, 0 if none does.
func (s *Server) Live(model string) int64 {
	if m := s.model(model); m != nil {
		if v := m.champion.Load(); v != nil {
			return v.number
		}
	}
	return 0
}

// Leave makes the server not ready for good, over every protocol, so that whoever spreads
// requests sends it none. Those that come are answered all the same, over HTTP with the hint to
// close the connection.
func (s *Server) Leave() {
	s.leaving.Store(true)
	s.health.Shutdown()
}

// Ready reports whether every configured model has a version. Once true it stays so until Leave.
func (s *Server) Ready() bool {
	if s.leaving.Load() {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ready
}

// Hint says that a model may have a new champion, so that it need not wait for the next poll.
func (s *Server) Hint(model string) {
	if m := s.model(model); m != nil {
		poke(m.hint)
		return
	}
	poke(s.rescan)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Server) model(name string) *served {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.models[name]
}

// add makes a model known.
func (s *Server) add(name string) (m *served, added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.models[name]; m != nil {
		return m, false
	}
	m = &served{name: name, hint: make(chan struct{}, 1)}
	s.models[name] = m
	s.health.SetServingStatus("model/"+name, healthpb.HealthCheckResponse_NOT_SERVING)
	return m, true
}

// settle recomputes readiness after something became known or live. With Models given each of
// them needs a version; otherwise each model that had a champion when the store was first
// looked through does.
func (s *Server) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready || !s.scanned {
		return
	}
	for _, m := range s.models {
		if m.champion.Load() != nil {
			continue
		}
		if len(s.cfg.Models) > 0 || !m.looked.Load() || m.awaited.Load() {
			return
		}
	}
	s.ready = true
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	s.health.SetServingStatus(inferenceService, healthpb.HealthCheckResponse_SERVING)
}
