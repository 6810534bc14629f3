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
	target     []string          // by shard: the ps that should own it
	move       *move             // the shard that is being handed over; nil: none
	moves      int64             // begun so far
	hold       bool              // begin no other move before members are heard of again
	heat       int               // reports of loads in a row that found a ps overloaded
}

// move is a shard on its way from one ps to another.
type move struct {
	number   int64
	shard    int
	from, to string
	copied   bool // the rest can be fetched at a quiet point
	settling bool // it is being fetched
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
	c.nextMove()
	// A snapshot that is being written is waited for without standing still (PROTOCOL 16), and
	// a job that has granted everything needs no change any more, but for rows to be replayed.
	if !c.ready() || c.bar != nil || c.ending != "" || c.finished() && len(c.plan.grow) == 0 {
		return false
	}
	if c.quiet() {
		c.change()
	}
	return c.writing || c.ready()
}

// ready reports whether something waits for nothing but a quiet point, or is being done at one.
func (c *Core) ready() bool {
	p := &c.plan
	return len(p.grow) > 0 || p.partitions || p.move != nil && (p.move.copied || p.move.settling)
}

// change writes an assignment with what is planned, or asks for the rest of a shard first.
func (c *Core) change() {
	if m := c.plan.move; m != nil && m.settling {
		return
	}
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
		return
	}
	if m := c.plan.move; m != nil && m.copied {
		m.settling = true
		c.emit(Effect{Kind: SettleShard, Number: m.number, Shard: m.shard, Member: m.to, Round: c.round - 1, Cut: c.granted()})
	}
}

// retarget finds out which ps should own which shard, after the ps that can own one changed.
func (c *Core) retarget() {
	p := &c.plan
	p.hold, p.heat = false, 0
	now := make([]string, len(c.asg.Shards))
	for i, o := range c.asg.Shards {
		now[i] = o.Member
	}
	if len(c.ps) == 0 { // those that leave keep what nobody can take
		p.target = now
	} else {
		p.target = Place(len(now), c.ps, nil, now)
	}
	if m := p.move; m != nil && p.target[m.shard] != m.to {
		p.move = nil
	}
}

// nextMove begins to hand over a shard that another ps should own, one at a time.
func (c *Core) nextMove() {
	p := &c.plan
	if p.move != nil || p.hold || c.end() != "" || len(p.target) != len(c.asg.Shards) {
		return
	}
	for i, o := range c.asg.Shards {
		if p.target[i] == o.Member {
			continue
		}
		p.moves++
		p.move = &move{number: p.moves, shard: i, from: o.Member, to: p.target[i]}
		c.emit(Effect{Kind: CopyShard, Number: p.moves, Shard: i, Member: p.move.to})
		return
	}
}

// moved takes the news of a handover.
func (c *Core) moved(ev *Event) {
	m := c.plan.move
	if m == nil || m.number != ev.Number {
		return
	}
	switch {
	case ev.Kind == Copied:
		m.copied = true
	case ev.Kind == Settled && m.settling && c.quiet():
		c.plan.move = nil
		c.asg.Shards[m.shard] = tidemill.Owner{Member: m.to, Epoch: c.asg.Seq + 1}
		c.write()
	default: // it failed, or somebody was lost meanwhile: the shard stays where it is
		c.plan.move, c.plan.hold = nil, true
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
