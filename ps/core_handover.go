package ps

import (
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// This file is the half of Core by which a shard passes from one ps to another while the job
// is trained. The new owner copies the shard, while the old one goes on applying to it and
// marks what changes; at a quiet point, where every ps stands at the same cut, it fetches what
// has changed, with the ledger. The assignment then says that it is the owner: only now does
// it answer for the shard, and does the old owner drop it.

// incoming is a shard that is on its way here.
type incoming struct {
	id     uint64       // the request that is under way; 0: none
	copy   uint64       // the owner's number for its newest answer; 0: not copied yet
	ledger *wire.Ledger // where the state stands; nil until it is complete
}

// adopt begins to copy a shard from its owner.
func (c *Core) adopt(ev *Event) {
	if !c.known(ev) {
		return
	}
	if c.shards[ev.Shard] {
		c.refuse(ev.ID, tidemill.ErrConflict, "shard %d is here already", ev.Shard)
		return
	}
	if was := c.in[ev.Shard]; was != nil && was.id != 0 {
		c.refuse(was.id, tidemill.ErrConflict, "a later request took this one's place")
	}
	c.in[ev.Shard] = &incoming{id: ev.ID}
	c.emit(Effect{Kind: Fetch, ID: ev.ID, Shard: ev.Shard})
}

// fetched notes that a copy is here, or why not.
func (c *Core) fetched(ev *Event) {
	in := c.in[ev.Shard]
	if in == nil || in.id != ev.ID {
		return // another request has taken its place
	}
	in.id = 0
	if ev.Err != nil {
		delete(c.in, ev.Shard)
		c.emit(Effect{Kind: Discard, Shard: ev.Shard})
		c.emit(Effect{Kind: Refuse, ID: ev.ID, Err: ev.Err})
		return
	}
	in.copy = ev.Copy
	c.emit(Effect{Kind: Accept, ID: ev.ID})
}

// settle fetches what the owner has applied to a shard since it was copied. Every ps stands at
// the event's cut.
func (c *Core) settle(ev *Event) {
	if !c.known(ev) {
		return
	}
	in := c.in[ev.Shard]
	switch {
	case in == nil || in.copy == 0:
		c.refuse(ev.ID, tidemill.ErrConflict, "shard %d has not been copied", ev.Shard)
		return
	case in.ledger != nil && stands(in.ledger, ev):
		c.emit(Effect{Kind: Accept, ID: ev.ID}) // asked again
		return
	case c.ready && !c.stands(ev):
		c.refuse(ev.ID, tidemill.ErrConflict, "round %d and %v here are not round %d and %v", c.round, c.Cut(), ev.Round, ev.Cut)
		return
	}
	if in.id != 0 {
		c.refuse(ev.ID, tidemill.ErrNotReady, "shard %d is being fetched", ev.Shard)
		return
	}
	in.id, in.ledger = ev.ID, nil
	c.emit(Effect{Kind: FetchRest, ID: ev.ID, Shard: ev.Shard, Copy: in.copy, Round: ev.Round, Cut: ev.Cut})
}

// settled notes that the shard is here whole, or why not.
func (c *Core) settled(ev *Event) {
	in := c.in[ev.Shard]
	if in == nil || in.id != ev.ID {
		return
	}
	in.id = 0
	if ev.Err != nil {
		// Some of the rest may have arrived: the copy is of no use any more.
		delete(c.in, ev.Shard)
		c.emit(Effect{Kind: Discard, Shard: ev.Shard})
		c.emit(Effect{Kind: Refuse, ID: ev.ID, Err: ev.Err})
		return
	}
	in.ledger = ev.Ledger
	c.emit(Effect{Kind: Accept, ID: ev.ID})
}

// give answers another ps that copies a shard: all of it (Copy 0), or what has changed since it
// was last asked for.
func (c *Core) give(ev *Event) {
	if !c.current(ev) || !c.owns(ev) {
		return
	}
	if ev.Copy != 0 && !c.follows(ev) {
		return
	}
	c.copies++
	c.handing[ev.Shard] = c.copies
	c.emit(Effect{Kind: Give, ID: ev.ID, Shard: ev.Shard, Copy: c.copies, Whole: ev.Copy == 0})
}

// giveRest answers another ps that needs but the rest of a shard to own it.
func (c *Core) giveRest(ev *Event) {
	if !c.current(ev) || !c.owns(ev) {
		return
	}
	if !c.follows(ev) {
		return
	}
	if !c.stands(ev) {
		c.refuse(ev.ID, tidemill.ErrConflict, "round %d and %v here are not round %d and %v", c.round, c.Cut(), ev.Round, ev.Cut)
		return
	}
	c.copies++
	c.handing[ev.Shard] = c.copies
	l := &wire.Ledger{Round: c.round, Examples: c.examples, Epochs: slices.Clone(c.epochs), Committed: c.basis.committed, Tried: c.basis.tried}
	for _, m := range c.ledger {
		l.Marks = append(l.Marks, wire.Mark{Floor: m.floor, Next: m.next, Applied: slices.Clone(m.last)})
	}
	c.emit(Effect{Kind: GiveRest, ID: ev.ID, Shard: ev.Shard, Copy: c.copies, Ledger: l})
}

// follows refuses a request that does not go on from the newest answer. Each answer has a number
// of its own, and what it brought is not noted any more: whoever missed one, because the request
// came twice or the answer was lost, has to begin again.
func (c *Core) follows(ev *Event) bool {
	if ev.Copy != 0 && c.handing[ev.Shard] == ev.Copy {
		return true
	}
	c.refuse(ev.ID, tidemill.ErrConflict, "copy %d of shard %d is not the newest", ev.Copy, ev.Shard)
	return false
}

// owns refuses a shard that is not here.
func (c *Core) owns(ev *Event) bool {
	if ev.Shard < 0 || ev.Shard >= len(c.shards) || !c.shards[ev.Shard] {
		c.refuse(ev.ID, tidemill.ErrInvalid, "shard %d is not here", ev.Shard)
		return false
	}
	return true
}

// known is current without being ready: a ps that owns nothing yet has nothing to be restored.
func (c *Core) known(ev *Event) bool {
	if !c.dated(ev) {
		return false
	}
	if ev.Shard < 0 || ev.Shard >= len(c.shards) {
		c.refuse(ev.ID, tidemill.ErrInvalid, "shard %d of %d", ev.Shard, len(c.shards))
		return false
	}
	if !c.ready && slices.Contains(c.shards, true) {
		c.refuse(ev.ID, tidemill.ErrNotReady, "generation %d is being restored", c.generation)
		return false
	}
	return true
}

// stands reports whether this ps stands exactly after the event's round and at its cut, with
// nothing buffered.
func (c *Core) stands(ev *Event) bool {
	return len(c.gathered) == 0 && c.round == ev.Round && slices.Equal(c.Cut(), ev.Cut)
}

// stands reports whether l is as of the event's round and cut.
func stands(l *wire.Ledger, ev *Event) bool {
	if l.Round != ev.Round || len(l.Marks) != len(ev.Cut) {
		return false
	}
	for p, m := range l.Marks {
		if m.Next != ev.Cut[p] {
			return false
		}
	}
	return true
}

// reroute takes over what an assignment of the same generation says about shards: those that
// came are the job's from now on, those that went are dropped.
func (c *Core) reroute(ev *Event) {
	if ev.Routes <= c.routes {
		return
	}
	c.routes = ev.Routes
	for _, w := range c.waiting {
		c.refuse(w.id, tidemill.ErrFenced, "shards have changed hands")
	}
	c.waiting = c.waiting[:0]
	restoring := !c.ready && slices.Contains(c.shards, true)
	for s, mine := range ev.Shards {
		switch have := s < len(c.shards) && c.shards[s]; {
		case have && !mine:
			c.emit(Effect{Kind: Drop, Shard: s})
		case mine && !have:
			in := c.in[s]
			if restoring || in == nil || in.ledger == nil || c.ready && !c.equals(in.ledger) {
				// It was never handed over, or training went on since: only a rewind helps, and
				// whoever asks is told so.
				c.broken = true
				continue
			}
			if !c.ready {
				c.takeOver(in.ledger)
			}
			delete(c.in, s)
			c.emit(Effect{Kind: Install, Shard: s, Whole: !c.basis.same(in.ledger)})
		}
	}
	c.shards = slices.Clone(ev.Shards)
	for s := range c.in { // copies made under the old map would be refused
		c.emit(Effect{Kind: Discard, Shard: s})
	}
	clear(c.in)
	for s := range c.handing {
		c.emit(Effect{Kind: Forget, Shard: s})
	}
	clear(c.handing)
	if !slices.Contains(c.shards, true) {
		c.ready = false // nobody pushes here any more, so the ledger falls behind
	}
}

// equals reports whether this ps stands where l does.
func (c *Core) equals(l *wire.Ledger) bool {
	return len(c.gathered) == 0 && c.round == l.Round && c.examples == l.Examples &&
		slices.EqualFunc(c.ledger, l.Marks, func(a mark, b wire.Mark) bool { return a.next == b.Next })
}

// takeOver makes the ledger that came with the first shard this ps's own.
func (c *Core) takeOver(l *wire.Ledger) {
	c.round, c.examples, c.ready = l.Round, l.Examples, true
	c.basis.committed, c.basis.tried = l.Committed, l.Tried
	c.ledger = c.ledger[:0]
	for p, m := range l.Marks {
		c.ledger = append(c.ledger, mark{floor: m.Floor, next: m.Next, last: slices.Clone(m.Applied)})
		c.grow(p)
	}
	for p, e := range l.Epochs {
		c.grow(p)
		c.epochs[p] = max(c.epochs[p], e)
	}
}

// Admits reports whether a request made under routes in a generation finds the state that it is
// about.
func (c *Core) Admits(generation, routes uint64) bool {
	return c.ready && !c.broken && generation == c.generation && routes == c.routes
}
