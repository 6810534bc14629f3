package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// record is a topic's entry in the bucket. It changes by compare-and-set alone.
type record struct {
	Identity   string       `json:"identity"`
	Partitions int          `json:"partitions"`
	Former     []int        `json:"former,omitempty"` // numbers of partitions before it grew, oldest first
	State      string       `json:"state"`
	Schemas    []schemaEdit `json:"schemas"` // oldest first; the last one is current
	// Floor is the lowest offset that may still be held per partition. It rises before rows
	// are purged, so that a holder that comes meanwhile learns of it.
	Floor tidemill.Cut `json:"floor,omitempty"`
}

type schemaEdit struct {
	Fingerprint string `json:"fingerprint"` // hexadecimal
	Schema      []byte `json:"schema"`      // an Arrow IPC schema message
}

// States of a topic. Whoever finds one that is being made, grown or deleted finishes it.
const (
	stateMaking   = "making"
	stateGrowing  = "growing" // the last of Former is what can be used already
	stateReady    = "ready"
	stateDeleting = "deleting"
)

func newSchemaEdit(s *arrow.Schema) (schemaEdit, error) {
	b, err := rows.EncodeSchema(s)
	return schemaEdit{Fingerprint: fmt.Sprintf("%016x", rows.Fingerprint(s)), Schema: b}, err
}

// schemas decodes all versions; the last one is the current.
func (r record) schemas() (byPrint map[uint64]*arrow.Schema, current *arrow.Schema, err error) {
	byPrint = make(map[uint64]*arrow.Schema, len(r.Schemas))
	for _, e := range r.Schemas {
		s, err := rows.DecodeSchema(e.Schema)
		if err != nil {
			return nil, nil, err
		}
		fp, err := strconv.ParseUint(e.Fingerprint, 16, 64)
		if err != nil || fp != rows.Fingerprint(s) {
			return nil, nil, fmt.Errorf("schema %q does not match its fingerprint: %w", e.Fingerprint, tidemill.ErrCorrupt)
		}
		byPrint[fp], current = s, s
	}
	if current == nil {
		return nil, nil, fmt.Errorf("the topic's record has no schema: %w", tidemill.ErrCorrupt)
	}
	return byPrint, current, nil
}

// bucket returns the key-value bucket, made when missing.
func (s *Stream) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	s.mu.Lock()
	kv := s.kv
	s.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	kv, err := s.js.KeyValue(ctx, TopicsBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:      TopicsBucket,
			Description: "Tidemill's topics and what their readers still need",
			History:     1,
			Storage:     jetstream.FileStorage,
			Replicas:    s.cfg.Replicas,
		})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = s.js.KeyValue(ctx, TopicsBucket)
		}
	}
	if err != nil {
		return nil, wrap(err, "open the bucket of topics")
	}
	s.mu.Lock()
	s.kv = kv
	s.mu.Unlock()
	return kv, nil
}

// load reads a topic's record and its revision. jetstream.ErrKeyNotFound stays visible.
func (s *Stream) load(ctx context.Context, topic string) (record, uint64, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return record{}, 0, err
	}
	e, err := kv.Get(ctx, topicKey(topic))
	if err != nil {
		return record{}, 0, wrap(err, "read the record of topic %q", topic)
	}
	var r record
	if err := json.Unmarshal(e.Value(), &r); err != nil || r.Partitions < 1 || r.Identity == "" {
		return record{}, 0, fmt.Errorf("the record of topic %q cannot be read: %w", topic, tidemill.ErrCorrupt)
	}
	return r, e.Revision(), nil
}

// store replaces a topic's record if it still has revision rev; 0 means that there is none.
// A lost race is tidemill.ErrConflict.
func (s *Stream) store(ctx context.Context, topic string, r record, rev uint64) (uint64, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return 0, err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("encode the record of topic %q: %w", topic, err)
	}
	var next uint64
	if rev == 0 {
		next, err = kv.Create(ctx, topicKey(topic), b)
	} else {
		next, err = kv.Update(ctx, topicKey(topic), b, rev)
	}
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch), isConflict(err):
		return 0, fmt.Errorf("write the record of topic %q: %w", topic, tidemill.ErrConflict)
	}
	return 0, wrap(err, "write the record of topic %q", topic)
}

// entries returns the values under a key pattern, by key.
func (s *Stream) entries(ctx context.Context, pattern string) (map[string][]byte, error) {
	kv, err := s.bucket(ctx)
	if err != nil {
		return nil, err
	}
	w, err := kv.Watch(ctx, pattern, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, wrap(err, "list %q", pattern)
	}
	defer w.Stop()
	all := make(map[string][]byte)
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("list %q: %w", pattern, tidemill.ErrUnavailable)
			}
			if e == nil { // the initial values are complete
				return all, nil
			}
			all[e.Key()] = e.Value()
		case <-ctx.Done():
			return nil, wrap(ctx.Err(), "list %q", pattern)
		}
	}
}
