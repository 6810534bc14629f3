package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill/internal/snapshot"
)

// keepNewest is how many of the newest snapshots collectors keep in this world.
func (w *World) keepNewest() int { return 1 + int(w.cfg.Seed%3) }

// collect removes what no snapshot needs that is kept: the newest, that of which training began,
// and those that are yet to be offered to the gate. It runs beside everything else, as the keeper
// does, one at a time in a process; it goes on when another trainer leads, which may collect too.
func (t *trainerNode) collect() {
	if t.collecting {
		t.collectMore = true
		return
	}
	t.collecting, t.collectMore = true, false
	t.w.process(t.n, func(ctx context.Context, b *blob.Bucket) error {
		c, err := snapshot.NewCollector(b, jobName, t.n.id())
		if err == nil {
			_, err = c.Run(ctx, t.w.keepNewest(), t.needed, time.UnixMicro(t.w.now))
		}
		return err
	}, func(error) {
		if t.collecting = false; t.collectMore && t.core != nil {
			t.collect()
		}
	})
}

// needed returns the snapshots that this process needs.
func (t *trainerNode) needed(context.Context) (map[int64]bool, error) {
	out := map[int64]bool{}
	if t.core != nil {
		if a := t.core.Assignment(); a.Snapshot != 0 {
			out[a.Snapshot] = true
		}
	}
	for _, m := range t.left {
		out[m.Number] = true
	}
	return out, nil
}

// keep makes a savepoint of one of the newest snapshots, whichever luck says, some time after it
// has read which there are.
func (c *clients) keep(w *World) {
	c.tries++
	name, back := fmt.Sprintf("client-%d", c.tries), c.tries%4
	n := w.nodes["client"]
	var m *snapshot.Manifest
	w.process(n, func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Snapshots(b, jobName)
		if err != nil {
			return err
		}
		numbers, err := chain.List(ctx, 0)
		for _, k := range slices.Backward(numbers) {
			x, err := snapshot.ReadManifest(ctx, chain, k)
			if err != nil {
				return err
			}
			if x.Fence == nil {
				m = x
				if back--; back < 0 {
					break
				}
			}
		}
		return err
	}, func(err error) {
		if err != nil || m == nil {
			return
		}
		w.on(n, n.incarnation, w.rng.Int64N(400*ms), func() {
			w.process(n, func(ctx context.Context, b *blob.Bucket) error {
				_, err := snapshot.NewSavepoint(ctx, b, m, name, "client", "", time.UnixMicro(w.now))
				return err
			}, func(err error) {
				if err == nil {
					w.say("savepoint %s keeps snapshot %d", name, m.Number)
					w.checks.keeps(w, name, m)
				}
			})
		})
	})
}

// unkeep deletes the oldest of the savepoints that were acknowledged.
func (c *clients) unkeep(w *World) {
	names := sortedKeys(w.checks.kept)
	if len(names) == 0 {
		return
	}
	name := names[0]
	delete(w.checks.kept, name)
	w.process(w.nodes["client"], func(ctx context.Context, b *blob.Bucket) error {
		return snapshot.DeleteSavepoint(ctx, b, jobName, name)
	}, func(error) {})
}

// keeps looks at a savepoint that was acknowledged: from now on it can be read.
func (c *checks) keeps(w *World, name string, m *snapshot.Manifest) {
	if w.disk.lied {
		return
	}
	c.kept[name] = m
	c.whole(w, m, fmt.Sprintf("savepoint %s is acknowledged", name))
}

// whole reads a snapshot that must be there, and counts it.
func (c *checks) whole(w *World, m *snapshot.Manifest, why string) {
	shards, err := readParts(context.Background(), w.disk.bucket, m.Parts, w.cfg.Shards, everything)
	if err != nil {
		_ = w.fail("%s, and snapshot %d cannot be read: %v", why, m.Number, err)
		return
	}
	if !w.broker.lied {
		c.ledger(w, m, shards)
	}
}

// deleted looks at what a collector has removed: never what a live snapshot needs, one of the
// newest or one that a savepoint keeps.
func (c *checks) deleted(w *World, name string) {
	if w.disk.lied {
		return
	}
	c.collected++
	for _, m := range c.newest {
		if slices.Contains(m.BlobNames(), name) {
			_ = w.fail("%s was deleted, and snapshot %d needs it, one of the newest %d", name, m.Number, w.keepNewest())
		}
	}
	for _, by := range sortedKeys(c.kept) {
		if m := c.kept[by]; slices.Contains(m.BlobNames(), name) {
			_ = w.fail("%s was deleted, and snapshot %d needs it, which savepoint %s keeps", name, m.Number, by)
		}
	}
}

// live notes a new snapshot.
func (c *checks) live(w *World, m *snapshot.Manifest) {
	c.newest = append(c.newest, m)
	if n := len(c.newest) - w.keepNewest(); n > 0 {
		c.newest = c.newest[n:]
	}
	for _, name := range m.BlobNames() {
		if !strings.Contains(name, fmt.Sprintf("/%09d/", m.Number)) {
			c.layers++
		}
	}
}
