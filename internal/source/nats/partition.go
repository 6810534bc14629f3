package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/frame"
)

// partition is one log: a JetStream stream without holes whose messages carry offsets.
type partition struct {
	t     *topic
	p     int
	st    jetstream.Stream
	turn  chan struct{} // holds one token: whose turn it is to append
	heard atomic.Int64  // the highest end of the log heard of

	// Owned by whoever holds the token.
	tail *tail
	keys map[string]lastKey // by prefix; true as of tail

	mu       sync.Mutex
	firstSeq uint64 // guarded by mu; a sequence whose first offset is known, 0: none
	firstOff int64  // guarded by mu
}

// tail is the end of the log: the last sequence and the offset that the next row gets.
type tail struct {
	seq  uint64
	next int64
}

func newPartition(t *topic, p int, st jetstream.Stream) *partition {
	part := &partition{t: t, p: p, st: st, turn: make(chan struct{}, 1)}
	part.turn <- struct{}{}
	return part
}

// hear notes that the log reaches next.
func (p *partition) hear(next int64) {
	for {
		old := p.heard.Load()
		if next <= old || p.heard.CompareAndSwap(old, next) {
			return
		}
	}
}

func (p *partition) String() string { return fmt.Sprintf("topic %q partition %d", p.t.name, p.p) }

// message is a stored message's frame and where it lies.
type message struct {
	frame.Frame
	seq  uint64
	time time.Time
}

func (p *partition) parse(m *jetstream.RawStreamMsg) (message, error) {
	f, err := frame.Parse(m.Data)
	if err != nil {
		return message{}, fmt.Errorf("%v sequence %d: %w", p, m.Sequence, err)
	}
	return message{Frame: f, seq: m.Sequence, time: m.Time}, nil
}

// errNone is answered for a message that is not there.
var errNone = errors.New("no such message")

// at returns the first message from sequence seq on.
func (p *partition) at(ctx context.Context, seq uint64) (message, error) {
	return p.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return p.st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(p.subjects()))
	})
}

// under returns the first message from sequence seq on with a key under the prefix of token.
func (p *partition) under(ctx context.Context, seq uint64, token string) (message, error) {
	return p.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return p.st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject(p.t.name, p.t.identity, p.p, token)))
	})
}

// last returns the last message, of one token or with "*" of all.
func (p *partition) last(ctx context.Context, token string) (message, error) {
	return p.get(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return p.st.GetLastMsgForSubject(ctx, subject(p.t.name, p.t.identity, p.p, token))
	})
}

func (p *partition) subjects() string { return subject(p.t.name, p.t.identity, p.p, "*") }

// get asks until it is answered or ctx ends: reading again is always safe.
func (p *partition) get(ctx context.Context, ask func(context.Context) (*jetstream.RawStreamMsg, error)) (message, error) {
	var m *jetstream.RawStreamMsg
	err := p.t.s.persist(ctx, func(ctx context.Context) (err error) {
		m, err = ask(ctx)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return message{}, errNone
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return message{}, p.t.gone()
	case err != nil:
		return message{}, wrap(err, "read %v", p)
	}
	return p.parse(m)
}

// persist calls f with a time limit each, again after transient failures, until ctx ends.
func (s *Stream) persist(ctx context.Context, f func(context.Context) error) error {
	wait := 10 * time.Millisecond
	for {
		actx, cancel := context.WithTimeout(ctx, s.cfg.AttemptTimeout)
		err := f(actx)
		cancel()
		if err == nil || !isTransient(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readTail reads the end of the log.
func (p *partition) readTail(ctx context.Context) (tail, error) {
	m, err := p.last(ctx, "*")
	if errors.Is(err, errNone) {
		// Purges keep the last message, so an empty log never had one.
		return tail{}, nil
	}
	if err != nil {
		return tail{}, err
	}
	p.hear(m.Next())
	return tail{seq: m.seq, next: m.Next()}, nil
}

// bounds is what a partition holds: messages [firstSeq, lastSeq], offsets [firstOffset, next).
type bounds struct {
	firstSeq, lastSeq uint64
	firstOffset, next int64
}

func (b bounds) empty() bool { return b.lastSeq == 0 }

func (p *partition) bounds(ctx context.Context) (bounds, error) {
	t, err := p.readTail(ctx)
	if err != nil || t.seq == 0 {
		return bounds{}, err
	}
	p.mu.Lock()
	from := p.firstSeq
	p.mu.Unlock()
	// A purge moves the first message forward only, so the search may begin where it was.
	first, err := p.firstMessage(ctx, max(1, from))
	if err != nil {
		return bounds{}, err
	}
	return bounds{firstSeq: first.seq, lastSeq: t.seq, firstOffset: first.First, next: t.next}, nil
}

// firstMessage returns the first message held, from sequence seq on, and remembers it.
func (p *partition) firstMessage(ctx context.Context, seq uint64) (message, error) {
	m, err := p.at(ctx, seq)
	if err != nil {
		return m, err
	}
	m.Body = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	p.firstSeq, p.firstOff = m.seq, m.First
	return m, nil
}

// find returns the sequence of the message that holds offset, which lies in the bounds, or
// of the message that will. Messages of a bulk load are alike, so a guess by proportion is
// nearly always right; halving bounds the rest.
func (p *partition) find(ctx context.Context, b bounds, offset int64) (uint64, error) {
	if offset >= b.next {
		return b.lastSeq + 1, nil
	}
	if offset == b.firstOffset {
		return b.firstSeq, nil
	}
	lo, hi := b.firstSeq, b.lastSeq // the message lies in [lo, hi]
	loOff, hiOff := b.firstOffset, b.next
	for try := 0; lo <= hi; try++ {
		mid := lo + (hi-lo)/2
		if try < 6 && hiOff > loOff {
			mid = lo + uint64(float64(hi-lo)*(float64(offset-loOff)/float64(hiOff-loOff)))
		}
		mid = min(max(mid, lo), hi)
		m, err := p.at(ctx, mid)
		if errors.Is(err, errNone) {
			hi, hiOff = mid-1, offset+1
			continue
		}
		if err != nil {
			return 0, err
		}
		switch {
		case offset < m.First:
			hi, hiOff = mid-1, m.First
		case offset >= m.Next():
			lo, loOff = m.seq+1, m.Next()
		default:
			return m.seq, nil
		}
	}
	return 0, fmt.Errorf("%v has no message with offset %d between %d and %d: %w", p, offset, b.firstOffset, b.next, tidemill.ErrCorrupt)
}
