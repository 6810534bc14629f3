package roles

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer"
)

// faults lets things happen to the cluster for a while, and makes everything whole again. It
// returns what happened.
func (c *cluster) faults(t *testing.T) (told []string) {
	began, ctx := time.Now(), context.Background()
	say := func(format string, args ...any) {
		told = append(told, fmt.Sprintf("%d ms: ", time.Since(began).Milliseconds())+fmt.Sprintf(format, args...))
		c.log.Info("—", "fault", told[len(told)-1])
	}
	number := func(n int) int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.rng.IntN(n)
	}
	for range 14 {
		sleep(ctx, time.Duration(100+number(1500))*time.Millisecond)
		if a, _ := c.record(); a.State == tidemill.JobFinished || a.State == tidemill.JobFailed {
			break
		}
		p := c.procs[number(len(c.procs))]
		switch number(8) {
		case 0, 1:
			say("crash %s", p.name)
			p.crash()
			sleep(ctx, time.Duration(number(4000))*time.Millisecond)
			p.start()
		case 2:
			say("%s goes and comes back", p.name)
			p.end()
			p.start()
		case 3:
			say("cut %s off from the lease stores", p.name)
			p.records.cut.Store(true)
			p.sessions.cut.Store(true)
			sleep(ctx, time.Duration(500+number(4000))*time.Millisecond)
			p.records.cut.Store(false)
			p.sessions.cut.Store(false)
		case 4:
			say("storm")
			c.setLoss(0.1)
			sleep(ctx, time.Duration(200+number(1500))*time.Millisecond)
			c.setLoss(0)
		case 5:
			say("a predecessor's fence record arrives")
			if err := c.lateFence(ctx); err != nil {
				t.Error(err)
			}
		case 6:
			say("a predecessor's assignment arrives")
			if err := c.lateAssignment(ctx); err != nil {
				t.Error(err)
			}
		case 7:
			say("rows are read that nobody changes")
			c.peek(ctx, number)
		}
	}
	return told
}

// peek pulls rows that are in no table, as a worker does that reads ahead and dies.
func (c *cluster) peek(ctx context.Context, number func(int) int) {
	a, _ := c.record()
	for p, owner := range a.Partitions {
		for _, id := range a.PSes() {
			to := c.life(id)
			if to == nil || to.ctx.Err() != nil {
				continue
			}
			pctx, stop := context.WithTimeout(ctx, patience)
			st, err := to.ps.Status(pctx, jobName)
			if err == nil {
				var ids []uint64
				for len(ids) < 3 {
					x := tidemill.Mix(uint64(number(1 << 30)))
					if a.Shards[tidemill.ShardOf(x, len(a.Shards))].Member == id {
						ids = append(ids, x)
					}
				}
				// Whether it is served depends on what goes on.
				_ = to.ps.Pull(pctx, &wire.PullRequest{
					Header: wire.Header{Job: jobName, Generation: a.Generation, Partition: p, Epoch: owner.Epoch, Round: st.Round + 1, Routes: a.Routes()},
					IDs:    [][]uint64{ids},
				}, &wire.PullReply{})
			}
			stop()
		}
	}
}

// lateFence appends a fence record to the chain, as a leader that was paused before it did.
func (c *cluster) lateFence(ctx context.Context) error {
	chain, err := snapshot.Snapshots(c.bucket, jobName)
	if err != nil {
		return err
	}
	n, _, err := snapshot.Latest(ctx, chain)
	if err != nil || n == 0 {
		return err
	}
	top, err := snapshot.ReadManifest(ctx, chain, n)
	if err != nil {
		return err
	}
	gen := top.Generation
	if top.Fence != nil {
		gen = max(gen, top.Fence.Generation)
	}
	return snapshot.Commit(ctx, chain, &snapshot.Manifest{
		Format: snapshot.Format, Job: jobName, Number: n + 1, Generation: gen, Created: time.Now().UTC(),
		Fence: &snapshot.Fence{Generation: gen, Holder: "paused"},
	})
}

// lateAssignment writes the record as it is once more, in the name of a leader that is gone.
func (c *cluster) lateAssignment(ctx context.Context) error {
	a, at := c.record()
	if a.State != tidemill.JobRunning {
		return nil
	}
	a.Seq++
	a.Leader = tidemill.Member{ID: "paused"}
	value, err := json.Marshal(&a)
	if err != nil {
		return err
	}
	_, err = c.records.Update(ctx, trainer.JobPrefix+jobName, value, at)
	return err
}
