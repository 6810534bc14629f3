package worker

import (
	"slices"

	"github.com/tidemill/tidemill"
)

// This file is the part of Core that says which pulled rows may be used again.
//
// At staleness n a batch is granted once every partition has pushed all its batches but for the
// last n before it. A row that is pulled after that holds all of those, so a batch may use what
// was pulled after it was granted, and is never further behind than if it had pulled itself. No
// clock and no message is needed for it: the grant is the proof.

// keeping is what Core remembers for that.
type keeping struct {
	begun int64   // batches so far
	since []int64 // by run of the queue: the first batch that will have pulled after the run was granted
}

// queued notes when the newest run of the queue was granted.
func (c *Core) queued() { c.keep.since = append(c.keep.since, c.keep.begun+1) }

// unqueued forgets the first run of the queue.
func (c *Core) unqueued() { c.keep.since = slices.Delete(c.keep.since, 0, 1) }

// number numbers the current batch, which is of the first run of the queue.
func (c *Core) number() {
	k := &c.keep
	k.begun++
	c.cur.Number, c.cur.Oldest = k.begun, k.begun+1
	if c.cfg.Keep <= 0 || c.cfg.Staleness == 0 {
		return
	}
	c.cur.Oldest = max(1, k.begun-int64(c.cfg.Keep))
	if c.cfg.Staleness > 0 {
		c.cur.Oldest = max(c.cur.Oldest, k.since[0])
	}
}

// Keeps returns what CoreConfig.Keep is for a job: the spec's bound, or its staleness where that
// says nothing else.
func Keeps(t *tidemill.TrainSpec) int {
	switch {
	case t.HotRows == 0 || t.Staleness == 0:
		return 0
	case t.HotBatches == 0:
		return max(0, t.Staleness)
	}
	return t.HotBatches
}
