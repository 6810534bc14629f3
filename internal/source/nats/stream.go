package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Stream implements source.Stream on JetStream.
type Stream struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream

	mu     sync.Mutex
	kv     jetstream.KeyValue // guarded by mu; nil until first used
	topics map[string]*topic  // guarded by mu; open handles, shared so that appends take turns
	closed bool               // guarded by mu
}

var _ source.Stream = (*Stream)(nil)

// New returns a Stream on nc, which stays the caller's. It does no I/O.
func New(nc *nats.Conn, cfg Config) (*Stream, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(cfg.AttemptTimeout))
	if err != nil {
		return nil, wrap(err, "use JetStream")
	}
	return &Stream{cfg: cfg, nc: nc, js: js, topics: make(map[string]*topic)}, nil
}

func (s *Stream) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("the stream is closed: %w", tidemill.ErrUnavailable)
	}
	return nil
}

// Create implements source.Stream.
func (s *Stream) Create(ctx context.Context, name string, partitions int, schema *arrow.Schema) (source.Topic, error) {
	if err := errors.Join(source.CheckName("topic", name), source.CheckPartitions(name, partitions), s.check()); err != nil {
		return nil, err
	}
	if schema != nil {
		var err error
		if schema, err = rows.Check(schema); err != nil {
			return nil, fmt.Errorf("topic %q: %w", name, err)
		}
	}
	for {
		r, rev, err := s.load(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			if schema == nil {
				return nil, s.notFound(ctx, name)
			}
			edit, err := newSchemaEdit(schema)
			if err != nil {
				return nil, err
			}
			r = record{
				Identity:   strconv.FormatUint(s.cfg.Rand()|1<<63, 36)[:8],
				Partitions: max(1, partitions),
				State:      stateMaking,
				Schemas:    []schemaEdit{edit},
			}
			if rev, err = s.store(ctx, name, r, 0); errors.Is(err, tidemill.ErrConflict) {
				continue
			} else if err != nil {
				return nil, err
			}
		case err != nil:
			return nil, err
		case r.State == stateDeleting:
			if err := s.erase(ctx, name, r, rev); err != nil && !errors.Is(err, tidemill.ErrConflict) {
				return nil, err
			}
			continue
		}
		if err := source.CheckExisting(name, r.Partitions, partitions); err != nil {
			return nil, err
		}
		if schema != nil {
			_, current, err := r.schemas()
			if err != nil {
				return nil, err
			}
			if err := rows.Compatible(current, schema); err != nil {
				return nil, fmt.Errorf("topic %q: %w", name, err)
			}
		}
		if r, err = s.finish(ctx, name, r, rev); errors.Is(err, tidemill.ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		return s.handle(ctx, name, r)
	}
}

// finish makes the partitions of a topic whose record says that they are being made; those
// that are there already stay as they are.
func (s *Stream) finish(ctx context.Context, name string, r record, rev uint64) (record, error) {
	if r.State == stateReady {
		return r, nil
	}
	for p := range r.Partitions {
		if err := s.makePartition(ctx, name, r.Identity, p); err != nil {
			return r, err
		}
	}
	r.State = stateReady
	_, err := s.store(ctx, name, r, rev)
	return r, err
}

func (s *Stream) makePartition(ctx context.Context, name, identity string, p int) error {
	cfg := jetstream.StreamConfig{
		Name:        streamName(name, p),
		Description: fmt.Sprintf("Tidemill topic %s, partition %d", name, p),
		Subjects:    []string{subject(name, identity, p, "*")},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Replicas:    s.cfg.Replicas,
		MaxMsgs:     -1,
		MaxBytes:    s.cfg.MaxPartitionBytes,
		// Keys make appends idempotent for ever; the server's own window only costs memory.
		Duplicates: 100 * time.Millisecond,
		// Reads go to the leader: a replica may lag, and the tail must be the tail.
		AllowDirect: false,
		Metadata:    map[string]string{metaTopic: name, metaIdentity: identity, metaPartition: strconv.Itoa(p)},
	}
	reserve := cfg.MaxBytes
	if reserve == 0 {
		reserve = firstReserve
	}
	for {
		cfg.MaxBytes = reserve
		_, err := s.js.CreateStream(ctx, cfg)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
			return s.adopt(ctx, name, identity, p)
		case isFull(err) && s.cfg.MaxPartitionBytes == 0 && reserve > minReserve:
			reserve = max(minReserve, reserve/4)
		case isFull(err):
			return fmt.Errorf("topic %q partition %d: the server's store has no %d bytes left to reserve: %w", name, p, reserve, tidemill.ErrFull)
		default:
			return wrap(err, "make partition %d of topic %q", p, name)
		}
	}
}

// adopt accepts an existing partition of the same topic: made before a crash, or by another
// process at the same time.
func (s *Stream) adopt(ctx context.Context, name, identity string, p int) error {
	st, err := s.js.Stream(ctx, streamName(name, p))
	if err != nil {
		return wrap(err, "open partition %d of topic %q", p, name)
	}
	if got := st.CachedInfo().Config.Metadata[metaIdentity]; got != identity {
		return fmt.Errorf("partition %d of an earlier topic %q is still there, without that topic's record: delete the topic to drop its rows, then make it again: %w",
			p, name, tidemill.ErrExists)
	}
	return nil
}

// Open implements source.Stream.
func (s *Stream) Open(ctx context.Context, name string) (source.Topic, error) {
	if err := errors.Join(source.CheckName("topic", name), s.check()); err != nil {
		return nil, err
	}
	for {
		r, rev, err := s.load(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound), err == nil && r.State == stateDeleting:
			return nil, s.notFound(ctx, name)
		case err != nil:
			return nil, err
		}
		if r, err = s.finish(ctx, name, r, rev); errors.Is(err, tidemill.ErrConflict) {
			continue
		} else if err != nil {
			return nil, err
		}
		return s.handle(ctx, name, r)
	}
}

// handle returns the open handle of a topic, made when there is none of this identity.
func (s *Stream) handle(ctx context.Context, name string, r record) (*topic, error) {
	byPrint, current, err := r.schemas()
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", name, err)
	}
	s.mu.Lock()
	t := s.topics[name]
	s.mu.Unlock()
	if t != nil && t.identity == r.Identity {
		t.learn(byPrint, current)
		return t, t.extend(ctx, r)
	}
	t = &topic{s: s, name: name, identity: r.Identity}
	if err := t.extend(ctx, r); err != nil {
		return nil, err
	}
	t.learn(byPrint, current)
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.topics[name]; other != nil && other.identity == t.identity {
		return other, nil
	}
	s.topics[name] = t
	return t, nil
}

func (s *Stream) notFound(ctx context.Context, name string) error {
	names, err := s.Topics(ctx)
	if err != nil {
		return err
	}
	return source.NotFound(name, names)
}

// Topics implements source.Stream.
func (s *Stream) Topics(ctx context.Context) ([]string, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	all, err := s.entries(ctx, "t.*")
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for key, value := range all {
		var r record
		if json.Unmarshal(value, &r) == nil && (r.State == stateReady || r.State == stateGrowing) {
			names = append(names, unescape(strings.TrimPrefix(key, "t.")))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Delete implements source.Stream. It also drops partitions that were left without a record.
func (s *Stream) Delete(ctx context.Context, name string) error {
	if err := errors.Join(source.CheckName("topic", name), s.check()); err != nil {
		return err
	}
	for {
		r, rev, err := s.load(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			if left, err := s.eraseLeftovers(ctx, name); left || err != nil {
				return err
			}
			return s.notFound(ctx, name)
		}
		if err != nil {
			return err
		}
		if r.State != stateDeleting {
			r.State = stateDeleting
			if rev, err = s.store(ctx, name, r, rev); errors.Is(err, tidemill.ErrConflict) {
				continue
			} else if err != nil {
				return err
			}
		}
		if err := s.erase(ctx, name, r, rev); !errors.Is(err, tidemill.ErrConflict) {
			return err
		}
	}
}

// erase drops what belongs to a topic whose record says that it is being deleted, and the
// record last.
func (s *Stream) erase(ctx context.Context, name string, r record, rev uint64) error {
	for p := range r.Partitions {
		if err := s.js.DeleteStream(ctx, streamName(name, p)); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return wrap(err, "delete partition %d of topic %q", p, name)
		}
	}
	kv, err := s.bucket(ctx)
	if err != nil {
		return err
	}
	for _, pattern := range []string{holderKeys(name, r.Identity), lastKeyKeys(name, r.Identity)} {
		all, err := s.entries(ctx, pattern)
		if err != nil {
			return err
		}
		for key := range all {
			if err := kv.Purge(ctx, key); err != nil {
				return wrap(err, "delete what was kept for topic %q", name)
			}
		}
	}
	if err := kv.Delete(ctx, topicKey(name), jetstream.LastRevision(rev)); err != nil {
		if isConflict(err) {
			return fmt.Errorf("delete topic %q: %w", name, tidemill.ErrConflict)
		}
		return wrap(err, "delete the record of topic %q", name)
	}
	s.mu.Lock()
	delete(s.topics, name)
	s.mu.Unlock()
	return nil
}

func (s *Stream) eraseLeftovers(ctx context.Context, name string) (found bool, err error) {
	for p := 0; ; p++ {
		st, err := s.js.Stream(ctx, streamName(name, p))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return found, nil
		}
		if err != nil {
			return found, wrap(err, "look for partitions of topic %q", name)
		}
		if st.CachedInfo().Config.Metadata[metaTopic] != name {
			return found, nil
		}
		if err := s.js.DeleteStream(ctx, streamName(name, p)); err != nil {
			return found, wrap(err, "delete partition %d of topic %q", p, name)
		}
		found = true
	}
}

// Close makes further calls fail. It leaves the connection and open readers alone; close
// those first.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
