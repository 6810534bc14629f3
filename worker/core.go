package worker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// Core is the protocol of one partition at its worker: fence the predecessor, learn where it
// stopped, then take granted batches one after the other: pull, compute, push, until every ps
// has it. It is a step function without I/O, clock or goroutine; the simulator and the runner
// use the same one. A new assignment makes a new Core.
type Core struct {
	cfg   CoreConfig
	phase phase
	held  []wire.Held
	wait  int    // answers of the present phase still to come
	done  []bool // by ps
	queue []tidemill.Run
	keep  keeping
	cur   Batch
	next  int64 // every ps holds everything below
	out   []Effect
}

// CoreConfig says what the core works on.
type CoreConfig struct {
	Partition int
	Staleness int
	PS        int // number of parameter servers
	// Keep is for how many batches after the one that it was pulled for a row may be used again
	// without being pulled; 0: none are kept. At Staleness above 0 grants bound it further.
	Keep int
}

// Batch is one granted batch.
type Batch struct {
	Round   int64
	Range   tidemill.Range
	Members []int
	// Number counts the batches that the core has begun, from 1. A row that was pulled for one
	// with number Oldest or above may be used as it was then; Oldest above Number: none may.
	Number, Oldest int64
}

type phase uint8

const (
	phaseNew phase = iota
	phaseFencing
	phaseIdle
	phasePulling
	phaseComputing
	phasePushing
	phaseOver
)

// EventKind says what happened.
type EventKind uint8

// Events.
const (
	// Begin starts: fence at every ps.
	Begin EventKind = iota + 1
	// Fenced, Pulled, Pushed: ps number PS answered with Err, or Held.
	Fenced
	Pulled
	Pushed
	// Granted: the trainer grants Run.
	Granted
	// Computed: the gradient of the current batch is there.
	Computed
)

// Event is one input of the core. Fields that a kind does not name are ignored.
type Event struct {
	Kind EventKind
	PS   int
	Held wire.Held
	Err  error
	Run  tidemill.Run
}

// EffectKind says what the runner has to do.
type EffectKind uint8

// Effects.
const (
	// SendFence, SendPull, SendPush: ask ps number PS; Again: not before a pause, since the
	// last attempt failed in a way that may pass.
	SendFence EffectKind = iota + 1
	SendPull
	SendPush
	// Joined: everything below Next is held by every ps; tell the trainer.
	Joined
	// Compute the current batch from what was pulled.
	Compute
	// Acked: every ps has the current batch, everything below Next.
	Acked
	// Torn: the parameter servers disagree on what was applied; tell the trainer.
	Torn
	// Fault: Err will not pass; tell the trainer.
	Fault
	// Over: another owner or generation has taken over; stop.
	Over
)

// Effect is one output of the core, to be carried out in order.
type Effect struct {
	Kind  EffectKind
	PS    int
	Again bool
	Next  int64
	Batch Batch // SendPull, Compute, SendPush; Members must not be changed
	Err   error
}

// NewCore returns a core that waits for Begin.
func NewCore(cfg CoreConfig) *Core {
	return &Core{cfg: cfg, held: make([]wire.Held, cfg.PS), done: make([]bool, cfg.PS)}
}

// Step applies an event. The returned effects are valid until the next Step.
func (c *Core) Step(ev *Event) []Effect {
	c.out = c.out[:0]
	if c.phase == phaseOver {
		return nil
	}
	switch ev.Kind {
	case Begin:
		if c.phase == phaseNew {
			c.ask(phaseFencing, SendFence)
		}
	case Fenced:
		if c.answered(phaseFencing, SendFence, ev) {
			c.held[ev.PS] = ev.Held
			if c.wait == 0 {
				c.join()
			}
		}
	case Granted:
		c.granted(ev.Run)
	case Pulled:
		if c.answered(phasePulling, SendPull, ev) && c.wait == 0 {
			c.phase = phaseComputing
			c.emit(Effect{Kind: Compute, Batch: c.cur})
		}
	case Computed:
		switch {
		case c.phase != phaseComputing:
		case ev.Err != nil:
			c.fault(ev.Err)
		default:
			c.ask(phasePushing, SendPush)
		}
	case Pushed:
		if c.answered(phasePushing, SendPush, ev) && c.wait == 0 {
			c.next = c.cur.Range.Next
			c.emit(Effect{Kind: Acked, Next: c.next})
			c.phase = phaseIdle
		}
	}
	if c.phase == phaseIdle {
		c.start()
	}
	return c.out
}

// Next returns the offset below which every ps holds everything.
func (c *Core) Next() int64 { return c.next }

// Ahead returns the offsets of the batch that follows the current one, if it is granted.
func (c *Core) Ahead() (tidemill.Range, bool) {
	if len(c.queue) == 0 {
		return tidemill.Range{}, false
	}
	p, _ := c.queue[0].Part(c.cfg.Partition)
	return p.Batch(0), true
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

// ask sends one request to every ps.
func (c *Core) ask(p phase, kind EffectKind) {
	c.phase = p
	c.wait = c.cfg.PS
	clear(c.done)
	for i := range c.cfg.PS {
		c.emit(Effect{Kind: kind, PS: i, Batch: c.cur})
	}
}

// answered takes an answer of the given phase. It reports whether a ps has newly said yes; an
// answer that is not yes is dealt with here.
func (c *Core) answered(p phase, again EffectKind, ev *Event) bool {
	if c.phase != p || c.done[ev.PS] {
		return false
	}
	switch err := ev.Err; {
	case err == nil:
		c.done[ev.PS] = true
		c.wait--
		return true
	case errors.Is(err, tidemill.ErrFenced):
		c.phase = phaseOver
		c.emit(Effect{Kind: Over, Err: err})
	case errors.Is(err, tidemill.ErrConflict):
		// A ps stands after the round that this pull is for: it has applied what others lack.
		c.phase = phaseOver
		c.emit(Effect{Kind: Torn})
	case errors.Is(err, tidemill.ErrNotReady), errors.Is(err, tidemill.ErrUnavailable):
		c.emit(Effect{Kind: again, PS: ev.PS, Again: true, Batch: c.cur})
	default:
		c.fault(err)
	}
	return false
}

func (c *Core) fault(err error) {
	c.phase = phaseOver
	c.emit(Effect{Kind: Fault, Err: fmt.Errorf("partition %d, offsets %v: %w", c.cfg.Partition, c.cur.Range, err)})
}

// join finds out where the predecessor stopped. A ps that has applied a batch which another
// one neither applied nor buffers has gone on to parameters from which that batch can no
// longer be computed as it was (PROTOCOL 9); at other staleness it is computed anew for those
// that lack it.
func (c *Core) join() {
	below := func(h wire.Held) int64 {
		if !h.Buffered.Empty() {
			return h.Buffered.Next
		}
		return h.Applied
	}
	least := below(c.held[0])
	for _, h := range c.held[1:] {
		least = min(least, below(h))
	}
	if c.cfg.Staleness == 0 {
		for _, h := range c.held {
			if h.Applied > least {
				c.phase = phaseOver
				c.emit(Effect{Kind: Torn})
				return
			}
		}
	}
	c.next = least
	c.phase = phaseIdle
	c.emit(Effect{Kind: Joined, Next: least})
}

// granted queues what of a run is not done or queued yet; a trainer may repeat itself.
func (c *Core) granted(run tidemill.Run) {
	if c.phase == phaseNew || c.phase == phaseFencing {
		return
	}
	p, ok := run.Part(c.cfg.Partition)
	if !ok || p.Step <= 0 {
		return
	}
	known := c.next
	if c.phase != phaseIdle {
		known = c.cur.Range.Next
	}
	for _, q := range c.queue {
		r, _ := q.Part(c.cfg.Partition)
		known = r.First + q.Count*r.Step
	}
	skip := int64(0)
	if known > p.First {
		skip = (known - p.First) / p.Step
	}
	if skip >= run.Count {
		return
	}
	if p.First+skip*p.Step != known {
		// A grant before this one was lost: ask for all of them again.
		c.emit(Effect{Kind: Joined, Next: c.next})
		return
	}
	parts := slices.Clone(run.Parts)
	for i := range parts {
		parts[i].First += skip * parts[i].Step
	}
	c.queue = append(c.queue, tidemill.Run{Round: run.Round + skip, Count: run.Count - skip, Parts: parts})
	c.queued()
}

// start takes the next granted batch.
func (c *Core) start() {
	if len(c.queue) == 0 {
		return
	}
	run := &c.queue[0]
	p, _ := run.Part(c.cfg.Partition)
	if !sameMembers(c.cur.Members, run.Parts) {
		// A new slice: the old one may still be on its way to a ps.
		c.cur.Members = make([]int, len(run.Parts))
		for i, q := range run.Parts {
			c.cur.Members[i] = q.Partition
		}
	}
	c.cur.Round, c.cur.Range = run.Round, p.Batch(0)
	c.number()
	run.Round++
	run.Count--
	for i := range run.Parts {
		run.Parts[i].First += run.Parts[i].Step
	}
	if run.Count == 0 {
		c.queue = slices.Delete(c.queue, 0, 1)
		c.unqueued()
	}
	c.ask(phasePulling, SendPull)
}

func sameMembers(m []int, parts []tidemill.PartRun) bool {
	return slices.EqualFunc(m, parts, func(a int, p tidemill.PartRun) bool { return a == p.Partition })
}

// String tells a person where the core stands.
func (c *Core) String() string {
	name := [...]string{"new", "fencing", "idle", "pulling", "computing", "pushing", "over"}[c.phase]
	return fmt.Sprintf("partition %d %s round %d %v next %d queued %d", c.cfg.Partition, name, c.cur.Round, c.cur.Range, c.next, len(c.queue))
}
