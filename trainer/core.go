package trainer

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// Core is the protocol of one job at its leading trainer: who owns what, which batches make
// up each round, when a cut is taken, and when everything goes back to one. It is a step
// function (state, event) → (state, effects) without I/O, clock or goroutine; the simulator
// and the runner use the same one.
type Core struct {
	cfg CoreConfig

	phase   phase
	asg     tidemill.Assignment // as last written, or being written
	writing bool                // an assignment is on its way to the records
	dirty   bool                // another one is needed after it

	all     roster          // alive and staying
	workers map[string]int  // of them those who offer the job's numeric profile, with slots
	ps      []string        // likewise, sorted
	leaving map[string]bool // alive, and not to own anything for longer than need be
	psIDs   []string        // those that own shards
	routes  uint64          // the assignment's, as the parts have it
	plan    plan            // what changes while training goes on

	parts   []part
	partsOf uint64 // the generation that parts are of
	round   int64  // next round to grant
	rows    int64  // granted since the last cut
	tail    tidemill.Rounds
	sched   tidemill.Rounds // since the last cut: becomes the manifest's schedule; staleness 0 only
	number  int64           // next number in the snapshot chain
	base    int64           // last committed snapshot; 0: none
	aside   aside           // rows put aside, as last committed
	wanted  bool            // a cut was asked for
	bar     *barrier
	paused  bool
	resting bool // nothing is granted after the next cut
	deposed bool
	ending  string // terminal state to reach after the next cut

	out []Effect
}

type phase uint8

const (
	phaseIdle      phase = iota // not leading
	phaseFencing                // a fence record is being appended
	phaseAssigning              // waiting for members, or for the record to be written
	phaseRunning
	phaseOver
)

// CoreConfig is what the core needs to know of a job.
type CoreConfig struct {
	Staleness  int
	Batch      int64
	Window     int64 // rows granted ahead of what is acknowledged, at least two batches
	Every      int64 // rows between cuts; 0: only when asked
	Partitions int
	Shards     int
	End        tidemill.Cut       // of a bounded job; nil otherwise
	MaxBadRows tidemill.BadBudget // beyond it the job pauses
}

// part is one partition as the trainer sees it.
type part struct {
	owner  tidemill.Owner
	joined bool  // the owner has fenced its predecessor
	next   int64 // granted below
	acked  int64 // on every ps below
	offers []wire.Offer
	atEnd  bool  // no row beyond next, as last heard
	issued int64 // batches granted and acknowledged in this generation (staleness n)
	done   int64
}

type barrier struct {
	number  int64
	cut     tidemill.Cut
	round   int64
	marked  map[string]bool
	written map[string]bool
	sched   tidemill.Rounds
	commits bool
}

// EventKind says what happened.
type EventKind uint8

// Events.
const (
	// Lead: this trainer leads the job and has read its record (Assignment; a zero one means
	// a new job whose Assignment carries spec, schema, cut and identity).
	Lead EventKind = iota + 1
	// Recovered: the fence record is appended; Number is the next free number, and
	// Assignment's Snapshot, Cut, Round, Examples and Generation say where to go back to and
	// the largest generation found anywhere; Bad and Read as in Committed.
	Recovered
	// Members: who holds a session lease now: Workers (with slots), PS, and those of either
	// that are Leaving.
	Members
	// Assigned: the record was written. NotAssigned: somebody else wrote it; this trainer no
	// longer leads.
	Assigned
	NotAssigned
	// wire.Report from a worker about Partition.
	ReportIn
	// Marked, Written: ps Member has captured, or written, snapshot Number.
	Marked
	Written
	// Committed: the manifest of Number is in the chain; it counts Bad rows put aside of Read
	// rows, and Reason is why the job pauses if those are too many. Beaten: its number was taken.
	Committed
	Beaten
	// Lost: ps Member could not take part in snapshot Number.
	Lost
	// Due asks for a cut now.
	Due
	// Pause, Resume (with MaxBadRows, a new budget, or zero), Stop (with Final, a terminal state).
	Pause
	Resume
	Stop
	// Grow adds partitions that read Origins to the job. One that the job reads already is
	// ignored, but for a later End, so the event may be repeated; until an assignment lists it, it
	// should be.
	Grow
	// Copied: move Number's shard is copied to its new owner; Settled: the new owner holds it
	// whole; Unmoved: it failed.
	Copied
	Settled
	Unmoved
	// Loaded: what each shard is asked for, Loads by shard in rows per second, under the map Routes.
	Loaded
	// Rest asks for a cut after which nothing is granted any more: this trainer is about to go.
	Rest
)

// Event is one input of the core. Fields that a kind does not name are ignored.
type Event struct {
	Kind       EventKind
	Assignment tidemill.Assignment
	Number     int64
	Member     string
	Workers    map[string]int
	PS         []string
	Profiles   map[string][]string // Members: numeric profiles that each offers, the fastest first
	Leaving    map[string]bool     // Members: alive, in neither list, and about to go
	Origins    []tidemill.Origin
	Report     wire.Report
	Final      string
	Reason     string // Committed, Pause, Stop: why, for people
	Bad, Read  int64
	MaxBadRows tidemill.BadBudget
	Written    *wire.Written // Written: kept by the runner
	Routes     uint64
	Loads      []int64
}

// EffectKind says what the runner has to do.
type EffectKind uint8

// Effects.
const (
	// AppendFence appends a fence record, then reports Recovered.
	AppendFence EffectKind = iota + 1
	// WriteAssignment writes the record by compare-and-set, then reports Assigned or
	// NotAssigned.
	WriteAssignment
	// Grant sends Run (empty: nothing new) to Member for Partition, with Next, below which
	// everything is granted.
	Grant
	// TakeSnapshot asks every ps of PS for snapshot Number at Cut, after Round; Base was
	// committed last.
	TakeSnapshot
	// Commit writes the manifest of Number, then reports Committed or Beaten.
	Commit
	// Depose stops leading: somebody else does.
	Depose
	// CopyShard asks ps Member to copy Shard from its owner, then reports Copied or Unmoved for
	// Number. SettleShard asks it for the rest, after Round and at Cut, then reports Settled or
	// Unmoved; nothing is granted meanwhile, so it is given up soon rather than late.
	CopyShard
	SettleShard
)

// Effect is one output of the core, to be carried out in order.
type Effect struct {
	Kind       EffectKind
	Assignment tidemill.Assignment
	Member     string
	Partition  int
	Run        tidemill.Run
	Next       int64
	Number     int64
	Base       int64
	Round      int64
	Cut        tidemill.Cut
	PS         []string
	Schedule   tidemill.Rounds
	Shard      int
}

// NewCore returns a core that does not lead yet.
func NewCore(cfg CoreConfig) *Core {
	cfg.Window = max(cfg.Window, 2*cfg.Batch)
	return &Core{cfg: cfg, workers: map[string]int{}}
}

// Assignment returns the newest assignment this core wrote or is writing.
func (c *Core) Assignment() tidemill.Assignment { return c.asg }

// Over reports whether the job has ended, and its record says so.
func (c *Core) Over() bool { return c.phase == phaseOver && !c.deposed }

// Deposed reports whether somebody else leads.
func (c *Core) Deposed() bool { return c.deposed }

// Step applies an event. The returned effects are valid until the next Step.
func (c *Core) Step(ev *Event) []Effect {
	c.out = c.out[:0]
	if c.phase == phaseOver {
		return nil
	}
	if isTerminal(c.asg.State) && (ev.Kind == Pause || ev.Kind == Resume || ev.Kind == Stop) {
		return nil // its end is already on its way to the record
	}
	switch ev.Kind {
	case Lead:
		c.asg = ev.Assignment
		c.paused = c.asg.State == tidemill.JobPaused
		c.rewind()
	case Recovered:
		c.recovered(ev)
	case Members:
		c.members(ev)
	case Assigned:
		c.writing = false
		if c.dirty {
			c.write()
		} else if c.phase == phaseAssigning {
			c.phase = phaseRunning
		}
		if isTerminal(c.asg.State) && !c.writing {
			c.phase = phaseOver
		}
	case NotAssigned:
		c.depose()
	case Beaten:
		// A number taken after our own rewind was taken by our own fence record.
		if c.bar != nil && c.bar.number == ev.Number {
			c.depose()
		}
	case ReportIn:
		c.report(&ev.Report)
	case Marked:
		if c.bar != nil && c.bar.number == ev.Number {
			c.bar.marked[ev.Member] = true
		}
	case Written:
		c.written(ev)
	case Committed:
		c.committed(ev)
	case Lost:
		if c.bar != nil && c.bar.number == ev.Number {
			c.rewind()
		}
	case Due:
		c.wanted = c.wanted || c.rows > 0
	case Pause:
		if !c.paused {
			c.paused, c.wanted = true, c.wanted || c.rows > 0
			c.asg.State, c.asg.Reason = tidemill.JobPaused, ev.Reason
			c.write()
		}
	case Resume:
		c.resume(ev)
	case Stop:
		c.asg.Reason = ev.Reason
		c.stop(ev.Final)
	case Copied, Settled, Unmoved:
		c.moved(ev)
	case Loaded:
		c.loaded(ev)
	case Rest:
		c.resting, c.wanted = true, c.wanted || c.rows > 0
	case Grow:
		c.plan.grow = append(c.plan.grow, ev.Origins...)
	}
	if c.phase == phaseRunning {
		c.schedule()
	}
	return c.out
}

func isTerminal(state string) bool {
	return state == tidemill.JobFinished || state == tidemill.JobFailed || state == tidemill.JobCancelled
}

func (c *Core) depose() {
	c.phase, c.deposed = phaseOver, true
	c.emit(Effect{Kind: Depose})
}

func (c *Core) emit(e Effect) { c.out = append(c.out, e) }

// rewind gives up everything after the last committed cut. The fence record makes sure that
// no commit of ours or of a predecessor can still come in after we have looked which it is.
func (c *Core) rewind() {
	if c.phase == phaseFencing {
		return
	}
	c.phase = phaseFencing
	c.bar, c.tail, c.sched, c.rows, c.wanted = nil, nil, nil, 0, false
	c.plan.move = nil
	c.emit(Effect{Kind: AppendFence})
}

func (c *Core) recovered(ev *Event) {
	if c.phase != phaseFencing {
		return
	}
	r := &ev.Assignment
	c.number, c.base = ev.Number, r.Snapshot
	c.counted(ev)
	c.asg.Generation = max(c.asg.Generation, r.Generation) + 1
	n := c.count()
	c.asg.Snapshot, c.asg.Cut, c.asg.Round, c.asg.Examples = r.Snapshot, r.Cut.Clone(), r.Round, r.Examples
	for p := len(c.asg.Cut); p < n; p++ { // those that joined after the cut begin again
		c.asg.Cut = append(c.asg.Cut, c.asg.Origin(p).First)
	}
	c.round = r.Round + 1
	c.phase = phaseAssigning
	// Shards may only move when everything is restored anyway.
	c.asg.Shards = nil
	for i := range c.asg.Partitions {
		c.asg.Partitions[i] = tidemill.Owner{}
	}
	c.place(true)
}

func (c *Core) members(ev *Event) {
	was := c.ps
	c.all = roster{ev.Workers, ev.PS, ev.Profiles}
	c.eligible()
	c.leaving = ev.Leaving
	c.plan.hold = false
	switch c.phase {
	case phaseIdle, phaseFencing, phaseOver:
		return
	}
	if c.outgrown() {
		c.rewind()
		return
	}
	for _, o := range c.asg.Shards {
		if o.Member != "" && !slices.Contains(c.ps, o.Member) && !c.leaving[o.Member] {
			c.rewind()
			return
		}
	}
	if !slices.Equal(was, c.ps) {
		c.retarget()
	}
	c.place(false)
}

// works reports whether a worker is alive, leaving or not.
func (c *Core) works(id string) bool {
	_, ok := c.workers[id]
	return ok || c.leaving[id]
}

// count returns how many partitions the job has.
func (c *Core) count() int { return max(c.cfg.Partitions, len(c.asg.Origins), len(c.asg.Cut)) }

// place gives what nobody alive owns to somebody; when everything is restored anyway (fresh)
// it gives out everything anew. What a living member owns and another should have moves at a
// quiet point.
func (c *Core) place(fresh bool) {
	a := &c.asg
	if a.Shards == nil {
		c.pin()
	}
	if len(c.workers) == 0 || a.Shards == nil && len(c.ps) == 0 {
		c.parked()
		return
	}
	changed := fresh
	seq := a.Seq + 1
	if a.Shards == nil {
		owners := Place(c.cfg.Shards, c.ps, nil, nil)
		a.Shards = make([]tidemill.Owner, len(owners))
		for i, m := range owners {
			a.Shards[i] = tidemill.Owner{Member: m, Epoch: seq}
		}
		c.retarget()
		changed = true
	}
	for len(a.Partitions) < c.count() {
		a.Partitions = append(a.Partitions, tidemill.Owner{})
	}
	c.plan.partitions = false
	for i, m := range c.partitionOwners() {
		switch o := &a.Partitions[i]; {
		case o.Member == m && !fresh:
		case !fresh && c.works(o.Member):
			c.plan.partitions = true
		default:
			*o = tidemill.Owner{Member: m, Epoch: seq}
			changed = true
		}
	}
	if changed {
		c.write()
	}
}

// partitionOwners returns who should own each partition.
func (c *Core) partitionOwners() []string {
	prev := make([]string, len(c.asg.Partitions))
	for i, o := range c.asg.Partitions {
		prev[i] = o.Member
	}
	names := make([]string, 0, len(c.workers))
	for w := range c.workers {
		names = append(names, w)
	}
	return Place(len(prev), names, c.workers, prev)
}

// parked gives partitions of dead workers to nobody, so that a returning worker of the same
// name starts with a new epoch.
func (c *Core) parked() {
	for i, o := range c.asg.Partitions {
		if o.Member != "" && !c.works(o.Member) {
			c.asg.Partitions[i] = tidemill.Owner{}
			if i < len(c.parts) {
				c.parts[i].joined = false
			}
		}
	}
}

// write sends the assignment to the records, or again once the one on its way has arrived.
func (c *Core) write() {
	if c.writing {
		c.dirty = true
		return
	}
	c.dirty = false
	c.asg.Seq++
	if c.asg.State == "" || c.asg.State == tidemill.JobSubmitted || c.asg.State == tidemill.JobValidating {
		c.asg.State = tidemill.JobRunning
	}
	// Epochs handed out since the last write are this write's number.
	for _, owners := range [][]tidemill.Owner{c.asg.Partitions, c.asg.Shards} {
		for i := range owners {
			owners[i].Epoch = min(owners[i].Epoch, c.asg.Seq)
		}
	}
	c.adopt()
	c.psIDs = c.asg.PSes()
	a := c.asg
	a.Partitions, a.Shards, a.Cut, a.Origins = slices.Clone(a.Partitions), slices.Clone(a.Shards), a.Cut.Clone(), slices.Clone(a.Origins)
	c.writing = true
	c.emit(Effect{Kind: WriteAssignment, Assignment: a})
}

// adopt makes parts agree with the assignment: a new generation starts from its cut, a new
// owner has to join.
func (c *Core) adopt() {
	if c.partsOf != c.asg.Generation {
		c.partsOf = c.asg.Generation
		c.parts = nil
	}
	for p := len(c.parts); p < c.count(); p++ {
		var from int64
		if p < len(c.asg.Cut) {
			from = c.asg.Cut[p]
		}
		c.parts = append(c.parts, part{next: from, acked: from})
	}
	if r := c.asg.Routes(); r != c.routes {
		// Shards have changed hands: everybody has to join anew at those that own them now.
		c.routes = r
		for p := range c.parts {
			q := &c.parts[p]
			q.joined, q.atEnd, q.offers = false, false, nil
		}
	}
	for len(c.asg.Partitions) < len(c.parts) {
		c.asg.Partitions = append(c.asg.Partitions, tidemill.Owner{})
	}
	for p := range c.parts {
		q := &c.parts[p]
		if q.owner != c.asg.Partitions[p] {
			q.owner = c.asg.Partitions[p]
			q.joined, q.atEnd, q.offers = false, false, nil
		}
	}
}

func (c *Core) stop(final string) {
	if final == tidemill.JobFinished {
		c.ending = final
		c.wanted = true
		return
	}
	c.asg.State = final
	c.bar = nil
	c.write()
}

func (c *Core) report(r *wire.Report) {
	if r.Generation != c.asg.Generation || r.Partition < 0 || r.Partition >= len(c.parts) || c.phase == phaseFencing {
		return
	}
	p := &c.parts[r.Partition]
	if r.Epoch != p.owner.Epoch || r.Routes != c.routes {
		return
	}
	switch {
	case r.Fault != "":
		c.asg.Reason = r.Fault
		c.stop(tidemill.JobFailed)
		return
	case r.Torn:
		c.rewind()
		return
	case r.Joined:
		// Also from an owner that was cut off from us: what it was granted may be lost.
		if !p.joined {
			p.joined, p.offers, p.atEnd = true, nil, false
		}
		c.ack(p, r.Next)
		c.regrant(r.Partition, r.Next)
	}
	if !p.joined {
		return
	}
	c.ack(p, r.Acked)
	known := p.next
	for _, o := range p.offers {
		known = o.First + o.Step*o.Count
	}
	for _, o := range r.Offers {
		// A repeated report offers again what is known; take what is new.
		if o.Step <= 0 || o.Count <= 0 {
			continue
		}
		if o.First < known {
			skip := (known - o.First) / o.Step
			if (known-o.First)%o.Step != 0 || skip >= o.Count {
				continue
			}
			o.First += skip * o.Step
			o.Count -= skip
		}
		if o.First != known {
			continue
		}
		p.offers = append(p.offers, o)
		known += o.Step * o.Count
	}
	// The end counts only if it was seen from where the trainer stands now.
	p.atEnd = r.AtEnd && r.End == known
}

func (c *Core) ack(p *part, below int64) {
	if below > p.acked {
		p.acked = below
	}
}

// String tells a person where the core stands.
func (c *Core) String() string {
	parts := ""
	for p := range c.parts {
		q := &c.parts[p]
		parts += fmt.Sprintf(" %d:%s joined=%v [%d,%d) offers=%v end=%v", p, q.owner.Member, q.joined, q.acked, q.next, q.offers, q.atEnd)
	}
	return fmt.Sprintf("phase %d generation %d round %d rows %d writing %v cut %v%s", c.phase, c.asg.Generation, c.round, c.rows, c.writing, c.bar != nil, parts)
}
