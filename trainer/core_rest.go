package trainer

// Rested reports whether a core that was asked to Rest has nothing to lose any more: all that was
// trained is in a committed snapshot, or it cannot be, because the job is not running here or
// somebody whom a cut needs is missing.
func (c *Core) Rested() bool {
	if !c.resting {
		return false
	}
	if c.phase != phaseRunning || c.bar == nil && !c.writing && c.rows == 0 {
		return true
	}
	for p := range c.parts {
		if !c.works(c.parts[p].owner.Member) {
			return true
		}
	}
	return false
}
