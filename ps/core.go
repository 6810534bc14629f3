package ps

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// Core is the protocol state of one job in one ps process: who may push, what was applied,
// what waits. It is a step function (state, event) → (state, effects) without I/O, clock or
// goroutine; the simulator and Server run the same one. Rows and tensors are the runner's.
//
// All shards of a process see every entry (empty ones too), so they share one ledger.
type Core struct {
	staleness  int
	generation uint64 // 0: no assignment yet
	seq        uint64 // of the newest assignment
	routes     uint64 // of the map of shards that shards is of
	ready      bool   // restored to the generation's cut, or taken over with the first shard
	broken     bool   // what the assignment says is here is not
	shards     []bool // by shard: is here
	in         map[int]*incoming
	handing    map[int]uint64 // shard → the copy that another ps makes of it
	copies     uint64         // made so far
	round      int64          // last round applied (staleness 0)
	examples   int64          // applied so far, over all partitions
	ledger     []mark
	epochs     []uint64 // by partition: the newest epoch heard of
	members    []int    // partitions of the round being gathered
	gathered   []entry  // its entries, by ascending partition
	waiting    []waiter // pulls of the next round
	marking    *Event   // a snapshot that waits for its round or cut
	basis      basis    // of the next one
	out        []Effect
}

// mark is the ledger of one partition: everything below next is applied here, everything
// below floor on every shard, and last holds the ranges between as they were pushed.
type mark struct {
	floor, next int64
	last        []tidemill.Range
}

type entry struct {
	partition int
	rng       tidemill.Range
	examples  int64
	payload   any
}

type waiter struct {
	id    uint64
	round int64
}

// EventKind says what happened.
type EventKind uint8

// Events.
const (
	// Assign: a newer assignment was read: Seq, Generation, Epochs by partition, Routes, which
	// Shards are this ps's, and Cut, where the generation begins; a partition that has joined
	// since begins there too.
	Assign EventKind = iota + 1
	// Restored: the runner stands at Cut, Round and Examples of Generation: snapshot Number's, or 0.
	Restored
	// Pull asks for parameters: at staleness 0 those after round Round−1.
	Pull
	// Push brings the gradient of Range: Rows examples, the round's Members, the Floor below
	// which every shard has applied everything, and an opaque Payload.
	Push
	// Fence makes Epoch the only one that may push a partition from now on.
	Fence
	// Snapshot asks for the state after Round (staleness 0) or at Cut, for snapshot Number; Base was
	// committed last, 0: none.
	Snapshot
	// Adopt asks this ps to copy Shard from its owner; Settle to fetch the rest at a quiet
	// point, after Round and at Cut.
	Adopt
	Settle
	// Fetched, Settled: request ID's Fetch or FetchRest has come to its end: with the number of
	// the owner's last answer, with the Ledger that came with the rest, or with Err.
	Fetched
	Settled
	// Copy: another ps asks for Shard, all of it (Copy 0) or what has changed since answer
	// number Copy; CopyRest: for the rest and the ledger, after Round and at Cut.
	Copy
	CopyRest
)

// Event is one input of the core. Fields that a kind does not name are ignored.
type Event struct {
	Kind       EventKind
	ID         uint64 // names the request in the effects that answer it
	Generation uint64
	Partition  int
	Epoch      uint64
	Round      int64
	Range      tidemill.Range
	Floor      int64
	Members    []int // partitions of the round, ascending; the core does not keep the slice
	Examples   int64
	Cut        tidemill.Cut
	Epochs     []uint64 // Assign: by partition
	Number     int64
	Base       int64
	Seq        uint64
	Routes     uint64 // the map of shards that a request was made under
	Shards     []bool // Assign: by shard
	Shard      int
	Copy       uint64
	Ledger     *wire.Ledger
	Err        error
	Payload    any
}

// EffectKind says what the runner has to do.
type EffectKind uint8

// Effects.
const (
	// Refuse answers request ID with Err.
	Refuse EffectKind = iota + 1
	// Restore brings rows, tensors and transform state to the cut of Generation, then
	// reports Restored.
	Restore
	// Serve answers the pull ID from the current state.
	Serve
	// Apply applies Payload of Partition's Range; Before is the number of examples applied
	// before it.
	Apply
	// Accept answers the push ID: its range is applied or buffered.
	Accept
	// Fenced answers the fence ID with Held.
	Fenced
	// Capture answers the snapshot ID: mark the state copy-on-write now, to be written on top of
	// Base. Attempt numbers captures.
	Capture
	// Fetch copies Shard from its owner, then reports Fetched for ID; FetchRest fetches what has
	// changed since answer number Copy, then reports Settled.
	Fetch
	FetchRest
	// Discard drops what was fetched of Shard; Install makes it part of the job, and Whole says that
	// what came of its snapshots is of no use here.
	Discard
	Install
	// Drop lets go of Shard, which is another's now.
	Drop
	// Give answers the copy ID under number Copy: mark Shard copy-on-write now, note what changes
	// from now on, and send all of it (Whole) or what has changed since the last Give. GiveRest
	// also sends what is small, and Ledger; Forget stops noting.
	Give
	GiveRest
	Forget
)

// Effect is one output of the core, to be carried out in order.
type Effect struct {
	Kind       EffectKind
	ID         uint64
	Generation uint64
	Partition  int
	Range      tidemill.Range
	Before     int64
	Payload    any
	Held       wire.Held
	Err        error
	Base       Base
	Attempt    int64
	Shard      int
	Copy       uint64
	Whole      bool
	Round      int64
	Cut        tidemill.Cut
	Ledger     *wire.Ledger
}

// NewCore returns a core that has no assignment yet and refuses everything but Assign.
func NewCore(staleness int) *Core {
	return &Core{staleness: staleness, in: map[int]*incoming{}, handing: map[int]uint64{}}
}

// Step applies an event. The returned effects are valid until the next Step.
func (c *Core) Step(ev *Event) []Effect {
	c.out = c.out[:0]
	switch ev.Kind {
	case Assign:
		c.assign(ev)
	case Restored:
		c.restored(ev)
	case Pull:
		if c.admit(ev) {
			c.pull(ev)
		}
	case Push:
		if c.admit(ev) {
			c.push(ev)
		}
	case Fence:
		c.fence(ev)
	case Snapshot:
		c.snapshot(ev)
	case Adopt:
		c.adopt(ev)
	case Settle:
		c.settle(ev)
	case Fetched:
		c.fetched(ev)
	case Settled:
		c.settled(ev)
	case Copy:
		c.give(ev)
	case CopyRest:
		c.giveRest(ev)
	}
	return c.out
}

// Generation returns the generation the core is in, and whether its state is restored.
func (c *Core) Generation() (uint64, bool) { return c.generation, c.ready }

// Examples returns the number of examples applied.
func (c *Core) Examples() int64 { return c.examples }

// Round returns the last round applied.
func (c *Core) Round() int64 { return c.round }

// Cut returns the offsets below which everything is applied.
func (c *Core) Cut() tidemill.Cut {
	cut := make(tidemill.Cut, len(c.ledger))
	for i, m := range c.ledger {
		cut[i] = m.next
	}
	return cut
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

func (c *Core) refuse(id uint64, kind error, format string, args ...any) {
	c.emit(Effect{Kind: Refuse, ID: id, Err: fmt.Errorf("ps: "+format+": %w", append(args, kind)...)})
}

func (c *Core) assign(ev *Event) {
	if ev.Generation < c.generation {
		return
	}
	c.seq = max(c.seq, ev.Seq)
	if ev.Generation == c.generation {
		for p := len(c.ledger); p < len(ev.Epochs); p++ {
			c.grow(p)
			if p < len(ev.Cut) {
				c.ledger[p] = mark{floor: ev.Cut[p], next: ev.Cut[p]}
			}
		}
		for p, e := range ev.Epochs {
			c.epochs[p] = max(c.epochs[p], e)
		}
		c.reroute(ev)
		return
	}
	// A new generation: whatever waits belongs to the old one.
	for _, w := range c.waiting {
		c.refuse(w.id, tidemill.ErrFenced, "the job went back to its last cut")
	}
	if c.marking != nil {
		c.refuse(c.marking.ID, tidemill.ErrFenced, "the job went back to its last cut")
	}
	c.generation, c.ready = ev.Generation, false
	c.waiting, c.gathered, c.members, c.marking = c.waiting[:0], c.gathered[:0], c.members[:0], nil
	c.ledger = make([]mark, len(ev.Epochs))
	c.epochs = slices.Clone(ev.Epochs)
	for s, in := range c.in {
		if in.id != 0 {
			c.refuse(in.id, tidemill.ErrFenced, "the job went back to its last cut")
		}
		c.emit(Effect{Kind: Discard, Shard: s})
	}
	for s := range c.handing {
		c.emit(Effect{Kind: Forget, Shard: s})
	}
	clear(c.in)
	clear(c.handing)
	had := slices.Contains(c.shards, true)
	c.shards, c.routes, c.broken = slices.Clone(ev.Shards), ev.Routes, false
	if slices.Contains(c.shards, true) || had {
		c.emit(Effect{Kind: Restore, Generation: ev.Generation})
	}
}

func (c *Core) restored(ev *Event) {
	if ev.Generation != c.generation || c.ready || !slices.Contains(c.shards, true) {
		return
	}
	c.ready = true
	c.round, c.examples = ev.Round, ev.Examples
	c.basis.stands(ev.Number)
	for p, next := range ev.Cut {
		c.grow(p)
		c.ledger[p] = mark{floor: next, next: next}
	}
}

func (c *Core) grow(p int) {
	for len(c.ledger) <= p {
		c.ledger = append(c.ledger, mark{})
	}
	for len(c.epochs) <= p {
		c.epochs = append(c.epochs, 0)
	}
}

// current checks generation, routes and readiness; it answers the event itself when they do
// not fit.
func (c *Core) current(ev *Event) bool {
	if !c.dated(ev) {
		return false
	}
	if !c.ready {
		c.refuse(ev.ID, tidemill.ErrNotReady, "generation %d is being restored", c.generation)
	}
	return c.ready
}

// dated checks generation and routes.
func (c *Core) dated(ev *Event) bool {
	switch {
	case ev.Generation < c.generation:
		c.refuse(ev.ID, tidemill.ErrFenced, "generation %d is over, %d is current", ev.Generation, c.generation)
	case ev.Generation > c.generation:
		c.refuse(ev.ID, tidemill.ErrNotReady, "generation %d is not known here yet", ev.Generation)
	case ev.Routes < c.routes:
		c.refuse(ev.ID, tidemill.ErrFenced, "map %d of the shards is over, %d is current", ev.Routes, c.routes)
	case ev.Routes > c.routes:
		c.refuse(ev.ID, tidemill.ErrNotReady, "map %d of the shards is not known here yet", ev.Routes)
	case c.broken:
		c.refuse(ev.ID, tidemill.ErrConflict, "a shard of map %d is not here as it should be", c.routes)
	default:
		return true
	}
	return false
}

// admit checks generation and partition epoch.
func (c *Core) admit(ev *Event) bool {
	if !c.current(ev) {
		return false
	}
	if !c.has(ev) {
		return false
	}
	if ev.Epoch < c.epochs[ev.Partition] {
		c.refuse(ev.ID, tidemill.ErrFenced, "epoch %d of partition %d is over, %d is current", ev.Epoch, ev.Partition, c.epochs[ev.Partition])
		return false
	}
	if ev.Epoch > c.epochs[ev.Partition] {
		c.refuse(ev.ID, tidemill.ErrNotReady, "epoch %d of partition %d has not fenced its predecessor", ev.Epoch, ev.Partition)
		return false
	}
	return true
}

// has refuses a partition that the job does not have, or not as far as is known here.
func (c *Core) has(ev *Event) bool {
	if ev.Partition >= len(c.ledger) && ev.Epoch > c.seq {
		c.refuse(ev.ID, tidemill.ErrNotReady, "partition %d has joined the job at %d, the newest assignment here is %d", ev.Partition, ev.Epoch, c.seq)
		return false
	}
	if ev.Partition < 0 || ev.Partition >= len(c.ledger) {
		c.refuse(ev.ID, tidemill.ErrInvalid, "partition %d of %d", ev.Partition, len(c.ledger))
		return false
	}
	return true
}

func (c *Core) pull(ev *Event) {
	if c.staleness != 0 || ev.Round == c.round+1 {
		c.emit(Effect{Kind: Serve, ID: ev.ID})
		return
	}
	if ev.Round <= c.round {
		// Only a partition that took no part in the round may be behind, and none is: every
		// partition's push completes the round it pulled for.
		c.refuse(ev.ID, tidemill.ErrConflict, "round %d is applied already, parameters stand after %d", ev.Round, c.round)
		return
	}
	c.waiting = append(c.waiting, waiter{ev.ID, ev.Round})
}

func (c *Core) push(ev *Event) {
	m := &c.ledger[ev.Partition]
	if applied, bad := m.holds(ev.Range); applied {
		c.emit(Effect{Kind: Accept, ID: ev.ID})
		return
	} else if bad {
		c.refuse(ev.ID, tidemill.ErrInvalid, "range %v of partition %d overlaps what is applied below %d", ev.Range, ev.Partition, m.next)
		return
	}
	if ev.Range.First > m.next {
		c.refuse(ev.ID, tidemill.ErrNotReady, "range %v of partition %d leaves a gap after %d", ev.Range, ev.Partition, m.next)
		return
	}
	e := entry{ev.Partition, ev.Range, ev.Examples, ev.Payload}
	if c.staleness != 0 {
		c.apply(e, ev.Floor)
		c.emit(Effect{Kind: Accept, ID: ev.ID})
		c.finishSnapshot()
		return
	}
	if ev.Round != c.round+1 {
		c.refuse(ev.ID, tidemill.ErrNotReady, "round %d while %d is next", ev.Round, c.round+1)
		return
	}
	if len(c.gathered) == 0 {
		c.members = append(c.members[:0], ev.Members...)
	} else if !slices.Equal(c.members, ev.Members) {
		c.refuse(ev.ID, tidemill.ErrInvalid, "round %d has partitions %v here and %v there", ev.Round, c.members, ev.Members)
		return
	}
	at, found := slices.BinarySearchFunc(c.gathered, ev.Partition, func(e entry, p int) int { return e.partition - p })
	if found {
		if c.gathered[at].rng != ev.Range {
			c.refuse(ev.ID, tidemill.ErrInvalid, "round %d holds range %v of partition %d, not %v", ev.Round, c.gathered[at].rng, ev.Partition, ev.Range)
			return
		}
		c.emit(Effect{Kind: Accept, ID: ev.ID})
		return
	}
	if !slices.Contains(c.members, ev.Partition) {
		c.refuse(ev.ID, tidemill.ErrInvalid, "partition %d takes no part in round %d", ev.Partition, ev.Round)
		return
	}
	m.trim(ev.Floor)
	c.gathered = slices.Insert(c.gathered, at, e)
	if len(c.gathered) == len(c.members) {
		for _, e := range c.gathered {
			c.apply(e, c.ledger[e.partition].floor)
		}
		clear(c.gathered)
		c.gathered = c.gathered[:0]
		c.round++
	}
	c.emit(Effect{Kind: Accept, ID: ev.ID})
	if len(c.gathered) > 0 {
		return
	}
	c.finishSnapshot()
	keep := c.waiting[:0]
	for _, w := range c.waiting {
		if w.round == c.round+1 {
			c.emit(Effect{Kind: Serve, ID: w.id})
		} else {
			keep = append(keep, w)
		}
	}
	c.waiting = keep
}

// holds reports whether r is applied already, or overlaps what is without being equal.
func (m *mark) holds(r tidemill.Range) (applied, bad bool) {
	if r.First >= m.next {
		return false, false
	}
	if r.Next <= m.floor || slices.Contains(m.last, r) {
		return true, false
	}
	return false, true
}

func (m *mark) trim(floor int64) {
	m.floor = max(m.floor, min(floor, m.next))
	for len(m.last) > 0 && m.last[0].Next <= m.floor {
		m.last = slices.Delete(m.last, 0, 1)
	}
}

func (c *Core) apply(e entry, floor int64) {
	m := &c.ledger[e.partition]
	m.trim(floor)
	m.last = append(m.last, e.rng)
	m.next = e.rng.Next
	c.emit(Effect{Kind: Apply, Partition: e.partition, Range: e.rng, Before: c.examples, Payload: e.payload})
	c.examples += e.examples
}

func (c *Core) fence(ev *Event) {
	if !c.current(ev) || !c.has(ev) {
		return
	}
	if ev.Epoch < c.epochs[ev.Partition] {
		c.refuse(ev.ID, tidemill.ErrFenced, "epoch %d of partition %d is over, %d is current", ev.Epoch, ev.Partition, c.epochs[ev.Partition])
		return
	}
	c.epochs[ev.Partition] = ev.Epoch
	h := wire.Held{Round: c.round, Applied: c.ledger[ev.Partition].next}
	for _, e := range c.gathered {
		if e.partition == ev.Partition {
			h.Buffered = e.rng
		}
	}
	c.emit(Effect{Kind: Fenced, ID: ev.ID, Held: h})
}

func (c *Core) snapshot(ev *Event) {
	if !c.current(ev) {
		return
	}
	if c.marking != nil && c.marking.ID != ev.ID {
		c.refuse(c.marking.ID, tidemill.ErrConflict, "a later snapshot took this one's place")
	}
	e := *ev
	c.marking = &e
	c.finishSnapshot()
}

// finishSnapshot captures when the round or cut of the waiting snapshot is reached.
func (c *Core) finishSnapshot() {
	ev := c.marking
	if ev == nil {
		return
	}
	if c.staleness == 0 && len(c.gathered) == 0 && c.round < ev.Round {
		return
	}
	for p, next := range ev.Cut {
		if p < len(c.ledger) && c.ledger[p].next > next {
			c.marking = nil
			c.refuse(ev.ID, tidemill.ErrConflict, "partition %d stands at %d, after the cut's %d", p, c.ledger[p].next, next)
			return
		}
		if p >= len(c.ledger) || c.ledger[p].next < next {
			return
		}
	}
	c.marking = nil
	base, attempt := c.basis.settle(ev.Number, ev.Base)
	c.emit(Effect{Kind: Capture, ID: ev.ID, Base: base, Attempt: attempt})
}
