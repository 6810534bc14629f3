package trainer

import (
	"slices"

	"github.com/tidemill/tidemill"
)

// This file is the half of Core that decides what is trained when: which batches make up each
// round, and where cuts lie.

// regrant repeats what was granted to a partition's former owner and not finished by it.
func (c *Core) regrant(partition int, next int64) {
	p := &c.parts[partition]
	c.emit(Effect{Kind: Grant, Member: p.owner.Member, Partition: partition, Next: p.next})
	for _, run := range c.tail {
		q, ok := run.Part(partition)
		if !ok {
			continue
		}
		skip := int64(0)
		if next > q.First {
			skip = (next - q.First) / q.Step
		}
		if skip >= run.Count {
			continue
		}
		c.emit(Effect{Kind: Grant, Member: p.owner.Member, Partition: partition, Run: cutRun(run, skip), Next: p.next})
	}
}

// cutRun returns run without its first k batches.
func cutRun(run tidemill.Run, k int64) tidemill.Run {
	parts := slices.Clone(run.Parts)
	for i := range parts {
		parts[i].First += k * parts[i].Step
	}
	return tidemill.Run{Round: run.Round + k, Count: run.Count - k, Parts: parts}
}

// schedule grants what may be granted, and takes a cut when one is due.
func (c *Core) schedule() {
	if c.writing {
		return
	}
	c.trim()
	if c.bar != nil && len(c.bar.marked) < len(c.psIDs) {
		return // draining to the cut
	}
	if c.changing() {
		return
	}
	if c.cutDue() {
		if c.bar == nil {
			c.takeCut()
		}
		return
	}
	if c.paused || c.resting {
		return
	}
	if c.cfg.Staleness == 0 {
		c.grantRounds()
	} else {
		c.grantFree()
	}
	if c.bar == nil && c.cutDue() {
		c.takeCut()
	}
}

// finished reports whether a bounded job has granted everything.
func (c *Core) finished() bool {
	if c.cfg.End == nil {
		return false
	}
	for p := range c.parts {
		end := c.asg.Origin(p).End
		if p < len(c.cfg.End) {
			end = c.cfg.End[p]
		}
		if c.parts[p].next < end {
			return false
		}
	}
	return true
}

// end returns the terminal state that the next cut leads to, if any.
func (c *Core) end() string {
	if c.ending == "" && c.finished() {
		return tidemill.JobFinished
	}
	return c.ending
}

func (c *Core) cutDue() bool {
	switch {
	case c.ending != "":
		return true
	case c.finished():
		return !c.paused || c.rows > 0
	case c.rows == 0:
		return false
	}
	return c.wanted || c.cfg.Every > 0 && c.rows >= c.cfg.Every
}

func (c *Core) takeCut() {
	cut := make(tidemill.Cut, len(c.parts))
	for p := range c.parts {
		if !c.parts[p].joined {
			return // its grants may be on nobody's hands
		}
		cut[p] = c.parts[p].next
	}
	c.bar = &barrier{
		number: c.number, cut: cut, round: c.round - 1, sched: c.sched,
		marked: map[string]bool{}, written: map[string]bool{},
	}
	c.sched, c.rows, c.wanted = nil, 0, false
	c.emit(Effect{Kind: TakeSnapshot, Number: c.bar.number, Base: c.base, Round: c.bar.round, Cut: cut.Clone(), PS: c.psIDs})
}

func (c *Core) written(ev *Event) {
	b := c.bar
	if b == nil || b.number != ev.Number {
		return
	}
	b.marked[ev.Member], b.written[ev.Member] = true, true
	if len(b.written) == len(c.psIDs) && !b.commits {
		b.commits = true
		c.emit(Effect{Kind: Commit, Number: b.number, Cut: b.cut, Round: b.round, Schedule: b.sched})
	}
}

func (c *Core) committed(ev *Event) {
	b := c.bar
	if b == nil || b.number != ev.Number {
		return
	}
	c.bar = nil
	c.base = b.number
	c.number++
	// A bounded job with too many bad rows does not end: they may be mended and replayed first.
	if spent := c.spent(ev); !spent && c.end() != "" && slices.Equal(b.cut, c.granted()) {
		c.asg.State = c.end()
		c.write()
	}
}

func (c *Core) granted() tidemill.Cut {
	cut := make(tidemill.Cut, len(c.parts))
	for p := range c.parts {
		cut[p] = c.parts[p].next
	}
	return cut
}

// grantRounds forms rounds: each takes one batch of every partition that has one. A partition
// whose worker has not said that its log ends here is waited for, so that what is in a round
// depends on the stream and not on who was quick.
func (c *Core) grantRounds() {
	for c.formRounds(false) || c.formRounds(true) {
	}
}

// formRounds grants the next run and reports whether there was one. A partition that is to
// take part only from a later round on is left out, unless early: when no other has anything
// left, that round would never come.
func (c *Core) formRounds(early bool) bool {
	var run tidemill.Run
	run.Round = c.round
	run.Count = 1 << 40
	var perRound int64
	for p := range c.parts {
		q := &c.parts[p]
		if first := c.asg.Origin(p).Round; first > c.round && !early {
			run.Count = min(run.Count, first-c.round)
			continue
		}
		if !q.joined {
			return false
		}
		if len(q.offers) == 0 {
			if !q.atEnd {
				return false
			}
			continue
		}
		o := q.offers[0]
		run.Parts = append(run.Parts, tidemill.PartRun{Partition: p, First: o.First, Step: o.Step})
		run.Count = min(run.Count, o.Count, c.room(q)/o.Step)
		perRound += o.Step
	}
	if len(run.Parts) == 0 || run.Count <= 0 {
		return false
	}
	if c.cfg.Every > 0 {
		left := c.cfg.Every - c.rows
		if left <= 0 {
			return false
		}
		run.Count = min(run.Count, (left+perRound-1)/perRound)
	}
	if early {
		run.Count = 1 // so that the others are back with their next row
	}
	for _, p := range run.Parts {
		c.take(p.Partition, run.Count)
	}
	c.round += run.Count
	c.rows += perRound * run.Count
	c.grant(run)
	return true
}

// room returns how many more rows may be granted to a partition: never less than one batch
// when nothing is outstanding.
func (c *Core) room(q *part) int64 {
	room := c.cfg.Window - (q.next - q.acked)
	if q.next == q.acked && len(q.offers) > 0 {
		room = max(room, q.offers[0].Step)
	}
	return room
}

// grantFree grants to each partition by itself, at most Staleness batches ahead of the
// slowest that is under way (Ho et al., NIPS 2013), or without that bound when negative.
func (c *Core) grantFree() {
	for progress := true; progress; {
		progress = false
		slowest := int64(1) << 62
		for p := range c.parts {
			q := &c.parts[p]
			if q.joined && (len(q.offers) > 0 || q.issued > q.done) {
				slowest = min(slowest, q.done)
			}
		}
		for p := range c.parts {
			q := &c.parts[p]
			if !q.joined || len(q.offers) == 0 {
				continue
			}
			if q.issued == q.done && q.done < slowest {
				q.issued, q.done = slowest, slowest
			}
			o := q.offers[0]
			n := min(o.Count, c.room(q)/o.Step)
			if c.cfg.Staleness > 0 {
				n = min(n, slowest+int64(c.cfg.Staleness)+1-q.issued)
			}
			if c.cfg.Every > 0 {
				n = min(n, (c.cfg.Every-c.rows+o.Step-1)/o.Step)
			}
			if n <= 0 {
				continue
			}
			c.take(p, n)
			q.issued += n
			c.rows += n * o.Step
			c.grant(tidemill.Run{Count: n, Parts: []tidemill.PartRun{{Partition: p, First: o.First, Step: o.Step}}})
			progress = true
		}
	}
}

// take moves n batches of a partition from offered to granted.
func (c *Core) take(partition int, n int64) {
	q := &c.parts[partition]
	o := &q.offers[0]
	o.First += n * o.Step
	o.Count -= n
	q.next = o.First
	if o.Count == 0 {
		q.offers = q.offers[1:]
	}
}

func (c *Core) grant(run tidemill.Run) {
	c.tail = append(c.tail, run)
	if c.cfg.Staleness == 0 { // elsewhere there are no rounds that could be gone through again
		c.sched = c.sched.Append(cutRun(run, 0))
	}
	for _, p := range run.Parts {
		q := &c.parts[p.Partition]
		c.emit(Effect{Kind: Grant, Member: q.owner.Member, Partition: p.Partition, Run: run, Next: q.next})
	}
}

// trim forgets runs that every part has on every ps, and counts finished batches.
func (c *Core) trim() {
	keep := c.tail[:0]
	for _, run := range c.tail {
		open := false
		for _, p := range run.Parts {
			if c.parts[p.Partition].acked < p.First+run.Count*p.Step {
				open = true
			}
		}
		if open {
			keep = append(keep, run)
		}
	}
	clear(c.tail[len(keep):])
	c.tail = keep
	if c.cfg.Staleness == 0 {
		return
	}
	for p := range c.parts {
		q := &c.parts[p]
		out := int64(0)
		for _, run := range c.tail {
			if r, ok := run.Part(p); ok {
				out += run.Count - max(0, (q.acked-r.First)/r.Step)
			}
		}
		q.done = q.issued - out
	}
}
