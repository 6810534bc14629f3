package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/frame"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// arrowTopic implements source.Topic for messages that are frames.
type arrowTopic struct {
	s       *Stream
	name    string
	cluster string
	id      topicID
	index   topicID
	zero    *partition // whose index has the topic's record

	mu      sync.Mutex
	parts   []*partition             // guarded by mu; replaced, never changed
	former  []int                    // guarded by mu; numbers of partitions before it grew
	known   map[uint64]*arrow.Schema // guarded by mu; every version known
	current *arrow.Schema            // guarded by mu; the newest known
	print   uint64                   // guarded by mu; its fingerprint
	fitter  *rows.Fitter             // guarded by mu; to current
}

// partition is one log of frames, and its index.
type partition struct {
	t     *arrowTopic
	p     int
	index *index
	turn  chan struct{} // holds one token: whose turn it is to append

	mu    sync.Mutex
	prod  *kgo.Client // guarded by mu; holds the transactional id, nil: not held
	start int64       // guarded by mu; a log start whose first row is known, -1: none
	first int64       // guarded by mu
}

func newArrowTopic(s *Stream, name string, data, ix meta) *arrowTopic {
	t := &arrowTopic{s: s, name: name, cluster: data.cluster, id: data.id, index: ix.id, known: map[uint64]*arrow.Schema{}}
	t.zero = t.newPartition(0)
	t.parts = []*partition{t.zero}
	return t
}

func (t *arrowTopic) newPartition(p int) *partition {
	part := &partition{t: t, p: p, index: newIndex(t.s.c, t.name+indexSuffix, t.index, p), turn: make(chan struct{}, 1), start: -1}
	part.turn <- struct{}{}
	return part
}

// all returns the partitions that are known of.
func (t *arrowTopic) all() []*partition {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parts
}

// release ends what appends hold.
func (t *arrowTopic) release() {
	for _, p := range t.all() {
		p.letGo(nil)
	}
}

func (p *partition) String() string { return fmt.Sprintf("topic %q partition %d", p.t.name, p.p) }

func newSchemaEdit(s *arrow.Schema) (schemaEdit, error) {
	b, err := rows.EncodeSchema(s)
	return schemaEdit{Fingerprint: fmt.Sprintf("%016x", rows.Fingerprint(s)), Schema: b}, err
}

// learn takes over what the index says of the topic.
func (t *arrowTopic) learn(r *record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Partitions > len(t.parts) {
		parts := slices.Clone(t.parts)
		for p := len(parts); p < r.Partitions; p++ {
			parts = append(parts, t.newPartition(p))
		}
		t.parts, t.former = parts, r.Former
	}
	versions := r.Schemas
	for _, e := range versions {
		fp, err := strconv.ParseUint(e.Fingerprint, 16, 64)
		if err == nil && t.known[fp] != nil {
			continue // keep the pointers that readers and appenders compare
		}
		s, derr := rows.DecodeSchema(e.Schema)
		if err != nil || derr != nil || fp != rows.Fingerprint(s) {
			return fmt.Errorf("schema %q of topic %q does not match its fingerprint: %w", e.Fingerprint, t.name, tidemill.ErrCorrupt)
		}
		t.known[fp] = s
		if e.Fingerprint == versions[len(versions)-1].Fingerprint {
			t.current, t.print, t.fitter = s, fp, rows.NewFitter(s, t.s.cfg.Mem)
		}
	}
	return nil
}

func (t *arrowTopic) schema() *arrow.Schema {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

func (t *arrowTopic) fit() (*rows.Fitter, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fitter, t.print
}

// schemaOf returns the schema of a fingerprint, reading the index again when it is new.
func (t *arrowTopic) schemaOf(ctx context.Context, print uint64) (*arrow.Schema, error) {
	for again := false; ; again = true {
		t.mu.Lock()
		s := t.known[print]
		t.mu.Unlock()
		if s != nil {
			return s, nil
		}
		if again {
			return nil, fmt.Errorf("topic %q has no schema %016x: %w", t.name, print, tidemill.ErrCorrupt)
		}
		if err := t.refresh(ctx); err != nil {
			return nil, err
		}
	}
}

// refresh reads the topic's record again. tidemill.ErrNotFound: the topic is being made, or is another.
func (t *arrowTopic) refresh(ctx context.Context) error {
	if err := t.alive(ctx); err != nil {
		return err
	}
	var found *record
	if err := t.zero.index.read(ctx, func() { found = t.zero.index.topicRec }); err != nil {
		return err
	}
	if found == nil || found.Topic != t.id.String() {
		return fmt.Errorf("topic %q is being made: %w", t.name, tidemill.ErrNotFound)
	}
	return t.learn(found)
}

// alive returns tidemill.ErrNotFound unless the topic is still this one.
func (t *arrowTopic) alive(ctx context.Context) error {
	if err := t.s.check(); err != nil {
		return err
	}
	m, err := t.s.c.one(ctx, t.name)
	if errors.Is(err, tidemill.ErrNotFound) || err == nil && m.id != t.id {
		return gone(t.name)
	}
	return err
}

func identity(cluster string, id topicID) string { return "kafka/" + cluster + "/" + id.String() }

// Info implements source.Topic.
func (t *arrowTopic) Info(ctx context.Context) (source.Info, error) {
	if err := t.refresh(ctx); err != nil {
		return source.Info{}, err
	}
	t.mu.Lock()
	parts, former := t.parts, slices.Clone(t.former)
	t.mu.Unlock()
	in := source.Info{
		Name: t.name, Partitions: len(parts), Former: former, Identity: identity(t.cluster, t.id), Schema: t.schema(),
		First: make(tidemill.Cut, len(parts)), Next: make(tidemill.Cut, len(parts)),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, p := range parts {
		g.Go(func() (err error) {
			in.First[i], in.Next[i], err = p.bounds(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return source.Info{}, err
	}
	return in, nil
}

// bounds returns the offsets that the partition holds: [first, next).
func (p *partition) bounds(ctx context.Context) (first, next int64, err error) {
	// In this order: what the index counts was decided before it is looked for.
	if err := p.index.read(ctx, func() { next = p.index.next }); err != nil {
		return 0, 0, err
	}
	start, end, err := p.t.s.c.settled(ctx, p.t.name, p.p)
	if err != nil {
		return 0, 0, err
	}
	p.mu.Lock()
	known, first := p.start == start, p.first
	p.mu.Unlock()
	if known {
		return first, next, nil
	}
	_, f, found, err := p.probe(ctx, start, end)
	if err != nil || !found {
		return next, next, err
	}
	p.mu.Lock()
	p.start, p.first = start, f.First
	p.mu.Unlock()
	return f.First, max(next, f.Next()), nil
}

func (p *partition) parse(r *kgo.Record) (frame.Frame, error) {
	f, err := frame.Parse(r.Value)
	if err != nil {
		return f, fmt.Errorf("%v, Kafka's offset %d: %w", p, r.Offset, err)
	}
	return f, nil
}

// scan calls f for the committed messages from Kafka's offset at on, below end, until it returns
// false.
func (p *partition) scan(ctx context.Context, at, end int64, maxBytes int32, f func(r *kgo.Record, m frame.Frame) bool) error {
	fetch := newFetcher(p.t.s.c, p.t.name, p.t.id, p.p, false)
	fetch.maxBytes = maxBytes
	deadline := time.Now().Add(p.t.s.cfg.AttemptTimeout)
	for wait := 5 * time.Millisecond; at < end; {
		got, err := fetch.fetch(ctx, at)
		if err == nil && got.next == at {
			err = fmt.Errorf("%v: offset %d is not at hand: %w", p, at, tidemill.ErrUnavailable)
		}
		if err != nil {
			if !passing(err) || time.Now().After(deadline) || pause(ctx, wait) != nil {
				return err
			}
			wait = min(2*wait, 500*time.Millisecond)
			continue
		}
		deadline = time.Now().Add(p.t.s.cfg.AttemptTimeout)
		for _, r := range got.records {
			if r.Offset >= end {
				return nil
			}
			m, err := p.parse(r)
			if err != nil {
				return err
			}
			if !f(r, m) {
				return nil
			}
		}
		at = got.next
	}
	return nil
}

// probe returns the first message from Kafka's offset at on, below end.
func (p *partition) probe(ctx context.Context, at, end int64) (r *kgo.Record, f frame.Frame, found bool, err error) {
	err = p.scan(ctx, at, end, 1, func(got *kgo.Record, m frame.Frame) bool {
		r, f, found = got, m, true
		return false
	})
	return r, f, found, err
}

// find returns where in Kafka's offsets to read for a row's offset: no message before it holds
// that row or a later one.
func (p *partition) find(ctx context.Context, offset int64) (int64, error) {
	lo, end, err := p.t.s.c.settled(ctx, p.t.name, p.p)
	if err != nil {
		return 0, err
	}
	for hi := end; lo < hi; {
		mid := lo + (hi-lo)/2
		r, f, found, err := p.probe(ctx, mid, hi)
		switch {
		case err != nil:
			return 0, err
		case !found, f.First > offset:
			hi = mid
		case f.Next() <= offset:
			lo = r.Offset + 1
		default:
			return r.Offset, nil
		}
	}
	return lo, nil
}

func (t *arrowTopic) partition(p int) (*partition, error) {
	parts := t.all()
	if err := errors.Join(t.s.check(), source.CheckPartition(t.name, p, len(parts))); err != nil {
		return nil, err
	}
	return parts[p], nil
}

// LastKey implements source.Topic.
func (t *arrowTopic) LastKey(ctx context.Context, p int, prefix string) (string, error) {
	part, err := t.partition(p)
	if err != nil {
		return "", err
	}
	if err := t.alive(ctx); err != nil {
		return "", err
	}
	last, ok := lastKey{}, false
	if err := part.index.read(ctx, func() { last, ok = part.index.keys[prefix] }); err != nil || !ok {
		return "", err
	}
	return source.FormatKey(prefix, last.Number), nil
}

// OffsetAt implements source.Topic. Kafka knows times to the millisecond.
func (t *arrowTopic) OffsetAt(ctx context.Context, p int, at time.Time) (int64, error) {
	part, err := t.partition(p)
	if err != nil {
		return 0, err
	}
	if err := t.alive(ctx); err != nil {
		return 0, err
	}
	_, next, err := part.bounds(ctx)
	if err != nil {
		return 0, err
	}
	from, err := t.s.c.list(ctx, t.name, []int{p}, millis(at), true)
	if err != nil || from[0] < 0 {
		return next, err
	}
	_, end, err := t.s.c.settled(ctx, t.name, p)
	if err != nil {
		return 0, err
	}
	_, f, found, err := part.probe(ctx, from[0], end)
	if err != nil || !found {
		return next, err
	}
	return f.First, nil
}

// millis is the first millisecond not before at; before 1970 there is none.
func millis(at time.Time) int64 {
	ms := at.UnixMilli()
	if at.After(time.UnixMilli(ms)) {
		ms++
	}
	return max(0, ms)
}

// Reader implements source.Topic.
func (t *arrowTopic) Reader(ctx context.Context, p int, offset int64) (source.Reader, error) {
	part, err := t.partition(p)
	if err != nil {
		return nil, err
	}
	if err := t.alive(ctx); err != nil {
		return nil, err
	}
	first, next, err := part.bounds(ctx)
	if err != nil {
		return nil, err
	}
	if offset >= 0 && offset < first {
		return nil, expired(t.name, p, offset, first)
	}
	if err := source.CheckOffset(t.name, p, offset, first, next); err != nil {
		return nil, err
	}
	at, err := part.find(ctx, offset)
	if err != nil {
		return nil, err
	}
	return newArrowReader(part, offset, at, next)
}

// Retain implements source.Topic. What Kafka drops is decided by the topic's own settings, which
// `tidemill produce` makes "never": a holder only learns here whether its rows are still there,
// and the spec's group, if there is one, how far the holder is.
func (t *arrowTopic) Retain(ctx context.Context, holder string, cut tidemill.Cut) error {
	if err := errors.Join(source.CheckName("holder", holder), t.s.check()); err != nil {
		return err
	}
	if cut == nil {
		return nil
	}
	parts := t.all()
	if err := source.CheckCut(t.name, cut, len(parts)); err != nil {
		return err
	}
	if err := t.alive(ctx); err != nil {
		return err
	}
	at := make([]int64, len(cut))
	for i, p := range parts[:len(cut)] {
		first, _, err := p.bounds(ctx)
		if err != nil {
			return err
		}
		if cut[i] < first {
			return source.Dropped(t.name, i, cut[i], first)
		}
		if t.s.cfg.Spec.Group != "" {
			if at[i], err = p.find(ctx, cut[i]); err != nil {
				return err
			}
		}
	}
	t.s.tellGroup(ctx, t.name, t.id, at)
	return nil
}

// tellGroup writes where a job is to the spec's group. That it cannot only shows in a log: nothing
// reads it but dashboards.
func (s *Stream) tellGroup(ctx context.Context, topic string, id topicID, offsets []int64) {
	if s.cfg.Spec.Group == "" {
		return
	}
	if err := s.c.commitGroup(ctx, s.cfg.Spec.Group, topic, id, offsets); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("the consumer group was not told how far the job is", "group", s.cfg.Spec.Group, "topic", topic, "err", err)
	}
}

// Close implements source.Topic. Handles are shared and hold nothing of their own.
func (t *arrowTopic) Close() error { return nil }
