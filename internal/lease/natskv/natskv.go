package natskv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
)

// Options says how a bucket is made. All who open a bucket must agree on TTL and Memory.
type Options struct {
	// TTL as in lease.Options; 0 for entries that stay.
	TTL time.Duration
	// Memory keeps the bucket in the server's memory: no fsync delays a write, and all is lost
	// with the server. For sessions; records stay on disk.
	Memory bool
	// Replicas is the number of servers that hold the bucket, where the server is a cluster.
	// Default 1.
	Replicas int
}

const (
	incarnationKey = "_incarnation"
	// markerTTL is how long the trace of a deletion stays, so that watchers who were away for
	// less receive it as such.
	markerTTL = time.Hour
	// attempt bounds one request; a write is repeated until its context ends, or giveUp.
	attempt = 2 * time.Second
	giveUp  = 10 * time.Second
)

// Store is a lease.Store in one bucket. It does not own the connection.
type Store struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	bucket string
	opts   Options

	mu      sync.Mutex
	closed  bool
	watches map[*watch]context.CancelFunc
	running sync.WaitGroup // watches
}

var _ lease.Store = (*Store)(nil)

// Open makes the bucket if need be. bucket is letters, digits, - and _.
func Open(ctx context.Context, nc *nats.Conn, bucket string, opts Options) (*Store, error) {
	if err := (lease.Options{TTL: opts.TTL}).Validate(); err != nil {
		return nil, err
	}
	if bucket == "" || strings.Trim(bucket, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return nil, tidemill.Invalid("%.80q cannot name a bucket", "use letters, digits, - and _", bucket)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w: %w", bucket, tidemill.ErrUnavailable, err)
	}
	s := &Store{nc: nc, js: js, bucket: bucket, opts: opts, watches: map[*watch]context.CancelFunc{}}
	if err := s.ensure(ctx); err != nil {
		return nil, s.wrap("open", "", err)
	}
	if _, err := s.Incarnation(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Create implements lease.Store.
func (s *Store) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := lease.Check(key, value); err != nil {
		return 0, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	rev, err := s.write(ctx, s.message(key, value, 0))
	if errors.Is(err, tidemill.ErrConflict) {
		// Something is there: an entry, or the marker of one that is gone.
		last, lerr := s.last(ctx, key)
		switch {
		case errors.Is(lerr, tidemill.ErrNotFound): // the marker itself expired in between
			rev, err = s.write(ctx, s.message(key, value, 0))
		case lerr != nil:
			return 0, s.wrap("create", key, lerr)
		case gone(last.Header):
			rev, err = s.write(ctx, s.message(key, value, last.Sequence))
		}
	}
	if errors.Is(err, tidemill.ErrConflict) {
		return 0, fmt.Errorf("create %s: %w", key, tidemill.ErrExists)
	}
	return rev, s.wrap("create", key, err)
}

// Update implements lease.Store.
func (s *Store) Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if err := lease.Check(key, value); err != nil {
		return 0, err
	}
	if rev == 0 {
		return 0, fmt.Errorf("update %s at revision 0: %w", key, tidemill.ErrConflict)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	next, err := s.write(ctx, s.message(key, value, rev))
	return next, s.wrap("update", key, err)
}

// Delete implements lease.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) error {
	if err := lease.Check(key, nil); err != nil {
		return err
	}
	if rev == 0 {
		return fmt.Errorf("delete %s at revision 0: %w", key, tidemill.ErrConflict)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	m := s.message(key, nil, rev)
	m.Header.Set("KV-Operation", "PURGE")
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	m.Header.Set(jetstream.MsgTTLHeader, markerTTL.String())
	_, err := s.write(ctx, m)
	return s.wrap("delete", key, err)
}

// Get implements lease.Store.
func (s *Store) Get(ctx context.Context, key string) (lease.Entry, error) {
	if err := lease.Check(key, nil); err != nil {
		return lease.Entry{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := s.last(ctx, key)
	if err == nil && gone(m.Header) {
		err = tidemill.ErrNotFound
	}
	if err != nil {
		return lease.Entry{}, s.wrap("read", key, err)
	}
	return lease.Entry{Key: key, Value: m.Data, Revision: m.Sequence}, nil
}

// List implements lease.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]lease.Entry, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := s.replay(ctx, prefix)
	if err != nil {
		return nil, s.wrap("list", prefix, err)
	}
	defer r.close()
	var out []lease.Entry
	for {
		e, ok := r.next(ctx)
		switch {
		case !ok:
			return nil, s.wrap("list", prefix, context.DeadlineExceeded)
		case e == nil:
			sort.Slice(out, func(i, j int) bool { return out[i].Key < out[j].Key })
			return out, nil
		case !e.Deleted:
			out = append(out, *e)
		}
	}
}

// Incarnation implements lease.Store.
func (s *Store) Incarnation(ctx context.Context) (string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		m, err := s.last(ctx, incarnationKey)
		switch {
		case err == nil:
			return string(m.Data), nil
		case !errors.Is(err, tidemill.ErrNotFound):
			return "", s.wrap("read", incarnationKey, err)
		}
		// New or emptied: whoever is first names it.
		m2 := s.message(incarnationKey, []byte(rand.Text()), 0)
		m2.Header.Del(jetstream.MsgTTLHeader)
		if _, err := s.write(ctx, m2); err != nil && !errors.Is(err, tidemill.ErrConflict) {
			return "", s.wrap("create", incarnationKey, err)
		}
	}
}

// TTL implements lease.Store.
func (s *Store) TTL() time.Duration { return s.opts.TTL }

// Close implements lease.Store. The connection stays open.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, cancel := range s.watches {
		cancel()
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// bounded gives a request without a deadline one.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, giveUp)
}

func (s *Store) subject(key string) string { return "$KV." + s.bucket + "." + key }

// message is a write of key that expects the subject's last sequence to be rev.
func (s *Store) message(key string, value []byte, rev uint64) *nats.Msg {
	m := nats.NewMsg(s.subject(key))
	m.Data = value
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(rev, 10))
	m.Header.Set(jetstream.MsgIDHeader, rand.Text())
	if s.opts.TTL > 0 {
		m.Header.Set(jetstream.MsgTTLHeader, s.opts.TTL.String())
	}
	return m
}

// write publishes m until there is a clear answer or ctx ends. It returns the new sequence, or
// an error that is tidemill.ErrConflict when the expected sequence was another.
func (s *Store) write(ctx context.Context, m *nats.Msg) (uint64, error) {
	unclear, made := false, false
	for {
		// A publish while disconnected would be sent long after its caller gave up.
		if !s.nc.IsConnected() {
			if err := s.pause(ctx, errors.New("not connected to the stream")); err != nil {
				return 0, err
			}
			continue
		}
		actx, cancel := context.WithTimeout(ctx, attempt)
		ack, err := s.js.PublishMsg(actx, clone(m), jetstream.WithRetryAttempts(0))
		cancel()
		var api *jetstream.APIError
		switch {
		case err == nil:
			return ack.Sequence, nil
		case errors.As(err, &api) && conflict(api):
			if unclear {
				return s.settle(ctx, m)
			}
			return 0, tidemill.ErrConflict
		case errors.As(err, &api):
			return 0, err
		case errors.Is(err, jetstream.ErrNoStreamResponse) && !made:
			// No such stream, or JetStream is not up: make it, or learn which.
			if err := s.ensure(ctx); err != nil {
				return 0, err
			}
			made = true
			continue
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrConnectionClosed):
			return 0, err
		case !errors.Is(err, jetstream.ErrNoStreamResponse):
			unclear = true
		}
		if err := s.pause(ctx, err); err != nil {
			return 0, err
		}
	}
}

// settle decides a conflict after an attempt without an answer: that attempt may be what moved
// the sequence. The message's id is proof that it was; a later write hides it, which is then a
// conflict like any other.
func (s *Store) settle(ctx context.Context, m *nats.Msg) (uint64, error) {
	last, err := s.lastSubject(ctx, m.Subject)
	if err == nil && last.Header.Get(jetstream.MsgIDHeader) == m.Header.Get(jetstream.MsgIDHeader) {
		return last.Sequence, nil
	}
	return 0, tidemill.ErrConflict
}

// pause waits a little before another attempt; it returns an error, with the cause, once ctx
// has ended or no attempt can succeed.
func (s *Store) pause(ctx context.Context, cause error) error {
	if s.nc.IsClosed() {
		return nats.ErrConnectionClosed
	}
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ctx.Err(), cause)
	case <-t.C:
		return nil
	}
}

func clone(m *nats.Msg) *nats.Msg {
	c := nats.NewMsg(m.Subject)
	c.Data = m.Data
	for k, v := range m.Header {
		c.Header[k] = append([]string(nil), v...)
	}
	return c
}

func conflict(err *jetstream.APIError) bool {
	return err.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		err.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// last reads the last message of a key, which may be a marker, or tidemill.ErrNotFound.
func (s *Store) last(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	return s.lastSubject(ctx, s.subject(key))
}

func (s *Store) lastSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	for {
		actx, cancel := context.WithTimeout(ctx, attempt)
		m, err := s.readLast(actx, subject)
		cancel()
		switch {
		case err == nil:
			return m, nil
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil, tidemill.ErrNotFound
		case errors.Is(err, jetstream.ErrStreamNotFound):
			if err := s.ensure(ctx); err != nil {
				return nil, err
			}
			continue
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, tidemill.ErrInvalid):
			return nil, err
		}
		if err := s.pause(ctx, err); err != nil {
			return nil, err
		}
	}
}

// gone reports whether a message marks that its key was deleted or expired.
func gone(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// wrap gives an error of the server or the client library its kind.
func (s *Store) wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	what := op
	if key != "" {
		what += " " + key
	}
	kind := tidemill.ErrUnavailable
	var api *jetstream.APIError
	switch {
	case errors.Is(err, tidemill.ErrConflict), errors.Is(err, tidemill.ErrNotFound), errors.Is(err, tidemill.ErrInvalid):
		return fmt.Errorf("%s in bucket %s: %w", what, s.bucket, err)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		kind = tidemill.ErrInvalid
	case errors.As(err, &api) && full[api.ErrorCode]:
		kind = tidemill.ErrFull
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrPermissionViolation):
		kind = tidemill.ErrDenied
	}
	return fmt.Errorf("%s in bucket %s: %w: %w", what, s.bucket, kind, err)
}

// full holds the server's codes for a limit of memory or storage that is reached.
var full = map[jetstream.ErrorCode]bool{
	10023: true, // insufficient resources
	10028: true, // resource limits exceeded for account
	10047: true, // insufficient storage resources available
	10077: true, // the store refused: maximum bytes or messages
}
