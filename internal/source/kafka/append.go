package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/frame"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// hold returns the producer that holds the partition's transactional id. Taking it over ends a
// transaction that a former holder left open, and fences that holder: what it sends from then on
// is refused. fresh says that it was taken over just now, so that nothing known before counts.
func (p *partition) hold(ctx context.Context) (prod *kgo.Client, fresh bool, err error) {
	p.mu.Lock()
	prod = p.prod
	p.mu.Unlock()
	if prod != nil {
		return prod, false, nil
	}
	s := p.t.s
	c, err := newClient(&s.cfg, s.secure,
		kgo.TransactionalID(fmt.Sprintf("tidemill.%s.%v.%d", p.t.name, p.t.id, p.p)),
		kgo.TransactionTimeout(s.cfg.TransactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.ProduceRequestTimeout(s.cfg.AttemptTimeout),
	)
	if err != nil {
		return nil, false, err
	}
	actx, cancel := context.WithTimeout(ctx, s.cfg.AttemptTimeout)
	defer cancel()
	if _, _, err := c.ProducerID(actx); err != nil {
		c.Close()
		return nil, false, wrap(err, "append to %v", p)
	}
	if err := s.check(); err != nil {
		c.Close()
		return nil, false, err
	}
	p.mu.Lock()
	p.prod = c.Client
	p.mu.Unlock()
	return c.Client, true, nil
}

// letGo closes the producer: prod, or whichever there is when prod is nil.
func (p *partition) letGo(prod *kgo.Client) {
	p.mu.Lock()
	if prod == nil {
		prod = p.prod
	}
	if p.prod == prod {
		p.prod = nil
	}
	p.mu.Unlock()
	if prod != nil {
		prod.Close()
	}
}

// transact writes records in one transaction. After an error the transaction may or may not have
// been committed, unless the error is of kind tidemill.ErrInvalid or ErrDenied: then it was not.
func (p *partition) transact(ctx context.Context, prod *kgo.Client, records ...*kgo.Record) error {
	// A client waits for the answer to what it has sent, whatever its context says.
	stop := context.AfterFunc(ctx, prod.Close)
	defer stop()
	if err := prod.BeginTransaction(); err != nil {
		return err
	}
	if err := prod.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return err
	}
	if err := prod.EndTransaction(ctx, kgo.TryCommit); err != nil {
		if kind := kindOf(err); errors.Is(kind, tidemill.ErrInvalid) || errors.Is(kind, tidemill.ErrDenied) {
			// The records are with the brokers: say no more than is known.
			return fmt.Errorf("%w: %w", tidemill.ErrUnavailable, err)
		}
		return err
	}
	return nil
}

// lead takes the partition's turn and its producer, brings the index up to date, and calls f until
// it returns an error that does not pass, or none. f runs again whenever another producer took
// over meanwhile, or an answer was lost.
func (p *partition) lead(ctx context.Context, f func(prod *kgo.Client) error) error {
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		return wrap(ctx.Err(), "append to %v", p)
	}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := p.t.alive(ctx)
		if err == nil {
			err = p.tryLead(ctx, f)
		}
		if err == nil || ctx.Err() == nil && !passing(err) && !isFenced(err) {
			return err
		}
		if perr := pause(ctx, wait); perr != nil {
			return fmt.Errorf("append to %v: the rows may or may not be stored: %w: %w (%w)", p, tidemill.ErrUnavailable, perr, err)
		}
	}
}

func (p *partition) tryLead(ctx context.Context, f func(prod *kgo.Client) error) error {
	prod, fresh, err := p.hold(ctx)
	if err != nil {
		return err
	}
	if fresh {
		if err := p.index.read(ctx, func() {}); err != nil {
			p.letGo(prod)
			return err
		}
	}
	if err := f(prod); err != nil {
		// Whatever state it is in, the next one starts from what is stored.
		if !errors.Is(err, errUntouched) {
			p.letGo(prod)
		}
		return err
	}
	return nil
}

// errUntouched marks errors before which nothing was sent.
var errUntouched = errors.New("nothing was written")

// isFenced reports that another producer has taken over the transactional id, or that the brokers
// have ended the transaction.
func isFenced(err error) bool {
	for _, e := range []error{
		kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.UnknownProducerID, kerr.InvalidTxnState,
		kerr.ConcurrentTransactions, kerr.TransactionCoordinatorFenced, kerr.TransactionAbortable, kerr.OperationNotAttempted,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// own calls f with the index; the caller leads the partition, so that nobody else changes what it
// says.
func (x *index) own(ctx context.Context, f func() error) error {
	select {
	case <-x.busy:
		defer func() { x.busy <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return f()
}

// Append implements source.Topic. No rows add nothing, whatever the key. Rows of more than
// MaxAppendBytes are refused with ErrInvalid.
//
// The rows and what the index says of them are one transaction of the producer that holds the
// partition's transactional id, so that of two producers one is refused, and neither takes an
// offset that the other has taken. When an answer is lost, the id is taken anew, which settles
// whether the transaction counts, and the rows are looked for where they would be.
func (t *arrowTopic) Append(ctx context.Context, p int, rs arrow.RecordBatch, key string) (tidemill.Range, error) {
	part, err := t.partition(p)
	if err != nil {
		return tidemill.Range{}, err
	}
	a := &attempt{p: part, mark: t.s.cfg.Rand()}
	if a.key, err = source.AppendKey(key); err != nil {
		return tidemill.Range{}, err
	}
	if rs.NumRows() > 0 {
		if err := a.encode(ctx, rs); err != nil {
			return tidemill.Range{}, err
		}
	}
	var got tidemill.Range
	err = part.lead(ctx, func(prod *kgo.Client) error {
		var err error
		got, err = a.run(ctx, prod)
		return err
	})
	if err != nil {
		return tidemill.Range{}, wrap(err, "append to %v", part)
	}
	return got, nil
}

// attempt is one Append under way.
type attempt struct {
	p      *partition
	key    source.Key
	mark   uint64
	rows   int64
	data   []byte  // the frame, sealed anew for each try; nil: no rows
	unsure []int64 // offsets at which the rows may have been stored
}

func (a *attempt) encode(ctx context.Context, rs arrow.RecordBatch) error {
	t := a.p.t
	fitter, print := t.fit()
	fit, err := fitter.Fit(rs)
	if errors.Is(err, tidemill.ErrInvalid) {
		// Another process may have added the columns.
		if rerr := t.refresh(ctx); rerr != nil {
			return rerr
		}
		fitter, print = t.fit()
		fit, err = fitter.Fit(rs)
	}
	if err != nil {
		return fmt.Errorf("append to %v: %w", a.p, err)
	}
	defer fit.Release()
	body, err := rows.EncodeWithin(MaxAppendBytes, fit, t.s.cfg.Mem)
	if err != nil {
		return fmt.Errorf("append to %v: %w", a.p, err)
	}
	a.rows = fit.NumRows()
	a.data = frame.New(frame.Frame{Rows: a.rows, Fingerprint: print, Mark: a.mark, Key: a.key.Stored(), Body: body})
	return nil
}

// run tries once; the caller leads the partition.
func (a *attempt) run(ctx context.Context, prod *kgo.Client) (tidemill.Range, error) {
	x := a.p.index
	var next int64
	var last lastKey
	var keyed bool
	err := x.own(ctx, func() error {
		next = x.next
		last, keyed = x.keys[a.key.Prefix]
		return nil
	})
	if err != nil {
		return tidemill.Range{}, errors.Join(err, errUntouched)
	}
	if !keyed {
		last.Number = -1
	}
	if a.key.Number >= 0 && a.key.Number <= last.Number {
		r, err := a.p.rangeOf(ctx, last, a.key)
		if err != nil {
			err = errors.Join(err, errUntouched)
		}
		return r, err
	}
	if r, ok, err := a.landed(ctx, next); ok || err != nil {
		return r, err
	}
	if err := a.key.Follows(a.p.t.name, a.p.p, last.Number); err != nil {
		return tidemill.Range{}, errors.Join(err, errUntouched)
	}
	r := tidemill.Range{First: next, Next: next + a.rows}
	if a.data == nil {
		return r, nil
	}
	// Each try has bytes of its own: a former one's may still be in a client's hands.
	data := slices.Clone(a.data)
	frame.Seal(data, r.First)
	entry, err := x.entry(a.key.Prefix, a.key.Number, r)
	if err != nil {
		return r, err
	}
	record := &kgo.Record{Topic: a.p.t.name, Partition: int32(a.p.p), Value: data}
	if err := a.p.transact(ctx, prod, record, entry); err != nil {
		if !slices.Contains(a.unsure, r.First) {
			a.unsure = append(a.unsure, r.First)
		}
		return r, err
	}
	return r, x.own(context.WithoutCancel(ctx), func() error { return x.apply(entry) })
}

// landed looks for the rows of this append where a try, whose answer was lost, would have put
// them. Since then the id was taken anew, so that no earlier try can still come to count.
func (a *attempt) landed(ctx context.Context, next int64) (tidemill.Range, bool, error) {
	for _, at := range a.unsure {
		if at >= next {
			continue // nothing was stored since
		}
		from, err := a.p.find(ctx, at)
		if err != nil {
			return tidemill.Range{}, false, err
		}
		_, end, err := a.p.t.s.c.settled(ctx, a.p.t.name, a.p.p)
		if err != nil {
			return tidemill.Range{}, false, err
		}
		_, f, found, err := a.p.probe(ctx, from, end)
		if err != nil {
			return tidemill.Range{}, false, err
		}
		if !found || f.Next() <= at {
			// The index says that they are there; a marker is still under way.
			return tidemill.Range{}, false, fmt.Errorf("%v: offset %d is not at hand: %w", a.p, at, tidemill.ErrUnavailable)
		}
		if f.First == at && f.Mark == a.mark {
			return tidemill.Range{First: f.First, Next: f.Next()}, true, nil
		}
	}
	a.unsure = slices.DeleteFunc(a.unsure, func(at int64) bool { return at < next })
	return tidemill.Range{}, false, nil
}

// rangeOf returns the rows that were appended under a key whose number is not above the last one of
// its prefix. An older one is looked for in the log from its beginning on.
func (p *partition) rangeOf(ctx context.Context, last lastKey, key source.Key) (tidemill.Range, error) {
	if key.Number == last.Number {
		return last.Rows, nil
	}
	start, end, err := p.t.s.c.settled(ctx, p.t.name, p.p)
	if err != nil {
		return tidemill.Range{}, err
	}
	var got tidemill.Range
	first, older, found := int64(-1), false, false
	err = p.scan(ctx, start, end, 1<<20, func(_ *kgo.Record, f frame.Frame) bool {
		if first < 0 {
			first = f.First
		}
		if f.Key == "" {
			return true
		}
		pre, n, err := source.ParseKey(f.Key)
		if err != nil || pre != key.Prefix {
			return true
		}
		if n == key.Number {
			got, found = tidemill.Range{First: f.First, Next: f.Next()}, true
		}
		older = older || n < key.Number
		return n < key.Number
	})
	switch {
	case err != nil || found:
		return got, err
	case first != 0 && !older:
		return got, fmt.Errorf("%v: key %q was appended before %q, and what was older has been dropped: %w", p, key.Stored(), source.FormatKey(key.Prefix, last.Number), tidemill.ErrExists)
	}
	return got, key.OutOfOrder(p.t.name, p.p, last.Number)
}

// edit replaces the topic's record by what f makes of it, under the leadership of partition 0. f
// may be called several times.
func (t *arrowTopic) edit(ctx context.Context, f func(old *record) (*record, error)) error {
	p, x := t.zero, t.zero.index
	return p.lead(ctx, func(prod *kgo.Client) error {
		var old *record
		if err := x.own(ctx, func() error { old = x.topicRec; return nil }); err != nil {
			return errors.Join(err, errUntouched)
		}
		next, err := f(old)
		if err != nil {
			return errors.Join(err, errUntouched)
		}
		if next != old {
			v, err := json.Marshal(next)
			if err != nil {
				return fmt.Errorf("encode the record of topic %q: %w", t.name, err)
			}
			r := &kgo.Record{Topic: x.topic, Partition: 0, Key: []byte(keyTopic), Value: v}
			if err := p.transact(ctx, prod, r); err != nil {
				return wrap(err, "write the record of topic %q", t.name)
			}
			if err := x.own(context.WithoutCancel(ctx), func() error { return x.apply(r) }); err != nil {
				return err
			}
		}
		if next.Topic != t.id.String() {
			return nil
		}
		return t.learn(next)
	})
}

// begin writes a new topic's record, unless there is one. stale reports that the index is an
// earlier topic's.
func (t *arrowTopic) begin(ctx context.Context, data, ix meta, schema schemaEdit) (stale bool, err error) {
	err = t.edit(ctx, func(old *record) (*record, error) {
		switch {
		case old == nil && len(data.leaders) == len(ix.leaders):
			return &record{Topic: t.id.String(), Partitions: len(data.leaders), Schemas: []schemaEdit{schema}}, nil
		case old == nil:
			stale = true
			return &record{}, errStale
		case old.Topic != t.id.String():
			stale = true
		}
		return old, nil
	})
	return stale, err
}

var errStale = fmt.Errorf("the index is an earlier topic's: %w", tidemill.ErrConflict)

// mine returns tidemill.ErrNotFound unless r is this topic's.
func (t *arrowTopic) mine(r *record) error {
	if r == nil || r.Topic != t.id.String() {
		return gone(t.name)
	}
	return t.learn(r)
}

// Evolve implements source.Topic.
func (t *arrowTopic) Evolve(ctx context.Context, schema *arrow.Schema) error {
	return t.edit(ctx, func(old *record) (*record, error) {
		if err := t.mine(old); err != nil {
			return nil, err
		}
		current := t.schema()
		next, err := rows.Evolve(current, schema)
		if err != nil {
			return nil, fmt.Errorf("topic %q: %w", t.name, err)
		}
		if next == current {
			return old, nil
		}
		edit, err := newSchemaEdit(next)
		if err != nil {
			return nil, err
		}
		r := *old
		r.Schemas = append(slices.Clone(old.Schemas), edit)
		return &r, nil
	})
}

// Grow implements source.Topic. The record counts the new partitions last, so that what a crash
// leaves unfinished is used by nobody and finished by the next call.
func (t *arrowTopic) Grow(ctx context.Context, partitions int) error {
	return t.edit(ctx, func(old *record) (*record, error) {
		if err := t.mine(old); err != nil {
			return nil, err
		}
		if err := source.CheckGrow(t.name, old.Partitions, partitions); err != nil || partitions == old.Partitions {
			return old, err
		}
		for _, name := range []string{t.name + indexSuffix, t.name} {
			if err := t.s.c.grow(ctx, name, partitions); err != nil {
				return nil, err
			}
		}
		r := *old
		r.Partitions, r.Former = partitions, append(slices.Clone(old.Former), old.Partitions)
		return &r, nil
	})
}
