package trainer

// This file is the part of Core by which shards follow the load. It changes the plan alone:
// the moves are carried out like those of placement, one live handover at a time, and until
// members change again placement does not look at what the plan says.

// patience is how many reports of loads in a row have to find a ps overloaded before shards move.
const patience = 5

// loaded takes the news of what each shard is asked for. Loads that were measured under another map of
// the shards, or while they are moving, say nothing about where they should be.
func (c *Core) loaded(ev *Event) {
	p := &c.plan
	if c.phase != phaseRunning || ev.Routes != c.routes || p.hold || p.move != nil || len(c.leaving) > 0 || len(p.target) != len(c.asg.Shards) {
		p.heat = 0
		return
	}
	owners := make([]string, len(c.asg.Shards))
	for i, o := range c.asg.Shards {
		owners[i] = o.Member
		if p.target[i] != o.Member {
			p.heat = 0
			return
		}
	}
	moves := Relieve(ev.Loads, owners, c.ps, nil)
	if len(moves) == 0 {
		p.heat = 0
		return
	}
	if p.heat++; p.heat < patience {
		return
	}
	p.heat = 0
	for _, m := range moves {
		p.target[m.Shard] = m.To
	}
}
