package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
)

// SessionConfig says how a lease is held. The store's TTL is the lease's; 3 s is a good one.
type SessionConfig struct {
	// Renew is how often the entry is written again. Default: a third of the TTL.
	Renew time.Duration
	// Margin is how long before the entry can expire the holder stops believing in it; it
	// covers the time a request needs to take effect. Default: a sixth of the TTL (500 ms of 3 s).
	Margin time.Duration
	// Logger receives acquisition, loss and failing renewals. Default: discard.
	Logger *slog.Logger
}

// Session holds one lease, once: when it is lost, make a new one, which gets a new epoch. All
// methods are safe for concurrent use; Run is called once.
type Session struct {
	store  Store
	key    string
	cfg    SessionConfig
	ttl    time.Duration
	logger *slog.Logger

	acquired chan struct{} // closed by Run
	lost     chan struct{} // closed by Run
	kick     chan struct{} // capacity 1: asks for a renewal now

	mu       sync.Mutex
	value    []byte
	epoch    uint64
	deadline time.Time     // monotonic; zero when not held
	asked    uint64        // renewals begun
	granted  uint64        // the last of them that succeeded
	renewed  chan struct{} // closed and replaced by each that succeeds
}

// releaseWait bounds how long Run, once told to end, waits for the store.
const releaseWait = time.Second

// NewSession prepares a lease of key in a store that has a TTL. value tells others who holds
// it; it is written as given.
func NewSession(store Store, key string, value []byte, cfg SessionConfig) (*Session, error) {
	if err := Check(key, value); err != nil {
		return nil, err
	}
	ttl := store.TTL()
	if ttl <= 0 {
		return nil, tidemill.Invalid("the lease %s is in a store whose entries never expire", "open the store with a TTL", key)
	}
	if cfg.Renew == 0 {
		cfg.Renew = ttl / 3
	}
	if cfg.Margin == 0 {
		cfg.Margin = ttl / 6
	}
	if cfg.Renew <= 0 || cfg.Margin <= 0 || cfg.Renew+cfg.Margin >= ttl {
		return nil, tidemill.Invalid("the lease %s cannot be renewed every %v with a margin of %v before it expires after %v",
			"make renewal and margin together shorter than the TTL", key, cfg.Renew, cfg.Margin, ttl)
	}
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Session{
		store: store, key: key, cfg: cfg, ttl: ttl, logger: logger.With("lease", key),
		value:    append([]byte(nil), value...),
		acquired: make(chan struct{}), lost: make(chan struct{}), kick: make(chan struct{}, 1), renewed: make(chan struct{}),
	}, nil
}

// Acquired is closed once the lease is held for the first time.
func (s *Session) Acquired() <-chan struct{} { return s.acquired }

// Lost is closed when a lease that was held no longer is: taken, expired, not renewed in
// time, or released at the end of Run.
func (s *Session) Lost() <-chan struct{} { return s.lost }

// Epoch is the revision at which the lease was acquired, 0 before.
func (s *Session) Epoch() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Valid reports whether the lease is held, by this process's monotonic clock: from the start
// of the last renewal that succeeded until TTL − Margin later. Ask immediately before acting
// as the owner.
func (s *Session) Valid() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.deadline)
}

// Confirm has the store say that the lease is held: it renews now, and returns nil once a renewal
// that began after the call has succeeded. Whoever acquires the lease next does so later than
// that. So what was read before Confirm is the work of this holder or of an earlier one, and a
// compare-and-set on its revision can never replace what a later one wrote, however late it
// arrives: Valid cannot promise that, since a clock may stand still or go back. An error wraps
// tidemill.ErrFenced (the lease is lost) or tidemill.ErrUnavailable (ctx has ended).
func (s *Session) Confirm(ctx context.Context) error {
	s.mu.Lock()
	after := s.asked
	s.mu.Unlock()
	s.renewSoon()
	for {
		s.mu.Lock()
		done, renewed := s.granted > after, s.renewed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-renewed:
		case <-s.lost:
			return fmt.Errorf("lease %s: %w", s.key, tidemill.ErrFenced)
		case <-ctx.Done():
			return fmt.Errorf("lease %s was not confirmed: %w: %w", s.key, tidemill.ErrUnavailable, ctx.Err())
		}
	}
}

func (s *Session) renewSoon() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// SetValue replaces what others see from the next renewal on, and renews soon.
func (s *Session) SetValue(value []byte) error {
	if err := Check(s.key, value); err != nil {
		return err
	}
	s.mu.Lock()
	s.value = append([]byte(nil), value...)
	s.mu.Unlock()
	s.renewSoon()
	return nil
}

// Run acquires the lease, waiting for as long as another holds it, renews it until ctx ends,
// and deletes it then, so that the next holder need not wait for its expiry. It returns nil
// when ctx ended, and an error wrapping tidemill.ErrFenced when the lease was lost. When it
// returns, Valid is false.
func (s *Session) Run(ctx context.Context) error {
	rev, err := s.acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer close(s.lost)
	close(s.acquired)
	s.logger.Info("lease acquired", "epoch", rev)
	rev, err = s.renew(ctx, rev)
	s.mu.Lock()
	s.deadline = time.Time{}
	s.mu.Unlock()
	if err != nil {
		s.logger.Warn("lease lost", "error", err)
		return err
	}
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
	defer cancel()
	if err := s.store.Delete(rctx, s.key, rev); err != nil {
		s.logger.Info("lease not released; it expires by itself", "error", err)
	} else {
		s.logger.Info("lease released")
	}
	return nil
}

// acquire returns the revision of the entry once it is ours.
func (s *Session) acquire(ctx context.Context) (uint64, error) {
	// The watch only says when to try again; the timer covers a watch that is behind.
	wctx, stop := context.WithCancel(ctx)
	defer stop()
	watch, err := s.store.Watch(wctx, s.key)
	if err != nil {
		watch = nil
	}
	waiting := false
	for {
		start := time.Now()
		s.mu.Lock()
		value := s.value
		s.mu.Unlock()
		actx, cancel := context.WithTimeout(ctx, s.ttl-s.cfg.Margin)
		rev, err := s.store.Create(actx, s.key, value)
		cancel()
		var wait time.Duration
		switch {
		case err == nil:
			s.mu.Lock()
			s.epoch = rev
			s.deadline = start.Add(s.ttl - s.cfg.Margin)
			s.mu.Unlock()
			return rev, nil
		case errors.Is(err, tidemill.ErrInvalid), errors.Is(err, tidemill.ErrDenied):
			return 0, fmt.Errorf("lease %s: %w", s.key, err)
		case errors.Is(err, tidemill.ErrExists):
			wait = s.cfg.Renew
			if !waiting {
				s.logger.Info("lease is held elsewhere; waiting")
			}
			waiting = true
		default:
			wait = s.cfg.Renew / 2
			s.logger.Warn("lease not acquired yet; trying again", "error", err)
		}
		timer := time.NewTimer(wait)
		for again := false; !again; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return 0, ctx.Err()
			case <-timer.C:
				again = true
			case e, ok := <-watch:
				if !ok {
					watch = nil
					continue
				}
				again = e.Key == s.key && e.Deleted
			}
		}
		timer.Stop()
	}
}

// renew keeps the entry until ctx ends, returning its last revision and nil, or until the
// lease is lost.
func (s *Session) renew(ctx context.Context, rev uint64) (uint64, error) {
	failed := false
	for {
		s.mu.Lock()
		deadline := s.deadline
		s.mu.Unlock()
		left := time.Until(deadline)
		wait := s.cfg.Renew / 10
		if !failed {
			// Counted from when the last request left, as the deadline is: its answer may have
			// taken most of the time that there is.
			wait = max(0, left-(s.ttl-s.cfg.Margin-s.cfg.Renew))
		}
		wait = min(wait, left)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return rev, nil
		case <-s.kick:
			timer.Stop()
		case <-timer.C:
		}
		start := time.Now()
		if !start.Before(deadline) {
			return rev, fmt.Errorf("lease %s was not renewed within %v: %w", s.key, s.ttl-s.cfg.Margin, tidemill.ErrFenced)
		}
		s.mu.Lock()
		s.asked++
		value := s.value
		s.mu.Unlock()
		next, err := s.update(ctx, value, rev, deadline)
		switch {
		case err == nil:
			rev, failed = next, false
			s.mu.Lock()
			s.deadline = start.Add(s.ttl - s.cfg.Margin)
			s.granted = s.asked
			close(s.renewed)
			s.renewed = make(chan struct{})
			s.mu.Unlock()
		case errors.Is(err, tidemill.ErrConflict):
			return rev, fmt.Errorf("lease %s was taken or had expired: %w", s.key, tidemill.ErrFenced)
		case ctx.Err() != nil:
			return rev, nil
		default:
			// Update may have happened; a store that can repeat a write safely has done so until
			// the deadline, so this loop ends by it soon.
			failed = true
			s.logger.Warn("lease not renewed; trying again", "error", err)
		}
	}
}

// update writes the entry by the deadline. When ctx ends meanwhile the write gets a moment to
// finish, so that the release knows the revision.
func (s *Session) update(ctx context.Context, value []byte, rev uint64, deadline time.Time) (uint64, error) {
	uctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(releaseWait/2, cancel)
		context.AfterFunc(uctx, func() { t.Stop() })
	})
	defer stop()
	return s.store.Update(uctx, s.key, value, rev)
}
