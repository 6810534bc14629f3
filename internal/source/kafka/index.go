package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
)

// indexSuffix makes a topic's name its index's.
const indexSuffix = ".tidemill-index"

// Keys of an index's records.
const (
	keyAppend = "k:" // and the prefix of the append's key, or nothing when it had none
	keyTopic  = "t"  // in partition 0 alone
)

// noKey is the record of appends without a key; a key's prefix may be empty.
const noKey = "k"

// lastKey is the last append under a prefix. It is a record's value.
type lastKey struct {
	Number int64          `json:"number"` // -1: without a key
	Rows   tidemill.Range `json:"rows"`
}

// record is a topic: its partitions and every version of its schema. It is a record's value.
type record struct {
	Topic      string       `json:"topic"` // the topic's id: an index may outlive its topic
	Partitions int          `json:"partitions"`
	Former     []int        `json:"former,omitempty"` // numbers of partitions before it grew
	Schemas    []schemaEdit `json:"schemas"`          // oldest first; the last one is current
}

type schemaEdit struct {
	Fingerprint string `json:"fingerprint"` // hexadecimal
	Schema      []byte `json:"schema"`      // an Arrow IPC schema message
}

// index is what is known of one partition of a topic's index: how far the partition's rows go
// and what was last appended under each prefix.
type index struct {
	c     *client
	topic string // the index's own name
	id    topicID
	p     int
	busy  chan struct{} // holds one token: whose turn it is to use what follows

	fetch    *fetcher
	pos      int64
	next     int64 // the offset that the next row gets
	keys     map[string]lastKey
	topicRec *record // nil: none written yet
}

func newIndex(c *client, topic string, id topicID, p int) *index {
	x := &index{c: c, topic: topic, id: id, p: p, busy: make(chan struct{}, 1), keys: map[string]lastKey{}}
	x.fetch = newFetcher(c, topic, id, p, true)
	x.fetch.wait = 100 * time.Millisecond
	x.busy <- struct{}{}
	return x
}

// read calls f with what the index says once it holds everything that was committed before the
// call. A transaction that is open then is waited for, since it may be committed.
func (x *index) read(ctx context.Context, f func()) error {
	select {
	case <-x.busy:
		defer func() { x.busy <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := x.refresh(ctx); err != nil {
		return err
	}
	f()
	return nil
}

// refresh reads up to the log's present end; the caller holds the token.
func (x *index) refresh(ctx context.Context) error {
	end, err := x.c.list(ctx, x.topic, []int{x.p}, latest, false)
	if err != nil {
		return err
	}
	if x.pos == 0 && end[0] > 0 {
		start, err := x.c.list(ctx, x.topic, []int{x.p}, earliest, false)
		if err != nil {
			return err
		}
		x.pos = start[0]
	}
	const least = 5 * time.Millisecond
	for wait := least; x.pos < end[0]; {
		got, err := x.fetch.fetch(ctx, x.pos)
		if err != nil {
			if !passing(err) {
				return err
			}
			if perr := pause(ctx, wait); perr != nil {
				return fmt.Errorf("%w: %w", perr, err)
			}
			wait = min(2*wait, 500*time.Millisecond)
			continue
		}
		wait = least
		for _, r := range got.records {
			if err := x.apply(r); err != nil {
				return fmt.Errorf("index of topic %q partition %d offset %d: %w: %w", strings.TrimSuffix(x.topic, indexSuffix), x.p, r.Offset, tidemill.ErrCorrupt, err)
			}
		}
		x.pos = got.next
	}
	return nil
}

// apply takes a record in; the caller holds the token. A record may be applied again.
func (x *index) apply(r *kgo.Record) error {
	switch key := string(r.Key); {
	case key == keyTopic:
		var s record
		if err := json.Unmarshal(r.Value, &s); err != nil {
			return err
		}
		if s.Partitions < 1 || len(s.Schemas) == 0 {
			return fmt.Errorf("a topic of %d partitions and %d schemas", s.Partitions, len(s.Schemas))
		}
		x.topicRec = &s
	case key == noKey, strings.HasPrefix(key, keyAppend):
		var k lastKey
		if err := json.Unmarshal(r.Value, &k); err != nil {
			return err
		}
		if k.Rows.First < 0 || k.Rows.Empty() {
			return fmt.Errorf("rows %v", k.Rows)
		}
		x.next = max(x.next, k.Rows.Next)
		if prefix, keyed := strings.CutPrefix(key, keyAppend); keyed {
			if old, ok := x.keys[prefix]; !ok || old.Number < k.Number {
				x.keys[prefix] = k
			}
		}
	}
	return nil
}

// entry returns the record that says of an append of rows under prefix with number, -1 for one
// without a key.
func (x *index) entry(prefix string, number int64, rows tidemill.Range) (*kgo.Record, error) {
	key := noKey
	if number >= 0 {
		key = keyAppend + prefix
	}
	v, err := json.Marshal(lastKey{number, rows})
	if err != nil {
		return nil, fmt.Errorf("encode an index record: %w", err)
	}
	return &kgo.Record{Topic: x.topic, Partition: int32(x.p), Key: []byte(key), Value: v}, nil
}
