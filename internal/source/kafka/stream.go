package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Stream implements source.Stream on Kafka.
type Stream struct {
	cfg    Config
	secure []kgo.Opt
	c      *client
	plain  *recordFormat // nil for format arrow

	mu     sync.Mutex
	topics map[string]*arrowTopic // guarded by mu; open handles, shared so that appends take turns
	closed bool                   // guarded by mu
}

var _ source.Stream = (*Stream)(nil)

// New returns a Stream that has not dialled yet. It reads the files that cfg.Spec names.
func New(cfg Config) (*Stream, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Stream{cfg: cfg, topics: make(map[string]*arrowTopic)}
	var err error
	if cfg.format() != tidemill.KafkaArrow {
		if s.plain, err = newRecordFormat(cfg.Spec); err != nil {
			return nil, err
		}
	}
	if s.secure, err = cfg.security(); err != nil {
		return nil, err
	}
	if s.c, err = newClient(&s.cfg, s.secure); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stream) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("the stream is closed: %w", tidemill.ErrUnavailable)
	}
	return nil
}

func checkName(name string) error {
	if strings.HasSuffix(name, indexSuffix) {
		return tidemill.Invalid("the topic name %q is that of an index", "use another name", name)
	}
	return source.CheckName("topic", name)
}

// readOnly is the error of what a topic of plain records does not offer.
func (s *Stream) readOnly(what string) error {
	return tidemill.Invalid("%s: a Kafka topic of %s records is only read: whether a record was written before cannot be known from it",
		"produce with the program that owns the topic; or use format: arrow, into which `tidemill produce --kafka` writes each row once", what, s.cfg.format())
}

// Create implements source.Stream. A topic of format arrow is made with its index; one that is
// there already and holds nothing is taken over. One of plain records must be there.
func (s *Stream) Create(ctx context.Context, name string, partitions int, schema *arrow.Schema) (source.Topic, error) {
	if err := errors.Join(checkName(name), source.CheckPartitions(name, partitions), s.check()); err != nil {
		return nil, err
	}
	if s.plain != nil {
		t, err := s.Open(ctx, name)
		if errors.Is(err, tidemill.ErrNotFound) && schema != nil {
			err = s.readOnly("make topic " + name)
		}
		if err != nil {
			return nil, err
		}
		in, err := t.Info(ctx)
		if err != nil {
			return nil, err
		}
		if err := source.CheckExisting(name, in.Partitions, partitions); err != nil {
			return nil, err
		}
		if schema != nil {
			if err := rows.Compatible(s.plain.schema, schema); err != nil {
				return nil, fmt.Errorf("topic %q: %w", name, err)
			}
		}
		return t, nil
	}
	if schema != nil {
		var err error
		if schema, err = rows.Check(schema); err != nil {
			return nil, fmt.Errorf("topic %q: %w", name, err)
		}
	}
	t, err := s.openArrow(ctx, name)
	if errors.Is(err, tidemill.ErrNotFound) && schema != nil {
		t, err = s.make(ctx, name, partitions, schema)
	}
	if err != nil {
		return nil, err
	}
	if err := source.CheckExisting(name, len(t.all()), partitions); err != nil {
		return nil, err
	}
	if schema != nil {
		if err := rows.Compatible(t.schema(), schema); err != nil {
			return nil, fmt.Errorf("topic %q: %w", name, err)
		}
	}
	return t, nil
}

// make makes a topic and its index, or finishes what a process that died had begun.
func (s *Stream) make(ctx context.Context, name string, partitions int, schema *arrow.Schema) (*arrowTopic, error) {
	edit, err := newSchemaEdit(schema)
	if err != nil {
		return nil, err
	}
	// Rows stay until somebody else's rule or hand removes them. Stamps are the brokers', so
	// that they rise with offsets.
	if err := s.c.create(ctx, name, max(1, partitions), map[string]string{
		"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "message.timestamp.type": "LogAppendTime",
	}); err != nil {
		return nil, err
	}
	data, err := s.c.until(ctx, name, meta.settled)
	if err != nil {
		return nil, err
	}
	if err := source.CheckExisting(name, len(data.leaders), partitions); err != nil {
		return nil, err
	}
	for p := range data.leaders {
		switch _, end, err := s.c.bounds(ctx, name, p); {
		case err != nil:
			return nil, err
		case end > 0:
			return nil, fmt.Errorf("topic %q holds records that are not Tidemill's: %w; use another name, or read it with stream.kafka.format", name, tidemill.ErrExists)
		}
	}
	for {
		if err := s.c.create(ctx, name+indexSuffix, len(data.leaders), map[string]string{
			"cleanup.policy": "compact", "segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1",
		}); err != nil {
			return nil, err
		}
		ix, err := s.c.until(ctx, name+indexSuffix, meta.settled)
		if err != nil {
			return nil, err
		}
		t := newArrowTopic(s, name, data, ix)
		stale, err := t.begin(ctx, data, ix, edit)
		if !stale {
			if err != nil {
				t.release()
				return nil, err
			}
			return s.share(t), nil
		}
		// The index of an earlier topic of that name, whose deletion was not finished.
		t.release()
		if err := s.erase(ctx, name+indexSuffix, ix.id); err != nil {
			return nil, err
		}
	}
}

// share returns the open handle of t's topic: t, unless there is one already.
func (s *Stream) share(t *arrowTopic) *arrowTopic {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.topics[t.name]; other != nil && other.id == t.id {
		t.release()
		return other
	}
	if !s.closed {
		s.topics[t.name] = t
	}
	return t
}

// Open implements source.Stream.
func (s *Stream) Open(ctx context.Context, name string) (source.Topic, error) {
	if err := errors.Join(checkName(name), s.check()); err != nil {
		return nil, err
	}
	if s.plain == nil {
		t, err := s.openArrow(ctx, name)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	m, err := s.c.one(ctx, name)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil, s.notFound(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	t := &plainTopic{s: s, name: name, cluster: m.cluster, id: m.id}
	if s.cfg.Spec.Compacted {
		return t, nil
	}
	holes, err := s.c.compacted(ctx, name)
	if err != nil {
		return nil, err
	}
	if holes {
		return nil, tidemill.Invalid("topic %q is compacted (cleanup.policy): rows vanish from the middle of its log",
			"set its cleanup.policy to delete; or write compacted: true under stream.kafka to train on what is left, which a replay may find to be less", name)
	}
	return t, nil
}

// openArrow returns the open handle of a topic, made when there is none of its present
// incarnation.
func (s *Stream) openArrow(ctx context.Context, name string) (*arrowTopic, error) {
	_, found, err := s.c.all(ctx, name, name+indexSuffix)
	if err != nil {
		return nil, err
	}
	data, ok := found[name]
	ix, indexed := found[name+indexSuffix]
	if !ok {
		return nil, s.notFound(ctx, name)
	}
	if !indexed {
		return nil, fmt.Errorf("topic %q has no index of Tidemill's: %w; if it holds plain records, say so with stream.kafka.format", name, tidemill.ErrNotFound)
	}
	s.mu.Lock()
	t := s.topics[name]
	s.mu.Unlock()
	if t != nil && t.id == data.id {
		return t, t.refresh(ctx)
	}
	t = newArrowTopic(s, name, data, ix)
	if err := t.refresh(ctx); err != nil {
		t.release()
		return nil, err
	}
	return s.share(t), nil
}

func (s *Stream) notFound(ctx context.Context, name string) error {
	names, err := s.Topics(ctx)
	if err != nil {
		return err
	}
	return source.NotFound(name, names)
}

// Topics implements source.Stream. Of format arrow it lists those that have an index.
func (s *Stream) Topics(ctx context.Context) ([]string, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	_, found, err := s.c.all(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(found))
	for n := range found {
		_, indexed := found[n+indexSuffix]
		if !strings.HasSuffix(n, indexSuffix) && (s.plain != nil || indexed) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Delete implements source.Stream. The rows go first: an index without its topic is found to be
// stale by the id in it.
func (s *Stream) Delete(ctx context.Context, name string) error {
	if err := errors.Join(checkName(name), s.check()); err != nil {
		return err
	}
	if s.plain != nil {
		return s.readOnly("delete topic " + name)
	}
	_, found, err := s.c.all(ctx, name, name+indexSuffix)
	if err != nil {
		return err
	}
	data, ok := found[name]
	ix, indexed := found[name+indexSuffix]
	switch {
	case !ok && !indexed:
		return s.notFound(ctx, name)
	case ok && !indexed:
		return tidemill.Invalid("topic %q has no index of Tidemill's", "delete it with Kafka's own tools", name)
	}
	if ok {
		if err := s.erase(ctx, name, data.id); err != nil {
			return err
		}
	}
	if err := s.erase(ctx, name+indexSuffix, ix.id); err != nil {
		return err
	}
	s.mu.Lock()
	t := s.topics[name]
	delete(s.topics, name)
	s.mu.Unlock()
	if t != nil {
		t.release()
	}
	if !ok {
		return s.notFound(ctx, name)
	}
	return nil
}

// erase deletes a topic and waits until nobody knows it any more.
func (s *Stream) erase(ctx context.Context, topic string, id topicID) error {
	if err := s.c.remove(ctx, topic); err != nil {
		return err
	}
	_, err := s.c.until(ctx, topic, func(m meta) bool { return m.id != id })
	return err
}

// Close makes further calls fail and ends what appends hold. It leaves open readers alone; close
// those first.
func (s *Stream) Close() error {
	s.mu.Lock()
	topics := s.topics
	was := s.closed
	s.topics, s.closed = nil, true
	s.mu.Unlock()
	if was {
		return nil
	}
	for _, t := range topics {
		t.release()
	}
	s.c.Close()
	return nil
}
