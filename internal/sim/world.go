package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// Config of a World.
type Config struct {
	Seed       uint64
	Staleness  int
	Partitions int
	Rows       int // in each partition when the job is submitted, about; Exactly: as many
	Exactly    bool
	Batch      int64
	Every      int64 // rows between cuts
	Shards     int
	Workers    int
	PS         int
	Trainers   int
	Servings   int
	// Bounded: the job ends where the stream ended when it was submitted.
	Bounded bool
	// Loss and Duplicate are probabilities per message, while Ops go on.
	Loss, Duplicate float64
	// Steady: every message takes a millisecond. Else delays are random, and messages
	// overtake each other.
	Steady   bool
	MaxSteps int
	// Ops is the schedule: what happens to the world, by ascending time.
	Ops []Op
	// Heat, unless 0, makes some shards hot from the start, as the operation heat does.
	Heat uint64
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
	broker  *broker
	kv      *kv
	disk    *disk
	net     network
	checks  checks
	clients clients
	records record // the assignment record
	nodes   map[string]*node
	names   []string
	closing bool // the schedule is over: everything is whole again, and stays so
	closed  int64
	heat    uint64 // which shards are hot; 0: nobody measures
	moved   int    // shards handed over
	drained int    // nodes that left in order without owning anything
	late    int    // nodes that left in order although they did
	final   *entry
	// processes end the code that still waits for the store.
	processes []func()
	err       error
	trace     func(format string, args ...any)
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

// record is the assignment record in the lease store: compare-and-set by revision. Revision 0:
// nothing was submitted yet.
type record struct {
	rev uint64
	asg tidemill.Assignment
}

// node is a process. A crash makes a new incarnation; messages to an old one are lost.
type node struct {
	name        string
	role        string // w, p, t, s; or kv, log, store
	up          bool
	gone        bool // it left for good, or never came
	incarnation int
	pausedUntil int64
	backlog     []func()
	offset      int64 // of its clock, in µs
	slow        int64 // how many times longer whatever it does takes; 0 or 1: no longer

	session *session
	worker  *workerNode
	ps      *psNode
	trainer *trainerNode
	serving *servingNode
}

// id names this incarnation of the node: a process that starts again is another member.
func (n *node) id() string { return fmt.Sprintf("%s.%d", n.name, n.incarnation) }

// clock is what time the node believes it is.
func (n *node) clock(w *World) int64 { return w.now + n.offset }

// alive reports whether the node still holds its session lease by its own clock.
func (n *node) alive() bool { return n.session != nil && n.session.valid() }

// member returns the node that is, or was, the member id.
func (w *World) member(id string) (n *node, incarnation int) {
	name, inc, ok := strings.Cut(id, ".")
	n = w.nodes[name]
	if !ok && n != nil {
		return n, n.incarnation
	}
	incarnation, _ = strconv.Atoi(inc)
	return n, incarnation
}

// Times in virtual microseconds. They keep the proportions of the real ones (3 s, 1 s, 500 ms).
const (
	ms          = 1000
	leaseTTL    = 900 * ms
	leaseRenew  = 300 * ms
	leaseMargin = 150 * ms
	rpcLimit    = 300 * ms
	delayMost   = 4 * ms
	watchEvery  = 100 * ms
)

// services are the processes that the others stand on: leases and records, the stream, and the
// object store.
var services = []string{"kv", "log", "store"}

// New returns a world in which nothing has happened yet.
func New(cfg Config) *World {
	w := &World{
		cfg: cfg, heat: cfg.Heat, rng: rand.New(rand.NewPCG(cfg.Seed, 0x7469646d)), nodes: map[string]*node{}, trace: func(string, ...any) {},
	}
	for p := range cfg.Partitions {
		n := cfg.Rows
		if !cfg.Exactly && n > 0 {
			n = cfg.Rows/2 + w.rng.IntN(cfg.Rows+1)
		}
		w.log = append(w.log, nil)
		w.log[p] = w.draw(n)
	}
	w.broker, w.kv, w.disk = newBroker(w), newKV(w), newDisk(w)
	w.net = network{cuts: map[link]int{}}
	w.checks = newChecks(w)
	add := func(role string, n int) {
		for i := range n {
			w.add(role, fmt.Sprintf("%s%d", role, i+1))
		}
	}
	for _, s := range services {
		w.add(s, s)
	}
	add("w", cfg.Workers)
	add("p", cfg.PS)
	add("t", cfg.Trainers)
	add("s", cfg.Servings)
	w.add("c", "client")
	return w
}

func (w *World) add(role, name string) *node {
	n := &node{name: name, role: role}
	w.nodes[name] = n
	w.names = append(w.names, name)
	return n
}

// draw makes n rows: ids, some of them frequent.
func (w *World) draw(n int) []uint64 {
	rows := make([]uint64, n)
	for i := range rows {
		rows[i] = uint64(w.rng.ExpFloat64() * 20)
	}
	return rows
}

// Trace makes the world tell what happens.
func (w *World) Trace(f func(format string, args ...any)) { w.trace = f }

// say traces what a node does.
func (w *World) say(format string, args ...any) { w.trace(format, args...) }

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
func (w *World) Cuts() int { return w.checks.manifests }

// Steps returns how many events were simulated.
func (w *World) Steps() int { return w.steps }

// begin starts every node and plans the schedule.
func (w *World) begin() {
	for _, name := range w.names {
		n := w.nodes[name]
		d := int64(0)
		if !w.cfg.Steady && len(n.role) == 1 {
			d = w.rng.Int64N(200 * ms)
		}
		w.after(d, func() { w.start(n) })
	}
	w.after(0, func() { w.clients.submit(w) })
	var end int64
	for _, op := range w.cfg.Ops {
		w.after(op.At-w.now, func() {
			if w.err == nil {
				w.apply(op)
			}
		})
		end = max(end, op.At+op.For)
	}
	if !w.cfg.Steady {
		w.after(end+ms, w.close)
	}
	w.watch()
}

// Run simulates until the job has finished, an invariant is broken, or the steps are used up.
func (w *World) Run() error {
	w.begin()
	w.run(w.over)
	if w.err == nil && !w.over() {
		return w.fail("nothing happens any more (%s)", w.stuck())
	}
	if w.err == nil {
		w.checks.end(w)
	}
	return w.err
}

// run simulates until done, an invariant is broken, nothing is left to happen, or the steps are
// used up.
func (w *World) run(done func() bool) {
	for w.err == nil && len(w.queue) > 0 && !done() {
		if w.steps++; w.steps > w.cfg.MaxSteps {
			_ = w.fail("the job did not finish in %d steps (state %s)", w.cfg.MaxSteps, w.stuck())
			return
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.f()
	}
}

// close ends all faults, so that the job can come to its end.
func (w *World) close() {
	w.closing, w.closed = true, w.now
	w.say("everything is whole again")
	w.net.cuts = map[link]int{}
	w.disk.heal()
	for _, name := range w.names {
		n := w.nodes[name]
		n.slow = 0
		if n.pausedUntil > w.now {
			n.pausedUntil = w.now
			w.wake(n)
		}
		if !n.gone {
			w.start(n)
		}
	}
	w.clients.finish(w)
}

func (w *World) stuck() string {
	s := fmt.Sprintf("state %s, generation %d, snapshot %d, cut %v", w.records.asg.State, w.records.asg.Generation, w.records.asg.Snapshot, w.records.asg.Cut)
	for _, name := range w.names {
		n := w.nodes[name]
		switch {
		case !n.up:
			s += " " + name + "↓"
		case n.trainer != nil && n.trainer.core != nil:
			s += " " + n.id() + "(" + n.trainer.core.String() + ")"
		case n.worker != nil:
			for _, l := range n.worker.sorted() {
				s += fmt.Sprintf(" %s(%s)", n.id(), l.String())
			}
		case n.ps != nil:
			g, ready := n.ps.core.Generation()
			s += fmt.Sprintf(" %s(generation %d ready %v round %d cut %v)", n.id(), g, ready, n.ps.core.Round(), n.ps.core.Cut())
		}
	}
	return s
}

// over reports whether the job has come to an end that may be its end.
func (w *World) over() bool {
	// Where something acknowledged was lost, a job may wait for ever for what is not there.
	if w.lied() && w.closing && w.now > w.closed+10*leaseTTL {
		return true
	}
	switch w.records.asg.State {
	case tidemill.JobFinished:
		return w.final != nil || w.checks.final(w)
	case tidemill.JobFailed:
		if !w.lied() {
			_ = w.fail("the job failed: %s", w.records.asg.Reason)
		}
		return true
	}
	return false
}

// lied reports whether something that was said to be durable has been lost.
func (w *World) lied() bool { return w.disk.lied || w.broker.lied }

// fail ends the run: an invariant is broken.
func (w *World) fail(format string, args ...any) error {
	if w.err == nil {
		w.err = fmt.Errorf("seed %d at %d ms: "+format, append([]any{w.cfg.Seed, w.now / ms}, args...)...)
	}
	return w.err
}

func (w *World) after(d int64, f func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + max(0, d), w.seq, f})
}

// on runs f at a node as it is now: not if it has crashed since, and later if it is paused.
func (w *World) on(n *node, incarnation int, d int64, f func()) {
	if n.slow > 1 {
		d *= n.slow
	}
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

// start starts a node that is down.
func (w *World) start(n *node) {
	if n.up {
		return
	}
	if len(n.role) == 1 && n.role != "c" {
		w.say("%s starts", n.name)
	}
	n.up, n.gone = true, false
	n.pausedUntil, n.backlog = 0, nil
	switch n.role {
	case "w", "p", "t":
		w.live(n)
	case "s":
		n.serving = newServingNode(w, n)
	case "store":
		w.disk.restarted()
	}
}

// crash stops a node at once; whatever it had not made durable is lost.
func (w *World) crash(n *node) {
	if !n.up {
		return
	}
	n.up = false
	n.incarnation++
	n.backlog = nil
	n.session, n.worker, n.ps, n.trainer, n.serving = nil, nil, nil, nil, nil
	switch n.role {
	case "kv":
		w.kv.crashed()
	case "log":
		w.broker.crashed()
	case "store":
		w.disk.crashed()
	}
}

// wake lets a paused node go on: with whatever has come in meanwhile, in any order, since many
// threads wake up at once.
func (w *World) wake(n *node) {
	if n.pausedUntil > w.now {
		return // paused again meanwhile
	}
	backlog := n.backlog
	n.backlog = nil
	for _, f := range backlog {
		if w.cfg.Steady {
			f()
		} else {
			w.after(w.rng.Int64N(20*ms), f)
		}
	}
}

// live holds a session lease and runs the node's role for as long as it is held. When it is
// lost the role stops, and starts again as another member.
func (w *World) live(n *node) {
	s := &session{w: w, n: n, key: "members." + n.id(), value: n.id()}
	s.held = func() {
		switch n.role {
		case "w":
			n.worker = newWorkerNode(w, n)
		case "p":
			n.ps = newPSNode(w, n)
		case "t":
			n.trainer = newTrainerNode(w, n)
			n.trainer.elect()
		}
		w.tell(n)
	}
	s.lost = func() {
		w.say("%s has lost its session", n.id())
		n.incarnation++
		n.backlog = nil
		n.worker, n.ps, n.trainer = nil, nil, nil
		w.live(n)
	}
	n.session = s
	s.acquire()
}

// up lists the nodes of a role that run, by name.
func (w *World) roles(role string) []*node {
	var out []*node
	for _, name := range w.names {
		if n := w.nodes[name]; n.role == role && n.up {
			out = append(out, n)
		}
	}
	return out
}

// delay is how long a message takes.
func (w *World) delay() int64 {
	if w.cfg.Steady {
		return ms
	}
	return 20 + w.rng.Int64N(delayMost)
}

// sortedKeys returns a map's keys in order, so that nothing depends on the order of a map.
func sortedKeys[K int | int64 | uint64 | string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Close frees what the world holds.
func (w *World) Close() {
	for _, stop := range w.processes {
		stop()
	}
	_ = w.disk.bucket.Close()
}
