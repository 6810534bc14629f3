package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// Config of a World.
type Config struct {
	Seed       uint64
	Staleness  int
	Partitions int
	Late       int // partitions that join while the job runs
	Rows       int // per partition, about
	Batch      int64
	Every      int64 // rows between cuts
	Shards     int
	Workers    int
	PS         int
	Trainers   int
	Servings   int
	// Faults are the expected number of each per run.
	Crashes, Pauses float64
	// Loss and Duplicate are probabilities per message.
	Loss, Duplicate float64
	MaxSteps        int
}

// World is a simulated cluster with one job.
type World struct {
	cfg   Config
	rng   *rand.Rand
	now   int64 // virtual microseconds
	seq   int64
	queue events
	steps int

	log     [][]uint64 // partition → row → id
	records record     // the assignment record
	chain   []entry
	champs  []champion
	nodes   map[string]*node
	names   []string
	leader  string
	leases  map[string]int64 // node → expiry
	owners  map[string]string
	final   *entry
	err     error
	trace   func(format string, args ...any)
}

type event struct {
	at, seq int64
	f       func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	x := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return x
}

// record is the assignment record in the lease store: compare-and-set by revision.
type record struct {
	rev uint64
	asg tidemill.Assignment
}

// entry is one record of the snapshot chain: a fence, or a manifest with its state.
type entry struct {
	fence      bool
	generation uint64
	cut        tidemill.Cut
	round      int64
	examples   int64
	shards     []shard
}

type champion struct {
	version int // index into chain; -1 for a fence
	by      string
}

// node is a process. A crash makes a new incarnation; messages to an old one are lost.
type node struct {
	name        string
	role        string
	up          bool
	incarnation int
	pausedUntil int64
	backlog     []func()

	worker  *workerNode
	ps      *psNode
	trainer *trainerNode
	serving *servingNode
}

// id names this incarnation of the node: a process that starts again is another member.
func (n *node) id() string { return fmt.Sprintf("%s.%d", n.name, n.incarnation) }

// member returns the node that is, or was, the member id.
func (w *World) member(id string) (n *node, incarnation int) {
	name, inc, _ := strings.Cut(id, ".")
	incarnation, _ = strconv.Atoi(inc)
	return w.nodes[name], incarnation
}

const (
	leaseTTL  = 3_000_000
	rpcLimit  = 1_000_000
	delayMost = 4_000
)

// New returns a world in which nothing has happened yet.
func New(cfg Config) *World {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x7469646d)), nodes: map[string]*node{},
		leases: map[string]int64{}, owners: map[string]string{}, trace: func(string, ...any) {},
	}
	for range cfg.Partitions {
		n := cfg.Rows/2 + w.rng.IntN(cfg.Rows+1)
		rows := make([]uint64, n)
		for i := range rows {
			rows[i] = uint64(w.rng.ExpFloat64() * 20)
		}
		w.log = append(w.log, rows)
	}
	add := func(role string, n int) {
		for i := range n {
			nd := &node{name: fmt.Sprintf("%s%d", role, i+1), role: role}
			w.nodes[nd.name] = nd
			w.names = append(w.names, nd.name)
		}
	}
	w.planGrowth()
	add("w", cfg.Workers)
	add("p", cfg.PS)
	add("t", cfg.Trainers)
	add("s", cfg.Servings)
	return w
}

// Trace makes the world tell what happens.
func (w *World) Trace(f func(format string, args ...any)) { w.trace = f }

// Final returns the sum over the final values, once the job has finished.
func (w *World) Final() (uint64, bool) {
	if w.final == nil {
		return 0, false
	}
	var sum uint64
	for _, s := range w.final.shards {
		for id, v := range s.value {
			sum += tidemill.Mix(id*31 + v)
		}
	}
	return sum, true
}

// Cuts returns how many manifests were committed.
func (w *World) Cuts() int {
	n := 0
	for _, e := range w.chain {
		if !e.fence {
			n++
		}
	}
	return n
}

// Run simulates until the job has finished, an invariant is broken, or the steps are used up.
func (w *World) Run() error {
	for _, name := range w.names {
		n := w.nodes[name]
		w.after(w.rng.Int64N(200_000), func() { w.start(n) })
	}
	w.faults()
	w.tick()
	for w.err == nil && len(w.queue) > 0 && !w.over() {
		if w.steps++; w.steps > w.cfg.MaxSteps {
			return w.fail("the job did not finish in %d steps (state %s)", w.cfg.MaxSteps, w.stuck())
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.f()
	}
	if w.err == nil && !w.over() {
		return w.fail("nothing happens any more (%s)", w.stuck())
	}
	return w.err
}

func (w *World) stuck() string {
	s := fmt.Sprintf("leader %s, chain %d, generation %d", w.leader, len(w.chain), w.records.asg.Generation)
	for _, name := range w.names {
		n := w.nodes[name]
		switch {
		case !n.up:
			s += " " + name + "↓"
		case n.trainer != nil && n.trainer.core != nil:
			s += " " + name + "(" + n.trainer.core.String() + ")"
		case n.worker != nil:
			for _, l := range n.worker.loops {
				s += fmt.Sprintf(" %s(%s)", name, l.String())
			}
		case n.ps != nil:
			g, ready := n.ps.core.Generation()
			s += fmt.Sprintf(" %s(generation %d ready %v round %d cut %v)", name, g, ready, n.ps.core.Round(), n.ps.core.Cut())
		}
	}
	return s
}

func (w *World) over() bool {
	return w.final != nil && w.records.asg.State == tidemill.JobFinished
}

func (w *World) fail(format string, args ...any) error {
	if w.err == nil {
		w.err = fmt.Errorf("seed %d at %d µs: "+format, append([]any{w.cfg.Seed, w.now}, args...)...)
	}
	return w.err
}

func (w *World) after(d int64, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, f})
}

// on runs f at a node as it is now: not if it has crashed since, and later if it is paused.
func (w *World) on(n *node, incarnation int, d int64, f func()) {
	w.after(d, func() { w.deliver(n, incarnation, f) })
}

func (w *World) deliver(n *node, incarnation int, f func()) {
	if !n.up || n.incarnation != incarnation {
		return
	}
	if n.pausedUntil > w.now {
		n.backlog = append(n.backlog, func() { w.deliver(n, incarnation, f) })
		return
	}
	f()
}

func (w *World) delay() int64 { return 20 + w.rng.Int64N(delayMost) }

// call sends a request from one node to another and brings back the answer. The request is
// lost or doubled now and then, and so is the answer lost; the caller then hears
// ErrUnavailable after a while. serve may answer later, or never.
func (w *World) call(from *node, to string, serve func(n *node, answer func(any, error)), done func(any, error)) {
	incarnation := from.incarnation
	answered := false
	finish := func(v any, err error) {
		w.on(from, incarnation, 0, func() {
			if !answered {
				answered = true
				done(v, err)
			}
		})
	}
	w.after(rpcLimit, func() { finish(nil, fmt.Errorf("no answer: %w", tidemill.ErrUnavailable)) })
	dst, dstIncarnation := w.member(to)
	if dst == nil {
		return
	}
	copies := 1
	if w.rng.Float64() < w.cfg.Duplicate {
		copies = 2
	}
	for range copies {
		if w.rng.Float64() < w.cfg.Loss {
			continue
		}
		w.on(dst, dstIncarnation, w.delay(), func() {
			serve(dst, func(v any, err error) {
				if w.rng.Float64() < w.cfg.Loss {
					return
				}
				w.after(w.delay(), func() { finish(v, err) })
			})
		})
	}
}

// faults plans the run's crashes and pauses.
func (w *World) faults() {
	plan := func(expected float64, f func(*node)) {
		n := int(expected)
		if expected > 0 {
			n += w.rng.IntN(2)
		}
		for range n {
			n := w.nodes[w.names[w.rng.IntN(len(w.names))]]
			w.after(w.rng.Int64N(6_000_000), func() { f(n) })
		}
	}
	plan(w.cfg.Crashes, func(n *node) {
		if !n.up {
			return
		}
		w.trace("%s crashes", n.name)
		n.up = false
		n.incarnation++
		n.backlog = nil
		w.after(w.rng.Int64N(2*leaseTTL), func() { w.start(n) })
	})
	plan(w.cfg.Pauses, func(n *node) {
		d := w.rng.Int64N(3 * leaseTTL)
		w.trace("%s pauses for %d", n.name, d)
		n.pausedUntil = max(n.pausedUntil, w.now+d)
		w.after(d, func() {
			if n.pausedUntil > w.now {
				return
			}
			backlog := n.backlog
			n.backlog = nil
			for _, f := range backlog {
				f()
			}
		})
	})
}

func (w *World) start(n *node) {
	if n.up {
		return
	}
	w.trace("%s starts", n.name)
	n.up = true
	n.pausedUntil = 0
	n.worker, n.ps, n.trainer, n.serving = nil, nil, nil, nil
	switch n.role {
	case "w":
		n.worker = newWorkerNode(w, n)
	case "p":
		n.ps = newPSNode(w, n)
	case "t":
		n.trainer = newTrainerNode(w, n)
	case "s":
		n.serving = &servingNode{}
	}
	w.leases[n.id()] = w.now + leaseTTL
	if w.records.rev > 0 {
		w.tell(n)
	}
}

// tick renews the leases of those who can, lets expired ones go, elects, and tells the leader
// who is there.
func (w *World) tick() {
	for _, name := range w.names {
		if n := w.nodes[name]; n.up && n.pausedUntil <= w.now {
			w.leases[n.id()] = w.now + leaseTTL
		}
	}
	alive := func(id string) bool { return w.leases[id] > w.now }
	if w.leader == "" || !alive(w.leader) {
		w.leader = ""
		for _, name := range w.names {
			if n := w.nodes[name]; n.role == "t" && alive(n.id()) && n.up && n.pausedUntil <= w.now {
				w.leader = n.id()
				w.trace("%s leads", n.id())
				n.trainer.lead()
				break
			}
		}
	}
	if n, incarnation := w.member(w.leader); n != nil && n.up && n.incarnation == incarnation {
		workers, pss := map[string]int{}, []string(nil)
		for id, until := range w.leases {
			if until <= w.now {
				continue
			}
			switch id[0] {
			case 'w':
				workers[id] = 1
			case 'p':
				pss = append(pss, id)
			}
		}
		w.on(n, n.incarnation, 0, func() { n.trainer.members(workers, pss) })
	}
	for _, name := range w.names {
		if n := w.nodes[name]; n.serving != nil {
			w.on(n, n.incarnation, w.delay(), func() { n.serving.poll(w) })
		}
	}
	w.after(250_000, w.tick)
}

// tell brings the present assignment to a node, sometime.
func (w *World) tell(n *node) {
	asg := w.records.asg
	w.on(n, n.incarnation, w.delay(), func() {
		switch {
		case n.worker != nil:
			n.worker.assigned(asg)
		case n.ps != nil:
			n.ps.assigned(asg)
		}
	})
}
