package ps

import (
	"context"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// TestLoad: every row pulled and pushed is counted for its shard, in process and over gRPC, and
// a shard that is restored begins again at none.
func TestLoad(t *testing.T) {
	ctx := context.Background()
	both(t, func(t *testing.T, w *work, c *cluster) {
		must(t, w.train(ctx, c, 0, w.last(), false))
		v := w.spec.Shards
		want := make([]int64, v)
		load := func(i int) wire.Status {
			t.Helper()
			st, err := c.ps[i].Status(ctx, c.asg.Job)
			must(t, err)
			return st
		}
		before := []wire.Status{load(0), load(1)}
		ids := make([][]uint64, len(w.model.Layout.Tables))
		for id := uint64(0); len(ids) > 0 && id < 1000; id++ {
			if s := tidemill.ShardOf(id, v); c.asg.Shards[s].Member == c.asg.Shards[0].Member {
				ids[0] = append(ids[0], id)
				want[s]++
			}
		}
		var into wire.PullReply
		must(t, c.ps[0].Pull(ctx, &wire.PullRequest{Header: c.header(0, w.last()+1), IDs: ids}, &into))
		seen := map[int]bool{}
		for i := range c.ps {
			st := load(i)
			var rows, pushed int64
			for k, l := range st.Load {
				was := before[i].Load[k]
				if c.asg.Shards[l.Shard].Member != c.asg.Shards[i].Member || seen[l.Shard] || k > 0 && l.Shard <= st.Load[k-1].Shard {
					t.Errorf("ps %d tells of shard %d at place %d", i, l.Shard, k)
				}
				seen[l.Shard] = true
				if n := l.Pulled - was.Pulled; n != want[l.Shard] {
					t.Errorf("shard %d counts %d rows more, want %d", l.Shard, n, want[l.Shard])
				}
				rows, pushed = rows+l.Rows, pushed+l.Pushed
			}
			if rows != st.Rows || pushed != st.Pushed || st.Pushed < st.Rows {
				t.Errorf("ps %d has %d rows after %d were pushed, its shards %d after %d", i, st.Rows, st.Pushed, rows, pushed)
			}
		}
		if len(seen) != v {
			t.Errorf("loads of %d shards of %d", len(seen), v)
		}
	})
}
