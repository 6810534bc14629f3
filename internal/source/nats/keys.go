package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// lastKey is the last append under a prefix.
type lastKey struct {
	number int64 // -1: none
	rows   tidemill.Range
	seq    uint64 // 0: its message was purged
}

// purgedKey is what the bucket keeps of a prefix whose last message was purged.
type purgedKey struct {
	Prefix string         `json:"prefix"`
	Number int64          `json:"number"`
	Rows   tidemill.Range `json:"rows"`
}

// maxKeys bounds the prefixes remembered between appends; more only cost a request.
const maxKeys = 1024

// remember notes the last key of a prefix; the caller holds the turn.
func (p *partition) remember(prefix string, k lastKey) {
	if p.keys == nil || len(p.keys) >= maxKeys {
		p.keys = make(map[string]lastKey)
	}
	p.keys[prefix] = k
}

// lastKey returns the last key of a prefix as of the tail; the caller holds the turn.
func (p *partition) lastKey(ctx context.Context, prefix string) (lastKey, error) {
	if k, ok := p.keys[prefix]; ok {
		return k, nil
	}
	k, err := p.readLastKey(ctx, prefix)
	if err != nil {
		return k, err
	}
	p.remember(prefix, k)
	return k, nil
}

// readLastKey asks the log, and for a prefix whose messages were all purged, the bucket.
func (p *partition) readLastKey(ctx context.Context, prefix string) (lastKey, error) {
	token := prefixToken(prefix)
	m, err := p.last(ctx, token)
	if errors.Is(err, errNone) {
		return p.readPurgedKey(ctx, prefix, token)
	}
	if err != nil {
		return lastKey{}, err
	}
	got, number, err := source.ParseKey(m.Key)
	if err != nil || got != prefix {
		return lastKey{}, fmt.Errorf("%v sequence %d has key %q where one under %q was expected: %w", p, m.seq, m.Key, prefix, tidemill.ErrCorrupt)
	}
	return lastKey{number: number, rows: tidemill.Range{First: m.First, Next: m.Next()}, seq: m.seq}, nil
}

func (p *partition) readPurgedKey(ctx context.Context, prefix, token string) (lastKey, error) {
	kv, err := p.t.s.bucket(ctx)
	if err != nil {
		return lastKey{}, err
	}
	var e jetstream.KeyValueEntry
	err = p.t.s.persist(ctx, func(ctx context.Context) (err error) {
		e, err = kv.Get(ctx, lastKeyKey(p.t.name, p.t.identity, p.p, token))
		return err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return lastKey{number: -1}, nil
	}
	if err != nil {
		return lastKey{}, wrap(err, "read the last key under %q of %v", prefix, p)
	}
	var k purgedKey
	if err := json.Unmarshal(e.Value(), &k); err != nil || k.Prefix != prefix {
		return lastKey{}, fmt.Errorf("what was kept of key prefix %q of %v cannot be read: %w", prefix, p, tidemill.ErrCorrupt)
	}
	return lastKey{number: k.Number, rows: k.Rows}, nil
}

// keepKey writes the last key of a token to the bucket, before its message is purged.
func (p *partition) keepKey(ctx context.Context, m message) error {
	prefix, number, err := source.ParseKey(m.Key)
	if err != nil {
		return fmt.Errorf("%v sequence %d: %w: %w", p, m.seq, tidemill.ErrCorrupt, err)
	}
	kv, err := p.t.s.bucket(ctx)
	if err != nil {
		return err
	}
	b, err := json.Marshal(purgedKey{prefix, number, tidemill.Range{First: m.First, Next: m.Next()}})
	if err != nil {
		return fmt.Errorf("encode key %q: %w", m.Key, err)
	}
	_, err = kv.Put(ctx, lastKeyKey(p.t.name, p.t.identity, p.p, prefixToken(prefix)), b)
	return wrap(err, "keep key %q of %v", m.Key, p)
}

// rangeOf returns the rows that were appended under a key whose number is not above the last one
// of its prefix.
func (p *partition) rangeOf(ctx context.Context, last lastKey, key source.Key) (tidemill.Range, error) {
	if key.Number == last.number {
		return last.rows, nil
	}
	// Numbers rise with sequences: search the first message under the prefix that has this
	// one or a higher one.
	token := prefixToken(key.Prefix)
	var first message
	for lo, hi := uint64(1), last.seq; lo <= hi; {
		mid := lo + (hi-lo)/2
		m, err := p.under(ctx, mid, token)
		if errors.Is(err, errNone) {
			hi = mid - 1
			continue
		}
		if err != nil {
			return tidemill.Range{}, err
		}
		_, n, err := source.ParseKey(m.Key)
		if err != nil {
			return tidemill.Range{}, err
		}
		switch {
		case n == key.Number:
			return tidemill.Range{First: m.First, Next: m.Next()}, nil
		case n > key.Number:
			first, hi = m, mid-1
		default:
			lo = m.seq + 1
		}
	}
	b, err := p.bounds(ctx)
	if err != nil {
		return tidemill.Range{}, err
	}
	if b.firstOffset > 0 && (first.seq == 0 || p.isFirst(ctx, first, token)) {
		return tidemill.Range{}, fmt.Errorf("%v: key %q was appended before %q, and what was older has been dropped: %w",
			p, key.Stored(), source.FormatKey(key.Prefix, last.number), tidemill.ErrExists)
	}
	return tidemill.Range{}, key.OutOfOrder(p.t.name, p.p, last.number)
}

// isFirst reports whether no older message under the token is held.
func (p *partition) isFirst(ctx context.Context, m message, token string) bool {
	f, err := p.under(ctx, 1, token)
	return err == nil && f.seq == m.seq
}
