package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"gocloud.dev/blob"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// parityTolerance is how far an answer to a probe row may be from the trainer's, relative to
// max(1, |prediction|).
const parityTolerance = 1e-5

// maxBackoff is the longest wait before a version that failed to load is tried again.
const maxBackoff = 30 * time.Second

// discover finds the models of the store, unless they were given, until ctx ends.
func (s *Server) discover(ctx context.Context, follow func(name string)) {
	failed := false
	tick := time.NewTicker(s.cfg.Poll)
	defer tick.Stop()
	for {
		var err error
		if len(s.cfg.Models) == 0 {
			err = s.scan(ctx, follow)
		}
		if err == nil {
			s.mu.Lock()
			s.scanned = true
			s.mu.Unlock()
			s.settle()
		}
		if err != nil && ctx.Err() == nil && !failed {
			s.log.Warn("the store's models cannot be listed", "error", err)
		}
		failed = err != nil
		if len(s.cfg.Models) > 0 {
			<-ctx.Done()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.rescan:
		}
	}
}

// scan follows every model that the store has anything of.
func (s *Server) scan(ctx context.Context, follow func(name string)) error {
	const root = "models/"
	it := s.cfg.Store.List(&blob.ListOptions{Prefix: root, Delimiter: "/"})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(o.Key, root), "/")
		if o.IsDir && snapshot.CheckName("model", name) == nil {
			follow(name)
		}
	}
}

// follow applies a model's champion records until ctx ends. It is the one writer of what the
// model serves.
func (s *Server) follow(ctx context.Context, m *served) {
	chain, err := snapshot.Champions(s.cfg.Store, m.name)
	if err != nil { // names were checked
		s.log.Error("a model cannot be followed", "model", m.name, "error", err)
		return
	}
	var (
		core     Core
		complain string
		backoff  time.Duration
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.hint:
		}
		err := s.catchUp(ctx, m, chain, &core)
		wait := s.cfg.Poll
		if err != nil && ctx.Err() == nil {
			// One record at a time is tried, so the same text means the same trouble.
			if text := err.Error(); text != complain {
				s.log.Error("the champion cannot be served; what served before still does", "model", m.name, "error", err)
				complain = text
			}
			backoff = min(max(2*backoff, s.cfg.Poll), maxBackoff)
			wait = backoff
		} else {
			complain, backoff = "", 0
		}
		timer.Reset(wait)
	}
}

// catchUp looks for a newer champion record and serves its version. Records in between are
// skipped: only the last one counts.
func (s *Server) catchUp(ctx context.Context, m *served, chain *snapshot.Chain, core *Core) error {
	_, rec, err := snapshot.LastChampion(ctx, chain)
	if err != nil {
		return err
	}
	m.awaited.Store(rec != nil)
	m.looked.Store(true)
	next, ok := core.Next(rec)
	if !ok {
		s.settle()
		return nil
	}
	start := s.cfg.Now()
	if now := m.champion.Load(); now == nil || now.number != next {
		v := m.loaded(next)
		if v == nil {
			if v, err = s.load(ctx, m.name, next); err != nil {
				s.metrics.loads.WithLabelValues(m.name, "failed").Inc()
				return err
			}
			s.metrics.loads.WithLabelValues(m.name, "loaded").Inc()
			s.metrics.bytes.WithLabelValues(m.name).Add(float64(v.model.Bytes()))
		}
		s.live(m, v, start)
	}
	core.Live(rec)
	return nil
}

// live flips m to v and tells everybody.
func (s *Server) live(m *served, v *version, start time.Time) {
	cut := v.model.Version().Cut
	before := m.flip(v)
	at := s.cfg.Now()
	s.metrics.swap.WithLabelValues(m.name).Observe(at.Sub(start).Seconds())
	s.metrics.version.WithLabelValues(m.name, "champion").Set(float64(v.number))
	s.metrics.version.WithLabelValues(m.name, "previous").Set(float64(before))
	s.log.Info("version is live", "model", m.name, "version", v.number, "before", before, "took", at.Sub(start))
	s.health.SetServingStatus("model/"+m.name, healthpb.HealthCheckResponse_SERVING)
	s.settle()
	if s.cfg.OnLive != nil {
		s.cfg.OnLive(m.name, v.number, cut, at)
	}
}

// load reads a version and proves it: whole, finite, answering, and as the trainer did.
func (s *Server) load(ctx context.Context, name string, number int64) (v *version, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("version %d of model %s panics when it is loaded: %v", number, name, p)
		}
	}()
	files, err := snapshot.ReadVersion(ctx, s.cfg.Store, name, number)
	if err != nil {
		return nil, err
	}
	m, err := predict.LoadIn(files, s.cfg.Isolator)
	if err != nil {
		return nil, err
	}
	defer func() {
		if v == nil {
			m.Close()
		}
	}()
	if err := prove(m); err != nil {
		return nil, fmt.Errorf("version %d of model %s: %w", number, name, err)
	}
	return newVersion(m, func() {
		m.Close()
		s.metrics.bytes.WithLabelValues(name).Sub(float64(m.Bytes()))
		if s.cfg.OnRetired != nil {
			s.cfg.OnRetired(name, number)
		}
	})
}

// prove warms m up and checks what can be checked without labels.
func prove(m *predict.Model) error {
	if err := m.Finite(); err != nil {
		return fmt.Errorf("%w: %v", tidemill.ErrCorrupt, err)
	}
	if err := m.Warm(); err != nil {
		return err
	}
	rows, diff, err := m.Parity()
	if err != nil {
		return err
	}
	if rows > 0 && !(diff <= parityTolerance) || math.IsNaN(diff) {
		return fmt.Errorf("%w: its answers to %d probe rows differ from the trainer's by %.2g", tidemill.ErrCorrupt, rows, diff)
	}
	return nil
}
