package node

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/trainer"
)

// restShare is what of the time for leaving in order is kept for the last cut.
const restShare = 4

// drain makes the node leave in order: it hands over what it owns, and if its trainer leads, takes
// a last cut of every job. It returns after the configured time, or when ctx ends, at the latest.
func (n *Node) drain(ctx context.Context, s *lease.Session, m tidemill.Member) {
	if n.cfg.DrainTimeout <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	limit := n.cfg.DrainTimeout
	if t := n.local.trainer.Load(); t != nil && t.Leads() {
		limit -= limit / restShare
	}
	n.handOver(ctx, s, m, limit)
	if t := n.local.trainer.Load(); t != nil && t.Leads() {
		t.Rest(ctx)
	}
}

// handOver says that member m is about to go and waits until it owns nothing any more: the leading
// trainer moves its partitions and hands its shards over while training goes on. It gives up
// after limit, when ctx ends, or when nobody is there who could take over; what is left is then
// recovered as if the process had died.
func (n *Node) handOver(ctx context.Context, s *lease.Session, m tidemill.Member, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began, said := time.Now(), false
	for {
		shards, partitions, err := n.owned(ctx, m.ID)
		if err == nil && shards+partitions == 0 {
			if said {
				n.log.Info("drained: everything is handed over", "took", time.Since(began).Round(time.Millisecond))
			}
			return
		}
		if err == nil && !n.succeeded(ctx, m.ID, shards > 0, partitions > 0) {
			n.log.Info("nobody is there to take over", "shards", shards, "partitions", partitions)
			return
		}
		if !said {
			value, err := n.sessionValue(m, true)
			if err == nil {
				err = s.SetValue(value)
			}
			if err != nil {
				n.log.Warn("cannot say that this node leaves", "err", err)
				return
			}
			said = true
			n.log.Info("leaves: hands over what it owns", "shards", shards, "partitions", partitions, "at_most", limit)
		}
		pause(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			n.log.Warn("goes with what it owns; others recover it", "shards", shards, "partitions", partitions)
			return
		}
	}
}

// owned counts what the records of jobs that run give to a member.
func (n *Node) owned(ctx context.Context, id string) (shards, partitions int, err error) {
	entries, err := n.records.List(ctx, trainer.JobPrefix)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		var a tidemill.Assignment
		if json.Unmarshal(e.Value, &a) != nil || a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
			continue
		}
		own := func(owners []tidemill.Owner) (k int) {
			for _, o := range owners {
				if o.Member == id {
					k++
				}
			}
			return k
		}
		shards, partitions = shards+own(a.Shards), partitions+own(a.Partitions)
	}
	return shards, partitions, nil
}

// succeeded reports whether others stay who can own shards and partitions, and a trainer lives
// that gives them out; true also when that cannot be found out now.
func (n *Node) succeeded(ctx context.Context, id string, shards, partitions bool) bool {
	entries, err := n.sessions.List(ctx, trainer.MemberPrefix)
	if err != nil {
		return true
	}
	leads := false
	for _, e := range entries {
		var s trainer.Session
		if json.Unmarshal(e.Value, &s) != nil {
			continue
		}
		leads = leads || slices.Contains(s.Roles, RoleTrainer)
		if strings.TrimPrefix(e.Key, trainer.MemberPrefix) == id || s.Leaving {
			continue
		}
		shards = shards && !slices.Contains(s.Roles, RolePS)
		partitions = partitions && !slices.Contains(s.Roles, RoleWorker)
	}
	return leads && !shards && !partitions
}
