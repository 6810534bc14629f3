package worker

import (
	"context"
	"fmt"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// readAhead keeps what was read of the partition and not yet used.
type readAhead struct {
	reader source.Reader
	cancel context.CancelFunc
	pieces chan piece
	most   int64            // rows, or offsets, to have at a time
	have   []tidemill.Batch // contiguous, oldest first
	at     int64            // offset of the first row that next has not returned
	end    int64            // of the log, as last heard
	err    error
}

type piece struct {
	batch tidemill.Batch
	end   int64
	err   error
}

// newReadAhead starts reading ahead from offset at, a few thousand rows at most. end is the
// log's end as the topic says it: what is in a round must not depend on how much has arrived
// here yet.
func newReadAhead(ctx context.Context, reader source.Reader, step, at, end int64) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	if _, heard := reader.Buffered(); heard > end {
		end = heard
	}
	r := &readAhead{reader: reader, cancel: cancel, pieces: make(chan piece, 4), most: max(4*step, 4096), at: at, end: end}
	most := int(max(step, 512))
	go func() {
		defer close(r.pieces)
		defer reader.Close()
		for {
			b, err := reader.Next(ctx, most)
			_, end := reader.Buffered()
			select {
			case r.pieces <- piece{b, end, err}:
			case <-ctx.Done():
				if err == nil {
					b.Rows.Release()
				}
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return r
}

func (r *readAhead) take(p piece) {
	switch {
	case p.batch.Rows == nil && p.err == nil: // the reader has gone
		if r.err == nil {
			r.err = context.Canceled
		}
	case p.err != nil:
		r.err = p.err
	default:
		r.have = append(r.have, p.batch)
		r.end = max(r.end, p.end, p.batch.Range.Next)
	}
}

// more is where pieces come from while there is room for them, and nil otherwise. There is
// room for several batches: whenever it is used up, at least one is offered or granted.
func (r *readAhead) more() <-chan piece {
	if n := len(r.have); n > 0 && r.have[n-1].Range.Next-r.have[0].Range.First >= r.most {
		return nil
	}
	return r.pieces
}

// logEnd returns the log's end as last heard.
func (r *readAhead) logEnd() (int64, error) {
	for r.err == nil {
		select {
		case p := <-r.more():
			r.take(p)
			continue
		default:
		}
		break
	}
	return r.end, r.err
}

// next waits for the rows of exactly rng, which must follow the ones before.
func (r *readAhead) next(ctx context.Context, rng tidemill.Range) ([]tidemill.Batch, error) {
	for {
		have := int64(-1)
		if n := len(r.have); n > 0 {
			have = r.have[n-1].Range.Next
		}
		if have >= rng.Next {
			break
		}
		select {
		case p := <-r.pieces:
			r.take(p)
			if r.err != nil {
				return nil, r.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var out []tidemill.Batch
	at := rng.First
	for at < rng.Next {
		b := r.have[0]
		if b.Range.First > at {
			return nil, fmt.Errorf("rows %v begin after offset %d: %w", b.Range, at, tidemill.ErrCorrupt)
		}
		part := tidemill.Range{First: at, Next: min(b.Range.Next, rng.Next)}
		out = append(out, b.Slice(part))
		at = part.Next
		if at == b.Range.Next {
			b.Rows.Release()
			r.have = r.have[1:]
		}
	}
	r.at = rng.Next
	return out, nil
}

func (r *readAhead) close() {
	r.cancel()
	for p := range r.pieces {
		if p.batch.Rows != nil {
			p.batch.Rows.Release()
		}
	}
	for _, b := range r.have {
		b.Rows.Release()
	}
}
