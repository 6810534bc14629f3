package worker

import (
	"context"
	"fmt"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/source"
)

// readAhead keeps what was read of the partition and not yet used.
type readAhead struct {
	reader source.Reader
	cancel context.CancelFunc
	pieces chan piece
	most   int64       // rows, or offsets, to have at a time
	have   []*block    // contiguous, oldest first
	free   chan *block // whose buffers can be used again
	at     int64       // offset of the first row that next has not returned
	end    int64       // of the log, as last heard
	err    error
}

type piece struct {
	*block // nil with an error
	end    int64
	err    error
}

// pieceRows is how many rows are asked for at a time, where a batch has no more: enough for the
// costs of a column to be spread.
const pieceRows = 2048

// newReadAhead starts reading ahead from offset at, a few thousand rows at most. end is the
// log's end as the topic says it: what is in a round must not depend on how much has arrived
// here yet. Where plan is given and learns nothing, the rows come with the inputs that it makes.
func newReadAhead(ctx context.Context, reader source.Reader, plan *feature.Plan, step, at, end int64) *readAhead {
	ctx, cancel := context.WithCancel(ctx)
	if _, heard := reader.Buffered(); heard > end {
		end = heard
	}
	r := &readAhead{
		reader: reader, cancel: cancel, pieces: make(chan piece, 2), most: max(4*step, 4096), free: make(chan *block, 8), at: at, end: end,
	}
	most := int(max(step, pieceRows))
	go func() {
		defer close(r.pieces)
		defer reader.Close()
		var ws *feature.Workspace
		if plan != nil {
			ws = plan.NewWorkspace()
		}
		for {
			b, err := reader.Next(ctx, most)
			_, end := reader.Buffered()
			p := piece{end: end, err: err}
			if err == nil {
				select {
				case p.block = <-r.free:
				default:
					p.block = new(block)
				}
				p.Batch, p.refs = b, 1
				p.fill(plan, ws)
			}
			select {
			case r.pieces <- p:
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
	case p.block == nil && p.err == nil: // the reader has gone
		if r.err == nil {
			r.err = context.Canceled
		}
	case p.err != nil:
		r.err = p.err
	default:
		r.have = append(r.have, p.block)
		r.end = max(r.end, p.end, p.Range.Next)
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

// next waits for the rows of exactly rng, which must follow the ones before, and appends them to
// parts. The caller drops each.
func (r *readAhead) next(ctx context.Context, parts []part, rng tidemill.Range) ([]part, error) {
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
				return parts, r.err
			}
		case <-ctx.Done():
			return parts, ctx.Err()
		}
	}
	at := rng.First
	for at < rng.Next {
		b := r.have[0]
		if b.Range.First > at {
			return parts, fmt.Errorf("rows %v begin after offset %d: %w", b.Range, at, tidemill.ErrCorrupt)
		}
		p := part{block: b, rng: tidemill.Range{First: at, Next: min(b.Range.Next, rng.Next)}}
		p.lo, p.hi = int(p.rng.First-b.Range.First), int(p.rng.Next-b.Range.First)
		b.refs++
		parts = append(parts, p)
		at = p.rng.Next
		if at == b.Range.Next {
			r.have[0] = nil
			r.have = r.have[1:]
			r.drop(b)
		}
	}
	r.at = rng.Next
	return parts, nil
}

// drop takes one reference to b away; with the last its rows go, and its buffers are used again.
func (r *readAhead) drop(b *block) {
	if b.refs--; b.refs > 0 {
		return
	}
	b.Rows.Release()
	b.Batch = tidemill.Batch{}
	select {
	case r.free <- b:
	default:
	}
}

func (r *readAhead) close() {
	r.cancel()
	for p := range r.pieces {
		if p.block != nil {
			p.Rows.Release()
		}
	}
	for _, b := range r.have {
		r.drop(b)
	}
	r.have = nil
}
