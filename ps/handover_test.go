package ps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// move hands a shard over: it is copied while rounds (from, to] are trained, and the rest
// follows at their end.
func (w *work) move(ctx context.Context, c *cluster, shard int, member string, from, to int64, remote bool) error {
	at := -1
	for i, id := range c.ids {
		if id == member {
			at = i
		}
	}
	req := &wire.AdoptRequest{Job: c.asg.Job, Generation: c.asg.Generation, Routes: c.asg.Routes(), Shard: shard}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.ps[at].Adopt(gctx, req) })
	g.Go(func() error { return w.train(gctx, c, from, to, remote) })
	if err := g.Wait(); err != nil {
		return err
	}
	rest := *req
	rest.Rest, rest.Round, rest.Cut = true, to, w.cut(to)
	for range 2 { // the trainer may ask again
		if err := c.ps[at].Adopt(ctx, &rest); err != nil {
			return err
		}
	}
	a := c.asg
	a.Seq++
	a.Shards = append([]tidemill.Owner(nil), a.Shards...)
	a.Shards[shard] = tidemill.Owner{Member: member, Epoch: a.Seq}
	a.Members = map[string]tidemill.Member{}
	for _, o := range a.Shards {
		a.Members[o.Member] = tidemill.Member{ID: o.Member}
	}
	c.assign(a)
	return nil
}

// TestHandover moves random shards between servers, one of which begins with none, while a
// random job is trained: the end must be that of a job in which nothing moved.
func TestHandover(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 17))
			w := randomWork(t, 300+seed, 0)
			defer w.release()
			calm := start(t, w.assignment(1), store(t), false)
			must(t, w.train(ctx, calm, 0, w.last(), false))
			want := w.end(t, calm, 1)

			remote := seed%2 == 0
			c := start(t, w.assignment(min(2, w.spec.Shards)), store(t), remote, "idle")
			round, moves := int64(0), 0
			for round < w.last() {
				to := min(w.last(), round+int64(rng.IntN(4)))
				shard, member := rng.IntN(w.spec.Shards), c.ids[rng.IntN(len(c.ids))]
				if c.asg.Shards[shard].Member == member {
					must(t, w.train(ctx, c, round, to, remote))
				} else {
					must(t, w.move(ctx, c, shard, member, round, to, remote))
					moves++
				}
				round = to
			}
			for i, p := range c.ps {
				st, err := p.Status(ctx, c.asg.Job)
				must(t, err)
				if owns := c.owns()[i]; st.Ready != owns || owns != (st.Shards > 0) {
					t.Errorf("%s: %+v, owns %v", c.ids[i], st, owns)
				}
			}
			if got := w.end(t, c, 2); !reflect.DeepEqual(got, want) {
				t.Errorf("%d moves: %s\n%+v\nwithout: %s\n%+v", moves, got.digest, got, want.digest, want)
			}
		})
	}
}
