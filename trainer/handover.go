package trainer

import (
	"context"
	"errors"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// settleLimit bounds how long training stands still for the rest of a shard: after that the
// shard stays where it is, and is tried again later.
const settleLimit = time.Second

// adopt tells a ps to copy a shard, or at a quiet point to fetch the rest of it, and posts how
// it went.
func (r *run) adopt(ctx context.Context, e Effect, a tidemill.Assignment) {
	req := &wire.AdoptRequest{
		Job: r.job, Generation: a.Generation, Routes: a.Routes(), Shard: e.Shard,
		Rest: e.Kind == SettleShard, Round: e.Round, Cut: e.Cut,
	}
	done := Event{Kind: Copied, Number: e.Number}
	if req.Rest {
		done.Kind = Settled
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, settleLimit)
		defer cancel()
	}
	err := r.untilAdopted(ctx, e.Member, req)
	if err != nil {
		r.log.Warn("a shard could not be handed over; it stays where it is", "shard", e.Shard, "to", e.Member, "err", err)
		done.Kind = Unmoved
	}
	r.post(done)
}

func (r *run) untilAdopted(ctx context.Context, member string, req *wire.AdoptRequest) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		_, _, members := r.t.alive()
		m, ok := members[member]
		if !ok {
			return tidemill.ErrUnavailable
		}
		ps, err := r.t.cfg.PS(ctx, m)
		if err == nil {
			err = ps.Adopt(ctx, req)
		}
		if err == nil || !errors.Is(err, tidemill.ErrUnavailable) && !errors.Is(err, tidemill.ErrNotReady) {
			return err
		}
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return err
		}
	}
}
