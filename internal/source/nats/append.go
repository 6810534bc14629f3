package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/frame"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Append implements source.Topic. No rows add nothing, whatever the key. Rows of more than
// MaxAppendBytes are refused with ErrInvalid.
//
// The offset comes from the last message, and the message is published on the condition
// that it still is the last one, so that producers of several processes never take the same
// offset. When an answer is lost, the message is looked for where it would be, by its mark;
// only when it is not there is it sent again. A repeated key is known by the last message
// under its prefix, and an older one by search among them.
func (t *topic) Append(ctx context.Context, p int, rs arrow.RecordBatch, key string) (tidemill.Range, error) {
	part, err := t.partition(p)
	if err != nil {
		return tidemill.Range{}, err
	}
	a := &attempt{p: part, token: noPrefix, mark: t.s.cfg.Rand()}
	if a.key, err = source.AppendKey(key); err != nil {
		return tidemill.Range{}, err
	}
	if key != "" {
		a.token = prefixToken(a.key.Prefix)
	}
	if rs.NumRows() > 0 {
		if err := a.encode(ctx, rs); err != nil {
			return tidemill.Range{}, err
		}
	}
	select {
	case <-part.turn:
		defer func() { part.turn <- struct{}{} }()
	case <-ctx.Done():
		return tidemill.Range{}, wrap(ctx.Err(), "append to %v", part)
	}
	r, err := a.run(ctx)
	if err != nil {
		// What is known of the log may be wrong after a failure.
		part.tail, part.keys = nil, nil
	}
	return r, err
}

// maxRooms bounds how often one append makes room: more than any growth from the least to
// all of a store takes.
const maxRooms = 64

// attempt is one Append under way.
type attempt struct {
	p      *partition
	token  string
	key    source.Key
	mark   uint64
	rows   int64
	data   []byte   // the frame, sealed anew for each try; nil: no rows
	unsure []uint64 // sequences after which the message may have been stored
	rooms  int      // how often room was made
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

// run holds the partition's turn.
func (a *attempt) run(ctx context.Context) (tidemill.Range, error) {
	p := a.p
	wait := time.Millisecond
	for {
		if p.tail == nil {
			t, err := p.readTail(ctx)
			if err != nil {
				return tidemill.Range{}, err
			}
			p.tail, p.keys = &t, nil
			if r, ok, err := a.landed(ctx); ok || err != nil {
				return r, err
			}
		}
		if a.key.Number >= 0 {
			// Keys are read after the tail: a key appended since makes the publish fail.
			k, err := p.lastKey(ctx, a.key.Prefix)
			if err != nil {
				return tidemill.Range{}, err
			}
			if a.key.Number <= k.number {
				return p.rangeOf(ctx, k, a.key)
			}
			if err := a.key.Follows(p.t.name, p.p, k.number); err != nil {
				return tidemill.Range{}, err
			}
		}
		if a.data == nil {
			return tidemill.Range{First: p.tail.next, Next: p.tail.next}, nil
		}
		seq, err := a.publish(ctx)
		if err == nil {
			r := tidemill.Range{First: p.tail.next, Next: p.tail.next + a.rows}
			p.tail = &tail{seq: seq, next: r.Next}
			p.hear(r.Next)
			if a.key.Number >= 0 {
				p.remember(a.key.Prefix, lastKey{number: a.key.Number, rows: r, seq: seq})
			}
			return r, nil
		}
		exp := p.tail.seq
		p.tail, p.keys = nil, nil
		switch {
		case isConflict(err):
			// Another producer was faster, or an earlier try of this append landed.
		case isFull(err):
			room, rerr := p.makeRoom(ctx, err)
			if rerr != nil {
				return tidemill.Range{}, rerr
			}
			if a.rooms++; !room || a.rooms > maxRooms {
				return tidemill.Range{}, p.full(ctx, len(a.data), err)
			}
		case isTransient(err):
			if !slices.Contains(a.unsure, exp) {
				a.unsure = append(a.unsure, exp)
			}
			if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) {
				// Nobody listens to this subject: the topic may be gone, or the server starts.
				if _, _, err := p.t.record(ctx); errors.Is(err, tidemill.ErrNotFound) {
					return tidemill.Range{}, err
				}
			}
			if perr := pause(ctx, wait); perr != nil {
				return tidemill.Range{}, fmt.Errorf("append to %v: the rows may or may not be stored: %w: %w (%w)", p, tidemill.ErrUnavailable, perr, err)
			}
			wait = min(2*wait, time.Second)
		default:
			return tidemill.Range{}, wrap(err, "append to %v", p)
		}
	}
}

// expect is the header of a message that is stored only right after sequence seq. The number has so many
// digits that the header's bytes, which lie before the data in a reader's memory, are a multiple
// of 8: then values can be read where they are.
func expect(seq uint64) nats.Header {
	return nats.Header{jetstream.ExpectedLastSeqHeader: {fmt.Sprintf("%013d", seq)}}
}

func (a *attempt) publish(ctx context.Context) (uint64, error) {
	p := a.p
	frame.Seal(a.data, p.tail.next)
	actx, cancel := context.WithTimeout(ctx, p.t.s.cfg.AttemptTimeout)
	defer cancel()
	ack, err := p.t.s.js.PublishMsg(actx, &nats.Msg{
		Subject: subject(p.t.name, p.t.identity, p.p, a.token),
		Header:  expect(p.tail.seq),
		Data:    a.data,
	}, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// landed looks for the message of this append after a try whose answer was lost: it can only
// lie right after the sequence that the try was conditioned on.
func (a *attempt) landed(ctx context.Context) (tidemill.Range, bool, error) {
	for _, exp := range a.unsure {
		if a.p.tail.seq <= exp {
			continue // nothing was stored since; the same condition keeps a late arrival out
		}
		m, err := a.p.at(ctx, exp+1)
		if errors.Is(err, errNone) {
			continue
		}
		if err != nil {
			return tidemill.Range{}, false, err
		}
		if m.seq == exp+1 && m.Mark == a.mark {
			return tidemill.Range{First: m.First, Next: m.Next()}, true, nil
		}
	}
	a.unsure = slices.DeleteFunc(a.unsure, func(exp uint64) bool { return a.p.tail.seq > exp })
	return tidemill.Range{}, false, nil
}
