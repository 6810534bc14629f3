package trainer

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/trainer/gate"
)

// This file is the half of validator that reads the stream after the cuts and scores its rows.

// follow starts reading every partition from the oldest cut that is of interest.
func (v *validator) follow(ctx context.Context, wg *sync.WaitGroup) error {
	topic, err := source.OpenSpec(ctx, v.r.t.cfg.Source, &v.r.spec.Stream)
	if err != nil {
		return err
	}
	from := v.oldest()
	var readers []source.Reader
	for p := range from {
		reader, err := topic.Reader(ctx, p, from[p])
		if err != nil {
			for _, r := range readers {
				r.Close()
			}
			topic.Close()
			return err
		}
		readers = append(readers, reader)
	}
	v.readers = make([]*follower, len(readers))
	var parts sync.WaitGroup
	for p, reader := range readers {
		v.readers[p] = &follower{pos: from[p]}
		parts.Add(1)
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer parts.Done()
			defer reader.Close()
			for {
				b, err := reader.Next(ctx, v.r.t.cfg.ScoreBatch)
				if err != nil {
					if ctx.Err() == nil {
						v.log.Error("validation cannot read on", "partition", p, "err", err)
					}
					return
				}
				select {
				case v.pieces <- b:
				case <-ctx.Done():
					b.Rows.Release()
					return
				}
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		parts.Wait()
		topic.Close()
	}()
	return nil
}

// oldest returns, by partition, the offset below which no row is needed any more.
func (v *validator) oldest() tidemill.Cut {
	out := make(tidemill.Cut, v.parts)
	for p := range out {
		out[p] = -1
		if p < len(v.cut) {
			out[p] = v.cut[p]
		}
		for _, w := range v.book.Wants() {
			if out[p] < 0 || w.From[p] < out[p] {
				out[p] = w.From[p]
			}
		}
		// One that waits for a place will want what those under test have been scored on by then.
		if w, ok := v.book.Waiting(); ok && p < len(w.Cut) && (out[p] < 0 || w.Cut[p] < out[p]) {
			out[p] = w.Cut[p]
		}
		out[p] = max(0, out[p])
	}
	return out
}

// prune forgets rows that are scored and lie before the newest cut.
func (v *validator) prune() {
	if v.readers == nil {
		return
	}
	from := v.oldest()
	for p, f := range v.readers {
		for len(f.have) > 0 && f.have[0].Range.Next <= from[p] {
			v.kept -= int(f.have[0].Rows.NumRows())
			f.have[0].Rows.Release()
			f.have = f.have[1:]
		}
	}
}

// score scores what is wanted and at hand, until nothing is.
func (v *validator) score(ctx context.Context) error {
	if v.readers == nil {
		return nil
	}
	for again := true; again && ctx.Err() == nil; {
		again = false
		for p, f := range v.readers {
			wants := v.book.Wants()
			for _, b := range f.have {
				lo := b.Range.Next
				for _, w := range wants {
					lo = min(lo, max(w.From[p], b.Range.First))
				}
				if lo >= b.Range.Next {
					continue
				}
				if err := v.scorePiece(ctx, p, b, lo, wants); err != nil {
					return err
				}
				was := wants
				if wants = v.book.Wants(); len(wants) > 0 && sameWants(was, wants) {
					return fmt.Errorf("rows before offset %d of partition %d are wanted and no longer kept: %w", lo, p, tidemill.ErrCorrupt)
				}
				again = true
			}
		}
		v.prune()
	}
	return nil
}

// sameWants reports whether scoring has changed nothing.
func sameWants(a, b []gate.Want) bool {
	return slices.EqualFunc(a, b, func(x, y gate.Want) bool { return x.Version == y.Version && slices.Equal(x.From, y.From) })
}

// scorePiece scores the rows of a piece from offset lo on with every model that wants them.
func (v *validator) scorePiece(ctx context.Context, p int, b tidemill.Batch, lo int64, wants []gate.Want) error {
	rng := tidemill.Range{First: lo, Next: b.Range.Next}
	at := 0
	for at < int(b.Rows.NumRows()) && b.Offset(at) < lo {
		at++
	}
	rows := b.Rows.NewSlice(int64(at), b.Rows.NumRows())
	defer func() { rows.Release() }()
	offsets := make([]int64, 0, rows.NumRows())
	for i := at; i < int(b.Rows.NumRows()); i++ {
		offsets = append(offsets, b.Offset(i))
	}
	if bad := v.r.model.Plan.Check(rows, true); len(bad) > 0 {
		good := feature.Drop(rows, bad)
		rows.Release()
		rows = good
		for i := len(bad) - 1; i >= 0; i-- {
			offsets = slices.Delete(offsets, bad[i].Row, bad[i].Row+1)
		}
	}
	ev := gate.Rows{Partition: p, Range: rng, Offsets: offsets, Losses: map[int64][]float32{}}
	for _, w := range wants {
		s := v.scorers[w.Version]
		if s == nil || w.From[p] >= rng.Next || rows.NumRows() == 0 {
			continue
		}
		losses, err := s.Losses(nil, rows)
		if err != nil {
			return err
		}
		ev.Losses[w.Version] = losses
		if ev.Prior == nil {
			prior := v.prior
			if prior == nil {
				prior = make([]float32, s.Model().Outputs())
			}
			if ev.Prior, err = s.PriorLosses(nil, rows, prior); err != nil {
				return err
			}
		}
	}
	return v.apply(ctx, ev)
}

// readAll reports whether every row that a job that is over can still be judged on was seen.
func (v *validator) readAll(final string) bool {
	if final != tidemill.JobFinished || v.readers == nil {
		return true
	}
	topic := v.r.spec.Stream.Topic
	end := v.r.spec.Train.End.OfTopic(topic, topic, v.r.origins())
	if v.r.spec.Train.End == nil {
		end = v.cut
	}
	for p, f := range v.readers {
		if p < len(end) && f.pos < end[p] {
			return false
		}
	}
	return true
}
