package trainer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// keeper removes what of a job's snapshots and of its model's versions nobody needs any more.
// What may go is decided by snapshot.Decide and snapshot.RetireVersions; a keeper knows what
// this process is using.
type keeper struct {
	r    *run
	log  *slog.Logger
	kick chan struct{} // capacity 1

	mu sync.Mutex
	// offering holds the snapshots that the validator has been handed and has not dealt with.
	offering map[int64]bool
	// tested holds the snapshots of the versions that serve, are measured against or are under
	// test.
	tested map[int64]bool

	// Of the goroutine of run.
	collector *snapshot.Collector
	parents   map[int64]int64 // of snapshots
}

func newKeeper(r *run) (*keeper, error) {
	c, err := snapshot.NewCollector(r.t.cfg.Bucket, r.job, r.t.cfg.Member.ID)
	return &keeper{
		r: r, log: r.log, kick: make(chan struct{}, 1), offering: map[int64]bool{}, tested: map[int64]bool{},
		collector: c, parents: map[int64]int64{},
	}, err
}

// offer notes that the validator is going to read a snapshot.
func (k *keeper) offer(n int64) {
	k.mu.Lock()
	k.offering[n] = true
	k.mu.Unlock()
}

// offered notes that it has read it, and that some snapshots may go now.
func (k *keeper) offered(n int64) {
	k.mu.Lock()
	delete(k.offering, n)
	k.mu.Unlock()
	k.wake()
}

// begins notes that the validator begins again: what it was handed it reads no more.
func (k *keeper) begins() {
	k.mu.Lock()
	clear(k.offering)
	k.mu.Unlock()
}

// tests notes which snapshots the versions are of that the gate looks at.
func (k *keeper) tests(snapshots map[int64]bool) {
	k.mu.Lock()
	k.tested = snapshots
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// run collects whenever something may have become garbage, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.kick:
			k.collect(ctx)
		}
	}
}

// collect removes what is garbage now. What fails is tried again with the next snapshot.
func (k *keeper) collect(ctx context.Context) {
	keep := k.r.spec.Train.Snapshot.Keep
	if keep == 0 { // submitted before there was a default
		keep = tidemill.DefaultKeep
	}
	done, err := k.collector.Run(ctx, keep, k.needed, time.Now())
	if err == nil && done != (snapshot.Collected{}) {
		k.log.Debug("snapshots were collected", "snapshots", done.Snapshots, "records", done.Records, "blobs", done.Blobs)
	}
	if err == nil {
		err = k.retire(ctx, keep)
	}
	if err != nil && ctx.Err() == nil {
		k.log.Warn("what nobody needs could not be removed", "err", err)
	}
}

// needed returns the snapshots that this process needs: the one that training began from, those
// that are being made versions, and those of the versions that count, with their parents, from
// which such a version can be trained again.
func (k *keeper) needed(ctx context.Context) (map[int64]bool, error) {
	out := map[int64]bool{}
	k.r.t.mu.Lock()
	out[k.r.asg.Snapshot] = true
	k.r.t.mu.Unlock()
	k.mu.Lock()
	for n := range k.offering {
		out[n] = true
	}
	var tested []int64
	for n := range k.tested {
		tested = append(tested, n)
	}
	k.mu.Unlock()
	for _, n := range tested {
		out[n] = true
		parent, ok := k.parents[n]
		if !ok {
			m, err := snapshot.ReadManifest(ctx, k.r.chain, n)
			if errors.Is(err, tidemill.ErrNotFound) || errors.Is(err, tidemill.ErrCorrupt) {
				continue
			}
			if err != nil {
				return nil, err
			}
			parent = m.Parent
			k.parents[n] = parent
		}
		out[parent] = true
	}
	delete(out, 0)
	return out, nil
}

// retire removes the files of versions that nobody goes back to.
func (k *keeper) retire(ctx context.Context, keep int) error {
	b, model := k.r.t.cfg.Bucket, k.r.spec.Model
	versions, err := snapshot.VersionFolders(ctx, b, model)
	if err != nil {
		return err
	}
	chain, err := snapshot.Champions(b, model)
	if err != nil {
		return err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return err
	}
	var champions []int64
	var anchor, serves int64
	for _, n := range numbers {
		c, err := snapshot.ReadChampion(ctx, chain, n)
		if err != nil {
			return err
		}
		if c.Kind != snapshot.ChampionFence {
			champions, anchor, serves = append(champions, c.Version), c.Anchor, c.Version
		}
	}
	for i := range versions {
		v := &versions[i]
		if v.Number <= serves || v.Gone {
			continue
		}
		d, err := snapshot.ReadDecision(ctx, b, model, v.Number)
		if err != nil && !errors.Is(err, tidemill.ErrNotFound) {
			return err
		}
		v.Over = err == nil && (d.Decision == tidemill.Rejected || d.Decision == tidemill.Superseded)
	}
	for _, n := range snapshot.RetireVersions(versions, champions, anchor, max(keep, tidemill.KeepVersions), max(2, k.r.spec.Serve.Keep)) {
		if err := snapshot.RetireVersion(ctx, b, model, n, k.r.t.cfg.Member.ID, time.Now()); err != nil {
			return err
		}
	}
	return nil
}
