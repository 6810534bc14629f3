package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/frame"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// reader implements source.Reader. One goroutine fetches and decodes ahead of the caller,
// within Config.PrefetchBytes, and starts over behind the last message it has whenever the
// connection or the server's consumer is lost.
type reader struct {
	p      *partition
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	cur    *rows.Cursor  // the caller's

	wake chan struct{} // holds one: something was queued, or err was set
	room chan struct{} // holds one: something was taken

	mu    sync.Mutex
	queue []fetched // guarded by mu
	bytes int       // guarded by mu; of queue
	nrows int       // guarded by mu; of queue
	end   int64     // guarded by mu; the log's end as heard
	err   error     // guarded by mu; why there will be no more

	// Owned by the goroutine.
	nextSeq  uint64
	expect   int64 // the offset that the next message must hold or begin with
	decoders map[uint64]*rows.Decoder
}

type fetched struct {
	rows.Piece
	size int
}

func newReader(p *partition, offset int64, seq uint64) *reader {
	// The reader lives until Close, longer than the call that made it.
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{
		p: p, cancel: cancel, done: make(chan struct{}),
		cur:  rows.NewCursor(p.p, offset, p.t.s.cfg.Mem),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		end: max(offset, p.heard.Load()), nextSeq: seq, expect: offset,
		decoders: make(map[uint64]*rows.Decoder),
	}
	go r.run(ctx)
	return r
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Next implements source.Reader.
func (r *reader) Next(ctx context.Context, limit int) (tidemill.Batch, error) {
	for {
		b, ok, err := r.cur.Next(limit, r.take, r.p.t.schema)
		if err != nil {
			return b, fmt.Errorf("%v: %w", r.p, err)
		}
		if ok {
			return b, nil
		}
		r.mu.Lock()
		err, empty := r.err, len(r.queue) == 0
		r.mu.Unlock()
		if !empty {
			continue // queued between the two looks
		}
		if err != nil {
			return tidemill.Batch{}, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return tidemill.Batch{}, ctx.Err()
		}
	}
}

// take removes the queue's first piece, which holds pos.
func (r *reader) take(pos int64) (rows.Piece, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return rows.Piece{}, false
	}
	f := r.queue[0]
	r.queue[0] = fetched{}
	r.queue = r.queue[1:]
	r.bytes -= f.size
	r.nrows -= int(f.Next() - max(pos, f.First))
	signal(r.room)
	return f.Piece, true
}

// Buffered implements source.Reader.
func (r *reader) Buffered() (int, int64) {
	heard := r.p.heard.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cur.Rest() + r.nrows, max(r.end, heard)
}

// Position implements source.Reader.
func (r *reader) Position() int64 { return r.cur.Position() }

// Close implements source.Reader.
func (r *reader) Close() error {
	r.cancel()
	<-r.done
	r.cur.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.queue {
		f.Rows.Release()
	}
	r.queue, r.bytes, r.nrows = nil, 0, 0
	r.err = fmt.Errorf("the reader is closed: %w", tidemill.ErrUnavailable)
	return nil
}

// run pulls until the reader is closed or can never go on.
func (r *reader) run(ctx context.Context) {
	defer close(r.done)
	defer func() {
		for _, d := range r.decoders {
			d.Release()
		}
	}()
	const least, most = 20 * time.Millisecond, time.Second
	wait := least
	for {
		before := r.nextSeq
		err := r.pull(ctx)
		if ctx.Err() != nil {
			return
		}
		if fatal(err) {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			signal(r.wake)
			return
		}
		if r.nextSeq != before {
			wait = least
		}
		r.p.t.s.cfg.Logger.Debug("reader starts over", "partition", r.p.String(), "sequence", r.nextSeq, "err", err)
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, most)
	}
}

// fatal reports that pulling again cannot help.
func fatal(err error) bool {
	return errors.Is(err, tidemill.ErrCorrupt) || errors.Is(err, tidemill.ErrNotFound) ||
		errors.Is(err, tidemill.ErrInvalid) || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, tidemill.ErrDenied)
}

// accept checks, decodes and queues one message.
func (r *reader) accept(ctx context.Context, seq uint64, at time.Time, data []byte) error {
	if seq < r.nextSeq {
		return nil // delivered before
	}
	f, err := frame.Parse(data)
	if err != nil {
		return fmt.Errorf("%v sequence %d: %w", r.p, seq, err)
	}
	if f.First > r.expect {
		return r.hole(ctx, f.First)
	}
	r.nextSeq = seq + 1
	if f.Next() <= r.expect {
		return nil
	}
	dec := r.decoders[f.Fingerprint]
	if dec == nil {
		schema, err := r.p.t.schemaOf(ctx, f.Fingerprint)
		if err != nil {
			r.nextSeq = seq
			return err
		}
		dec = rows.NewDecoder(schema, r.p.t.s.cfg.Mem)
		r.decoders[f.Fingerprint] = dec
	}
	rec, err := dec.Decode(f.Body)
	if err == nil && rec.NumRows() != f.Rows {
		rec.Release()
		err = fmt.Errorf("%d rows where %d were promised: %w", rec.NumRows(), f.Rows, tidemill.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("%v sequence %d: %w", r.p, seq, err)
	}
	r.p.hear(f.Next())
	r.mu.Lock()
	r.queue = append(r.queue, fetched{rows.Piece{First: f.First, Rows: rec, Appended: at}, len(data)})
	r.bytes += len(data)
	r.nrows += int(f.Next() - max(r.expect, f.First))
	r.end = max(r.end, f.Next())
	r.mu.Unlock()
	r.expect = f.Next()
	signal(r.wake)
	return nil
}

// hole says why the log goes on at offset and not where it should.
func (r *reader) hole(ctx context.Context, offset int64) error {
	b, err := r.p.bounds(ctx)
	if err != nil {
		return err
	}
	if b.firstOffset > r.expect {
		return fmt.Errorf("%v: rows from offset %d on were dropped while they were read, the first one held is %d: %w", r.p, r.expect, b.firstOffset, tidemill.ErrNotFound)
	}
	return fmt.Errorf("%v: offsets [%d,%d) are missing from the log: %w", r.p, r.expect, offset, tidemill.ErrCorrupt)
}
