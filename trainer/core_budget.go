package trainer

import "github.com/tidemill/tidemill"

// This file is the part of Core that stops a job which puts too many rows aside.

// aside is how many rows the last committed snapshot counts as put aside, and how many as read,
// those among them. While it is not known which snapshot that is, an operator's word waits.
type aside struct {
	bad, read int64
	known     bool
	accept    bool
}

// counted takes over what the last committed snapshot counts.
func (c *Core) counted(ev *Event) {
	accept := c.aside.accept
	c.aside = aside{bad: ev.Bad, read: ev.Read, known: true}
	if accept {
		c.accept()
	}
}

// accept takes the rows put aside so far off the budget, if they are beyond it.
func (c *Core) accept() {
	if !c.aside.known {
		c.aside.accept = true
	} else if !c.within() {
		c.asg.Pardon.Bad, c.asg.Pardon.Read = c.aside.bad, c.aside.read
	}
}

// within reports whether the rows put aside are within the budget: the operator's, where one
// was given, else the spec's. Those that an operator has accepted do not count, and neither
// do the rows read until then.
func (c *Core) within() bool {
	budget, p := c.cfg.MaxBadRows, c.asg.Pardon
	if !p.MaxBadRows.IsZero() {
		budget = p.MaxBadRows
	}
	return budget.Allows(c.aside.bad-p.Bad, c.aside.read-p.Read)
}

// spent pauses the job when the snapshot just committed shows that its budget is spent.
func (c *Core) spent(ev *Event) bool {
	c.counted(ev)
	if c.paused || c.ending != "" || c.within() {
		return false
	}
	c.paused = true
	c.asg.State, c.asg.Reason = tidemill.JobPaused, ev.Reason
	c.write()
	return true
}

// resume lets a paused job go on. Rows put aside beyond the budget so far are accepted, and a
// new budget, if one is given, counts from here.
func (c *Core) resume(ev *Event) {
	if !c.paused && ev.MaxBadRows.IsZero() {
		return
	}
	c.asg.Pardon.Resumed++
	if !ev.MaxBadRows.IsZero() {
		c.asg.Pardon.MaxBadRows = ev.MaxBadRows
	}
	if c.paused {
		c.accept()
		c.paused = false
		c.asg.State, c.asg.Reason = tidemill.JobRunning, ""
	}
	c.write()
}
