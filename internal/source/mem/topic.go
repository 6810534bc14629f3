package mem

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// topic implements source.Topic. Its fields below the blank line are guarded by s.mu.
type topic struct {
	s        *Stream
	name     string
	identity string

	schema  *arrow.Schema
	fitter  *rows.Fitter
	parts   []*partition
	former  []int // numbers of partitions before it grew
	holders map[string]tidemill.Cut
	wake    chan struct{} // closed and replaced when rows arrive or the topic dies
	dead    error
}

type partition struct {
	pieces      []stored
	first, next int64
	keys        map[string]*keyLog
}

type stored struct {
	rows.Piece
	size int64
}

// keyLog remembers what was appended under one prefix: numbers rise.
type keyLog struct {
	numbers []int64
	ranges  []tidemill.Range
}

func (t *topic) kill(err error) {
	t.dead = err
	for _, p := range t.parts {
		for _, e := range p.pieces {
			t.s.bytes -= e.size
			e.Rows.Release()
		}
		p.pieces = nil
	}
	close(t.wake)
	t.wake = make(chan struct{})
}

// part returns partition p, or why it cannot be used.
func (t *topic) part(p int) (*partition, error) {
	if t.dead != nil {
		return nil, t.dead
	}
	if err := source.CheckPartition(t.name, p, len(t.parts)); err != nil {
		return nil, err
	}
	return t.parts[p], nil
}

// Info implements source.Topic.
func (t *topic) Info(ctx context.Context) (source.Info, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.dead != nil {
		return source.Info{}, t.dead
	}
	in := source.Info{Name: t.name, Partitions: len(t.parts), Former: slices.Clone(t.former), Identity: t.identity, Schema: t.schema}
	for _, p := range t.parts {
		in.First, in.Next = append(in.First, p.first), append(in.Next, p.next)
	}
	return in, nil
}

// Evolve implements source.Topic.
func (t *topic) Evolve(ctx context.Context, schema *arrow.Schema) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.dead != nil {
		return t.dead
	}
	next, err := rows.Evolve(t.schema, schema)
	if err != nil {
		return fmt.Errorf("topic %q: %w", t.name, err)
	}
	if next != t.schema {
		t.schema, t.fitter = next, rows.NewFitter(next, t.s.cfg.Mem)
	}
	return nil
}

// Grow implements source.Topic.
func (t *topic) Grow(ctx context.Context, partitions int) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.dead != nil {
		return t.dead
	}
	if err := source.CheckGrow(t.name, len(t.parts), partitions); err != nil || len(t.parts) == partitions {
		return err
	}
	t.former = append(t.former, len(t.parts))
	for len(t.parts) < partitions {
		t.parts = append(t.parts, &partition{keys: make(map[string]*keyLog)})
	}
	return nil
}

// Append implements source.Topic. It keeps rows, which must not change afterwards. No rows
// add nothing, whatever the key.
func (t *topic) Append(ctx context.Context, p int, rs arrow.RecordBatch, key string) (tidemill.Range, error) {
	k, err := source.AppendKey(key)
	if err != nil {
		return tidemill.Range{}, err
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	part, err := t.part(p)
	if err != nil {
		return tidemill.Range{}, err
	}
	if key != "" {
		last := int64(-1)
		if l := part.keys[k.Prefix]; l != nil {
			last = l.numbers[len(l.numbers)-1]
			if i, ok := slices.BinarySearch(l.numbers, k.Number); ok {
				return l.ranges[i], nil
			}
		}
		if k.Number <= last {
			return tidemill.Range{}, k.OutOfOrder(t.name, p, last)
		}
		if err := k.Follows(t.name, p, last); err != nil {
			return tidemill.Range{}, err
		}
	}
	if rs.NumRows() == 0 {
		return tidemill.Range{First: part.next, Next: part.next}, nil
	}
	fit, err := t.fitter.Fit(rs)
	if err != nil {
		return tidemill.Range{}, fmt.Errorf("topic %q: %w", t.name, err)
	}
	if err := rows.CheckText(fit); err != nil {
		fit.Release()
		return tidemill.Range{}, fmt.Errorf("topic %q: %w", t.name, err)
	}
	size := int64(rows.Size(fit))
	if limit := t.s.cfg.MaxBytes; limit > 0 && t.s.bytes+size > limit/5*4 {
		t.drop()
		if t.s.bytes+size > limit {
			fit.Release()
			return tidemill.Range{}, fmt.Errorf("append %d bytes to topic %q: the stream holds %d of %d bytes: %w", size, t.name, t.s.bytes, limit, tidemill.ErrFull)
		}
	}
	r := tidemill.Range{First: part.next, Next: part.next + fit.NumRows()}
	part.pieces = append(part.pieces, stored{rows.Piece{First: r.First, Rows: fit, Appended: t.s.cfg.Now()}, size})
	part.next = r.Next
	t.s.bytes += size
	if key != "" {
		l := part.keys[k.Prefix]
		if l == nil {
			l = &keyLog{}
			part.keys[k.Prefix] = l
		}
		l.numbers, l.ranges = append(l.numbers, k.Number), append(l.ranges, r)
	}
	close(t.wake)
	t.wake = make(chan struct{})
	return r, nil
}

// drop frees the pieces of this topic that no holder needs; without holders, none.
func (t *topic) drop() {
	if len(t.holders) == 0 {
		return
	}
	for i, p := range t.parts {
		floor := p.next
		for _, cut := range t.holders {
			if i < len(cut) {
				floor = min(floor, cut[i])
			} else {
				floor = p.first
			}
		}
		for len(p.pieces) > 0 && p.pieces[0].Next() <= floor {
			t.s.bytes -= p.pieces[0].size
			p.first = p.pieces[0].Next()
			p.pieces[0].Rows.Release()
			p.pieces = p.pieces[1:]
		}
	}
}

// LastKey implements source.Topic.
func (t *topic) LastKey(ctx context.Context, p int, prefix string) (string, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	part, err := t.part(p)
	if err != nil {
		return "", err
	}
	k := part.keys[prefix]
	if k == nil {
		return "", nil
	}
	return source.FormatKey(prefix, k.numbers[len(k.numbers)-1]), nil
}

// Reader implements source.Topic.
func (t *topic) Reader(ctx context.Context, p int, offset int64) (source.Reader, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	part, err := t.part(p)
	if err != nil {
		return nil, err
	}
	if err := source.CheckOffset(t.name, p, offset, part.first, part.next); err != nil {
		return nil, err
	}
	return &reader{t: t, p: p, cur: rows.NewCursor(p, offset, t.s.cfg.Mem), done: make(chan struct{})}, nil
}

// OffsetAt implements source.Topic.
func (t *topic) OffsetAt(ctx context.Context, p int, at time.Time) (int64, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	part, err := t.part(p)
	if err != nil {
		return 0, err
	}
	for _, e := range part.pieces {
		if !e.Appended.Before(at) {
			return e.First, nil
		}
	}
	return part.next, nil
}

// Retain implements source.Topic.
func (t *topic) Retain(ctx context.Context, holder string, cut tidemill.Cut) error {
	if err := source.CheckName("holder", holder); err != nil {
		return err
	}
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.dead != nil {
		return t.dead
	}
	if cut == nil {
		delete(t.holders, holder)
		return nil
	}
	if err := source.CheckCut(t.name, cut, len(t.parts)); err != nil {
		return err
	}
	for i, p := range t.parts {
		from := int64(0)
		if i < len(cut) {
			from = cut[i]
		}
		if from < p.first {
			return source.Dropped(t.name, i, from, p.first)
		}
	}
	t.holders[holder] = cut.Clone()
	return nil
}

// Close implements source.Topic; the topic lives as long as its stream.
func (t *topic) Close() error { return nil }

// reader implements source.Reader.
type reader struct {
	t    *topic
	p    int
	cur  *rows.Cursor
	once sync.Once
	done chan struct{}
}

// Next implements source.Reader.
func (r *reader) Next(ctx context.Context, limit int) (tidemill.Batch, error) {
	for {
		b, wake, err := r.try(limit)
		if err != nil || wake == nil {
			return b, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return tidemill.Batch{}, ctx.Err()
		case <-r.done:
			return tidemill.Batch{}, errReaderClosed
		}
	}
}

var errReaderClosed = fmt.Errorf("the reader is closed: %w", tidemill.ErrUnavailable)

// try returns rows at hand, or the channel to wait on.
func (r *reader) try(limit int) (tidemill.Batch, <-chan struct{}, error) {
	r.t.s.mu.Lock()
	defer r.t.s.mu.Unlock()
	select {
	case <-r.done:
		return tidemill.Batch{}, nil, errReaderClosed
	default:
	}
	if r.t.dead != nil {
		return tidemill.Batch{}, nil, r.t.dead
	}
	part := r.t.parts[r.p]
	if pos := r.cur.Position(); pos < part.first && r.cur.Rest() == 0 {
		return tidemill.Batch{}, nil, source.Dropped(r.t.name, r.p, pos, part.first)
	}
	fetch := func(pos int64) (rows.Piece, bool) {
		i, found := slices.BinarySearchFunc(part.pieces, pos, func(e stored, pos int64) int {
			switch {
			case e.Next() <= pos:
				return -1
			case e.First > pos:
				return 1
			}
			return 0
		})
		if !found {
			return rows.Piece{}, false
		}
		part.pieces[i].Rows.Retain()
		return part.pieces[i].Piece, true
	}
	b, ok, err := r.cur.Next(limit, fetch, func() *arrow.Schema { return r.t.schema })
	if err != nil {
		return b, nil, fmt.Errorf("topic %q partition %d: %w", r.t.name, r.p, err)
	}
	if !ok {
		return b, r.t.wake, nil
	}
	return b, nil, nil
}

// Buffered implements source.Reader.
func (r *reader) Buffered() (int, int64) {
	r.t.s.mu.Lock()
	defer r.t.s.mu.Unlock()
	next := r.t.parts[r.p].next
	return int(next - r.cur.Position()), next
}

// Position implements source.Reader.
func (r *reader) Position() int64 { return r.cur.Position() }

// Close implements source.Reader.
func (r *reader) Close() error {
	r.once.Do(func() {
		close(r.done)
		r.cur.Close()
	})
	return nil
}
