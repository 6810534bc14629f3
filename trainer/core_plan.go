package trainer

import (
	"slices"

	"github.com/tidemill/tidemill"
)

// This file is the part of Core that changes a job while it is trained. Planned changes wait
// for a quiet point: nothing is granted, and every ps has everything that was. No round can be
// torn there, so a change needs no rewind: the next assignment has the same generation.

// plan is what is to change at the next quiet point.
type plan struct {
	grow       []tidemill.Origin // partitions to add
	partitions bool              // some partition's worker lives, and another should have it
	spread     bool              // a ps waits for shards: change owners at the next cut
}

// quiet reports whether every ps has everything that was granted and nobody else is at work on
// the job's state. Partitions that nobody has joined may have more on somebody's hands.
func (c *Core) quiet() bool {
	for p := range c.parts {
		if q := &c.parts[p]; !q.joined || q.acked < q.next {
			return false
		}
	}
	return c.bar == nil && !c.writing
}

// changing carries out what is planned as soon as it can be. It reports whether nothing may be
// granted meanwhile.
func (c *Core) changing() bool {
	if len(c.plan.grow) == 0 && !c.plan.partitions {
		return false
	}
	// A snapshot that is being written is waited for without standing still (PROTOCOL 16), and
	// a job that has granted everything needs no change any more, but for rows to be replayed.
	if c.bar != nil || c.ending != "" || c.finished() && len(c.plan.grow) == 0 {
		return false
	}
	if c.quiet() {
		c.change()
	}
	return c.writing || len(c.plan.grow) > 0 || c.plan.partitions
}

// change writes an assignment with what is planned.
func (c *Core) change() {
	changed := c.grown()
	c.plan.partitions = false
	if len(c.workers) > 0 {
		for i, m := range c.partitionOwners() {
			if o := &c.asg.Partitions[i]; o.Member != m {
				*o = tidemill.Owner{Member: m, Epoch: c.asg.Seq + 1}
				changed = true
			}
		}
	}
	if changed {
		c.write()
	}
}

// grown adds the partitions that are waited for, each at the round that is next. Of a bounded
// job's that is there already it may raise the end.
func (c *Core) grown() bool {
	a := &c.asg
	raised := false
	n := c.count()
	for _, o := range c.plan.grow {
		if i := slices.IndexFunc(c.origins(), o.SameLog); i >= 0 {
			if i < len(a.Origins) && a.Origins[i].Topic != "" && o.End > a.Origins[i].End {
				a.Origins[i].End, raised = o.End, true
			}
			continue
		}
		if o.Round = 0; c.cfg.Staleness == 0 {
			o.Round = c.round
		}
		for len(a.Origins) < n {
			a.Origins = append(a.Origins, tidemill.Origin{})
		}
		a.Origins = append(a.Origins, o)
		a.Partitions = append(a.Partitions, tidemill.Owner{})
		a.Cut = append(a.Cut, o.First)
		n++
	}
	grew := len(c.plan.grow) > 0 && n > len(c.parts)
	c.plan.grow = nil
	return grew || raised
}

// origins lists what the job reads, by partition.
func (c *Core) origins() []tidemill.Origin {
	all := make([]tidemill.Origin, c.count())
	for p := range all {
		all[p] = c.asg.Origin(p)
	}
	return all
}
