package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// topic implements source.Topic.
type topic struct {
	s        *Stream
	name     string
	identity string

	mu      sync.Mutex
	parts   []*partition             // guarded by mu; they only grow
	former  []int                    // guarded by mu; numbers of partitions before they did
	schemas map[uint64]*arrow.Schema // guarded by mu; every version known
	current *arrow.Schema            // guarded by mu; the newest known
	print   uint64                   // guarded by mu; its fingerprint
	fitter  *rows.Fitter             // guarded by mu; to current
}

// learn takes over the schemas of a record unless newer ones are known: versions only grow.
func (t *topic) learn(byPrint map[uint64]*arrow.Schema, current *arrow.Schema) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(byPrint) <= len(t.schemas) {
		return
	}
	// Keep the pointers that readers and appenders compare.
	for fp, s := range t.schemas {
		byPrint[fp] = s
	}
	t.schemas, t.current, t.print = byPrint, current, rows.Fingerprint(current)
	t.fitter = rows.NewFitter(current, t.s.cfg.Mem)
}

func (t *topic) schema() *arrow.Schema {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

func (t *topic) fit() (*rows.Fitter, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fitter, t.print
}

// partitions returns those known. The caller must not change the slice.
func (t *topic) partitions() []*partition {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parts
}

func (t *topic) grown() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.former)
}

// extend opens the partitions of r that are not known yet and can be used.
func (t *topic) extend(ctx context.Context, r record) error {
	n := r.Partitions
	if r.State == stateGrowing && len(r.Former) > 0 {
		n = r.Former[len(r.Former)-1]
	}
	known := t.partitions()
	if n <= len(known) {
		return nil
	}
	parts := slices.Clone(known)
	for p := len(parts); p < n; p++ {
		st, err := t.s.js.Stream(ctx, streamName(t.name, p))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("partition %d of topic %q is missing from the server; if its store was damaged, look for what was moved aside: %w", p, t.name, tidemill.ErrCorrupt)
		}
		if err != nil {
			return wrap(err, "open partition %d of topic %q", p, t.name)
		}
		if got := st.CachedInfo().Config.Metadata[metaIdentity]; got != t.identity {
			return fmt.Errorf("partition %d of topic %q belongs to another topic of that name: %w", p, t.name, tidemill.ErrCorrupt)
		}
		parts = append(parts, newPartition(t, p, st))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Another caller may have been quicker: its partitions are in use.
	for p := len(t.parts); p < n; p++ {
		t.parts = append(t.parts[:p:p], parts[p])
	}
	t.former = r.Former
	if r.State == stateGrowing {
		t.former = r.Former[:max(0, len(r.Former)-1)]
	}
	return nil
}

// Grow implements source.Topic. The record says first that the topic grows, so that whoever
// comes after a crash finishes it.
func (t *topic) Grow(ctx context.Context, partitions int) error {
	for {
		r, rev, err := t.record(ctx)
		if err != nil {
			return err
		}
		if err := source.CheckGrow(t.name, r.Partitions, partitions); err != nil {
			return err
		}
		if partitions > r.Partitions {
			if r.State == stateReady {
				r.Former = append(r.Former, r.Partitions)
			}
			r.Partitions, r.State = partitions, stateGrowing
			if rev, err = t.s.store(ctx, t.name, r, rev); errors.Is(err, tidemill.ErrConflict) {
				continue
			} else if err != nil {
				return err
			}
		}
		if r, err = t.s.finish(ctx, t.name, r, rev); errors.Is(err, tidemill.ErrConflict) {
			continue
		} else if err != nil {
			return err
		}
		return t.extend(ctx, r)
	}
}

// schemaOf returns the schema of a fingerprint, reading the record again when it is new.
func (t *topic) schemaOf(ctx context.Context, print uint64) (*arrow.Schema, error) {
	known := func() *arrow.Schema {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.schemas[print]
	}
	if s := known(); s != nil {
		return s, nil
	}
	if err := t.refresh(ctx); err != nil {
		return nil, err
	}
	if s := known(); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("topic %q has no schema %016x: %w", t.name, print, tidemill.ErrCorrupt)
}

// refresh reads the record again.
func (t *topic) refresh(ctx context.Context) error {
	r, _, err := t.record(ctx)
	if err != nil {
		return err
	}
	byPrint, current, err := r.schemas()
	if err != nil {
		return fmt.Errorf("topic %q: %w", t.name, err)
	}
	t.learn(byPrint, current)
	return t.extend(ctx, r)
}

// record reads the topic's record, which must still be this topic's.
func (t *topic) record(ctx context.Context) (record, uint64, error) {
	if err := t.s.check(); err != nil {
		return record{}, 0, err
	}
	r, rev, err := t.s.load(ctx, t.name)
	switch {
	case errors.Is(err, tidemill.ErrNotFound):
		return r, 0, t.gone()
	case err != nil:
		return r, 0, err
	case r.Identity != t.identity || r.State == stateDeleting:
		return r, 0, t.gone()
	}
	return r, rev, nil
}

func (t *topic) gone() error {
	return fmt.Errorf("topic %q was deleted: %w", t.name, tidemill.ErrNotFound)
}

// Info implements source.Topic.
func (t *topic) Info(ctx context.Context) (source.Info, error) {
	if err := t.refresh(ctx); err != nil {
		return source.Info{}, err
	}
	parts := t.partitions()
	in := source.Info{
		Name: t.name, Partitions: len(parts), Former: t.grown(), Identity: t.identity, Schema: t.schema(),
		First: make(tidemill.Cut, len(parts)), Next: make(tidemill.Cut, len(parts)),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, p := range parts {
		g.Go(func() (err error) {
			b, err := p.bounds(gctx)
			in.First[i], in.Next[i] = b.firstOffset, b.next
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return source.Info{}, err
	}
	return in, nil
}

// Evolve implements source.Topic.
func (t *topic) Evolve(ctx context.Context, schema *arrow.Schema) error {
	for {
		r, rev, err := t.record(ctx)
		if err != nil {
			return err
		}
		byPrint, current, err := r.schemas()
		if err != nil {
			return fmt.Errorf("topic %q: %w", t.name, err)
		}
		next, err := rows.Evolve(current, schema)
		if err != nil {
			return fmt.Errorf("topic %q: %w", t.name, err)
		}
		if next == current {
			t.learn(byPrint, current)
			return nil
		}
		edit, err := newSchemaEdit(next)
		if err != nil {
			return err
		}
		r.Schemas = append(r.Schemas, edit)
		if _, err = t.s.store(ctx, t.name, r, rev); errors.Is(err, tidemill.ErrConflict) {
			continue
		} else if err != nil {
			return err
		}
		byPrint[rows.Fingerprint(next)] = next
		t.learn(byPrint, next)
		return nil
	}
}

func (t *topic) partition(p int) (*partition, error) {
	parts := t.partitions()
	if err := errors.Join(t.s.check(), source.CheckPartition(t.name, p, len(parts))); err != nil {
		return nil, err
	}
	return parts[p], nil
}

// LastKey implements source.Topic.
func (t *topic) LastKey(ctx context.Context, p int, prefix string) (string, error) {
	part, err := t.partition(p)
	if err != nil {
		return "", err
	}
	k, err := part.readLastKey(ctx, prefix)
	if err != nil || k.number < 0 {
		return "", err
	}
	return source.FormatKey(prefix, k.number), nil
}

// OffsetAt implements source.Topic.
func (t *topic) OffsetAt(ctx context.Context, p int, at time.Time) (int64, error) {
	part, err := t.partition(p)
	if err != nil {
		return 0, err
	}
	b, err := part.bounds(ctx)
	if err != nil || b.empty() {
		return b.next, err
	}
	// The first message stored at or after the time; stamps rise with sequences.
	best := b.next
	for lo, hi := b.firstSeq, b.lastSeq; lo <= hi; {
		m, err := part.at(ctx, lo+(hi-lo)/2)
		if err != nil {
			return 0, err
		}
		if m.time.Before(at) {
			lo = m.seq + 1
		} else {
			best, hi = m.First, min(m.seq, lo+(hi-lo)/2)-1
		}
	}
	return best, nil
}

// Reader implements source.Topic.
func (t *topic) Reader(ctx context.Context, p int, offset int64) (source.Reader, error) {
	part, err := t.partition(p)
	if err != nil {
		return nil, err
	}
	b, err := part.bounds(ctx)
	if err != nil {
		return nil, err
	}
	if err := source.CheckOffset(t.name, p, offset, b.firstOffset, b.next); err != nil {
		return nil, err
	}
	seq, err := part.find(ctx, b, offset)
	if err != nil {
		return nil, err
	}
	return newReader(part, offset, seq), nil
}

// Close implements source.Topic. Handles are shared and hold nothing of their own.
func (t *topic) Close() error { return nil }
