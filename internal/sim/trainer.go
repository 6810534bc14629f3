package sim

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
)

// trainerNode takes part in the election and, while it leads, runs the job's core: what
// trainer.Trainer and its run do around it.
type trainerNode struct {
	w        *World
	n        *node
	election *session
	leads    bool

	workers map[string]int
	pss     []string
	leaving map[string]bool

	core   *trainer.Core
	seen   record // the job's, as the watch brought it last
	rev    uint64 // of the record as this leader wrote it last, or took it up
	taking bool   // up the job: the store is asked whether the lease is held
	queue  []func(done func())
	busy   bool
	// parts are what ps have written, by snapshot and ps.
	parts  map[int64]map[string]written
	parent int64
	val    *validator
	left   []*snapshot.Manifest // committed here, and not offered to the gate yet

	collecting, collectMore bool
}

func newTrainerNode(w *World, n *node) *trainerNode { return &trainerNode{w: w, n: n} }

// elect waits for the leader's lease.
func (t *trainerNode) elect() {
	s := &session{w: t.w, n: t.n, key: "leader", value: t.n.id()}
	s.held = func() {
		t.w.say("%s leads", t.n.id())
		t.leads = true
	}
	s.lost = func() {
		t.w.say("%s no longer leads", t.n.id())
		t.resign()
		if t.n.trainer == t {
			t.elect()
		}
	}
	t.election = s
	s.acquire()
}

// resign stops whatever a leader does.
func (t *trainerNode) resign() {
	t.leads, t.core, t.val, t.left = false, nil, nil, nil
	t.queue, t.busy, t.parts = nil, false, nil
	t.taking = false
}

// watched learns who holds a session and what the job's record is, and takes up the job if that
// is this trainer's to do.
func (t *trainerNode) watched(workers map[string]int, pss []string, leaving map[string]bool, rec record) {
	t.workers, t.pss, t.leaving = workers, pss, leaving
	if rec.rev > t.seen.rev {
		t.seen = rec
	}
	if !t.leads {
		return
	}
	if t.core == nil {
		switch {
		case t.seen.rev == 0:
		case !ended(t.seen.asg.State) || t.val == nil:
			t.takeUp()
		}
		return
	}
	if t.seen.rev > t.rev && t.seen.asg.Leader.ID != t.n.id() {
		t.step(&trainer.Event{Kind: trainer.NotAssigned})
		return
	}
	t.step(t.members()) // as often as leases are renewed
	t.measure()
}

// takeUp begins what the record says once the store has confirmed the lease: whoever leads later
// writes later, so that a compare-and-set on the revision in hand cannot replace what he wrote.
func (t *trainerNode) takeUp() {
	if t.taking {
		return
	}
	t.taking = true
	rec, lease := t.seen, t.election
	lease.confirm(func() {
		if t.election != lease || !t.taking {
			return
		}
		t.taking = false
		switch {
		case t.core != nil:
		case !ended(rec.asg.State):
			t.lead(rec)
		case t.val == nil:
			t.val = newValidator(t)
			t.val.inherit()
			t.val.finish()
		}
	})
}

func ended(state string) bool {
	return state == tidemill.JobFinished || state == tidemill.JobFailed || state == tidemill.JobCancelled
}

func (t *trainerNode) members() *trainer.Event {
	workers := map[string]int{}
	for id, slots := range t.workers {
		workers[id] = slots
	}
	return &trainer.Event{Kind: trainer.Members, Workers: workers, PS: slices.Clone(t.pss), Leaving: t.leaving}
}

// lead begins to run the job.
func (t *trainerNode) lead(rec record) {
	a := rec.asg
	t.rev = rec.rev
	t.core = trainer.NewCore(trainer.CoreConfig{
		Staleness: t.w.cfg.Staleness, Batch: t.w.cfg.Batch, Window: 8 * t.w.cfg.Batch, Every: t.w.cfg.Every,
		Partitions: t.w.cfg.Partitions, Shards: t.w.cfg.Shards, End: a.Spec.Train.End,
	})
	t.parts = map[int64]map[string]written{}
	t.val = newValidator(t)
	a.Leader = tidemill.Member{ID: t.n.id()}
	a.Partitions, a.Shards, a.Origins = slices.Clone(a.Partitions), slices.Clone(a.Shards), slices.Clone(a.Origins)
	t.step(&trainer.Event{Kind: trainer.Lead, Assignment: a})
	t.step(t.members())
}

// post hands the core an event, as long as it is still the same one.
func (t *trainerNode) post(core *trainer.Core, ev trainer.Event) {
	t.w.on(t.n, t.n.incarnation, 0, func() {
		if t.core == core {
			t.step(&ev)
		}
	})
}

// enqueue runs f after all that was enqueued before: what touches the store or the records goes
// through one queue, in order. f calls done when it has finished.
func (t *trainerNode) enqueue(f func(done func())) {
	t.queue = append(t.queue, f)
	if !t.busy {
		t.next()
	}
}

func (t *trainerNode) next() {
	if len(t.queue) == 0 {
		t.busy = false
		return
	}
	f := t.queue[0]
	t.queue, t.busy = t.queue[1:], true
	core, once := t.core, false
	f(func() {
		if t.core == core && !once {
			once = true
			t.next()
		}
	})
}

// store is World.again for as long as the core leads.
func (t *trainerNode) store(core *trainer.Core, f func(ctx context.Context, b *blob.Bucket) error, done func(error)) {
	t.w.again(t.n, func() bool { return t.core == core }, t.w.do, f, func(err error) {
		if t.core == core {
			done(err)
		}
	})
}

func (t *trainerNode) step(ev *trainer.Event) {
	if t.core == nil {
		return
	}
	core := t.core
	for _, e := range slices.Clone(core.Step(ev)) {
		switch e.Kind {
		case trainer.AppendFence:
			gen := core.Assignment().Generation
			t.enqueue(func(done func()) { t.fence(core, gen, done) })
		case trainer.WriteAssignment:
			t.enqueue(func(done func()) { t.assign(core, e.Assignment, done) })
		case trainer.Grant:
			a := core.Assignment()
			t.grant(e.Member, wire.Grant{
				Generation: a.Generation, Partition: e.Partition, Epoch: a.Partitions[e.Partition].Epoch, Routes: a.Routes(), Run: e.Run, Next: e.Next,
			})
		case trainer.CopyShard, trainer.SettleShard:
			t.adopt(core, e)
		case trainer.TakeSnapshot:
			t.parts[e.Number] = map[string]written{}
			for _, id := range e.PS {
				t.snapshot(core, id, e)
			}
		case trainer.Commit:
			m := t.manifest(core, &e)
			t.enqueue(func(done func()) { t.commit(core, m, done) })
		case trainer.Depose:
			t.w.say("%s is deposed", t.n.id())
			t.resign()
			// The run has ended; the trainer leads on, and takes the job up again when it sees
			// its record.
			t.leads = t.election.valid()
		}
		if t.core != core {
			return
		}
	}
	if core.Over() && t.core == core {
		// Training is over; the last candidates still wait for their decision.
		t.core, t.queue, t.busy = nil, nil, false
		if t.val != nil {
			t.val.finish()
		}
	}
}

// fence appends a fence record and reports where to go back to.
func (t *trainerNode) fence(core *trainer.Core, generation uint64, done func()) {
	var f snapshot.Manifest
	var last *snapshot.Manifest
	t.store(core, func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Snapshots(b, jobName)
		if err != nil {
			return err
		}
		n, m, err := snapshot.Latest(ctx, chain)
		if err != nil {
			return err
		}
		last = m
		f = snapshot.Manifest{Format: snapshot.Format, Job: jobName, Number: n + 1, Generation: generation}
		if n > 0 {
			top, err := snapshot.ReadManifest(ctx, chain, n)
			if err != nil {
				return err
			}
			f.Generation = max(f.Generation, top.Generation)
			if top.Fence != nil {
				f.Generation = max(f.Generation, top.Fence.Generation)
			}
		}
		f.Fence = &snapshot.Fence{Generation: f.Generation + 1, Holder: t.n.id()}
		return nil
	}, func(err error) {
		if err != nil {
			t.post(core, trainer.Event{Kind: trainer.Stop, Final: tidemill.JobFailed, Reason: err.Error()})
			done()
			return
		}
		t.store(core, func(ctx context.Context, b *blob.Bucket) error {
			chain, err := snapshot.Snapshots(b, jobName)
			if err != nil {
				return err
			}
			return snapshot.Commit(ctx, chain, &f)
		}, func(err error) {
			if errors.Is(err, tidemill.ErrExists) {
				t.fence(core, f.Generation, done) // somebody was quicker: look again what the last manifest is
				return
			}
			if err != nil {
				t.w.fail("%s cannot append a fence record: %v", t.n.id(), err)
				return
			}
			from := tidemill.Assignment{Generation: f.Generation, Cut: make(tidemill.Cut, t.w.cfg.Partitions)}
			t.parent = 0
			if last != nil {
				from.Snapshot, from.Cut, from.Round, from.Examples = last.Number, last.Cut, last.Round, last.Examples
				t.parent = last.Number
				if t.val != nil {
					t.val.committed(last)
				}
			}
			t.post(core, trainer.Event{Kind: trainer.Recovered, Number: f.Number + 1, Assignment: from})
			t.collect()
			done()
		})
	})
}

// assign writes the job's record by compare-and-set.
func (t *trainerNode) assign(core *trainer.Core, a tidemill.Assignment, done func()) {
	w := t.w
	rev, term := t.rev, t.election.epoch
	w.call(t.n, "kv", "kv", func(_ *node, answer func(any, error)) {
		if w.records.rev != rev {
			answer(nil, tidemill.ErrConflict)
			return
		}
		w.checks.wrote(w, t.n.id(), term)
		w.write(a)
		answer(w.records.rev, nil)
	}, func(v any, err error) {
		if t.core != core {
			return
		}
		switch {
		case err == nil:
			t.rev = v.(uint64)
			t.post(core, trainer.Event{Kind: trainer.Assigned})
			done()
		case errors.Is(err, tidemill.ErrConflict):
			// An earlier try may have arrived although its answer did not.
			if reflect.DeepEqual(w.records.asg, a) {
				t.rev = w.records.rev
				t.post(core, trainer.Event{Kind: trainer.Assigned})
			} else {
				t.post(core, trainer.Event{Kind: trainer.NotAssigned})
			}
			done()
		default:
			w.on(t.n, t.n.incarnation, 20*ms, func() {
				if t.core == core {
					t.assign(core, a, done)
				}
			})
		}
	})
}

// grant sends a grant over the link to a worker. A link that loses one breaks, and its worker
// joins again over the next one.
func (t *trainerNode) grant(member string, g wire.Grant) {
	dst, incarnation := t.w.member(member)
	if dst == nil {
		return
	}
	if !t.w.arrives(t.n.name, dst.name, "grant") {
		t.w.on(dst, incarnation, rpcLimit/2, func() {
			if dst.worker != nil {
				if l := dst.worker.loops[g.Partition]; l != nil && l.joined {
					dst.worker.report(g.Partition, l, true)
				}
			}
		})
		return
	}
	t.w.on(dst, incarnation, t.w.delay(), func() {
		if dst.worker != nil {
			dst.worker.granted(g)
		}
	})
}

// snapshot asks one ps for its part. Until all have captured the cut nothing is granted beyond
// it, so that asking again gives the same state.
func (t *trainerNode) snapshot(core *trainer.Core, id string, e trainer.Effect) {
	a := core.Assignment()
	gen := a.Generation
	ev := ps.Event{Kind: ps.Snapshot, Generation: gen, Routes: a.Routes(), Number: e.Number, Base: e.Base, Round: e.Round, Cut: e.Cut}
	me := t.n.id()
	t.w.call(t.n, id, "snapshot", func(n *node, answer func(any, error)) {
		if n.ps == nil {
			answer(nil, tidemill.ErrUnavailable)
			return
		}
		n.ps.snapshot(ev, e.Number, func() {
			t.w.send(n, me, "snapshot", func(*node) {
				t.post(core, trainer.Event{Kind: trainer.Marked, Number: e.Number, Member: id})
			})
		}, answer)
	}, func(v any, err error) {
		if t.core != core {
			return
		}
		switch {
		case err == nil:
			if parts := t.parts[e.Number]; parts != nil {
				parts[id] = v.(written)
			}
			t.post(core, trainer.Event{Kind: trainer.Written, Number: e.Number, Member: id})
		case errors.Is(err, tidemill.ErrUnavailable) || errors.Is(err, tidemill.ErrNotReady):
			t.w.on(t.n, t.n.incarnation, 20*ms, func() {
				if t.core == core && core.Assignment().Generation == gen && slices.Contains(t.pss, id) {
					t.snapshot(core, id, e)
				}
			})
		default:
			t.w.on(t.n, t.n.incarnation, leaseRenew, func() {
				t.post(core, trainer.Event{Kind: trainer.Lost, Number: e.Number, Member: id})
			})
		}
	})
}

// manifest composes the record of a snapshot from what was written for it.
func (t *trainerNode) manifest(core *trainer.Core, e *trainer.Effect) *snapshot.Manifest {
	a := core.Assignment()
	m := &snapshot.Manifest{
		Format: snapshot.Format, Job: jobName, Model: modelName, Lineage: "only", Number: e.Number, Generation: a.Generation,
		StreamTopic: "t", Cut: e.Cut.Clone(), Round: e.Round, Spec: a.Spec,
	}
	for _, run := range e.Schedule {
		s := snapshot.Run{Round: run.Round, Rounds: run.Count}
		for _, p := range run.Parts {
			s.Steps = append(s.Steps, snapshot.Step{Partition: p.Partition, First: p.First, Next: p.First + run.Count*p.Step, Rows: p.Step})
		}
		m.Schedule = append(m.Schedule, s)
	}
	for _, id := range sortedKeys(t.parts[e.Number]) {
		x := t.parts[e.Number][id]
		m.Parts = append(m.Parts, x.part)
		m.Examples = x.examples
	}
	m.Digest = snapshot.SumParts(m.Parts)
	delete(t.parts, e.Number)
	return m
}

// commit creates the manifest: that is the commit.
func (t *trainerNode) commit(core *trainer.Core, m *snapshot.Manifest, done func()) {
	m.Parent = t.parent
	taken := false
	t.store(core, func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Snapshots(b, jobName)
		if err != nil {
			return err
		}
		err = snapshot.Commit(ctx, chain, m)
		if errors.Is(err, tidemill.ErrExists) {
			// An earlier try may have arrived although its answer did not.
			was, rerr := snapshot.ReadManifest(ctx, chain, m.Number)
			if taken = rerr != nil || was.Fence != nil || was.Generation != m.Generation; !taken {
				return nil
			}
		}
		return err
	}, func(err error) {
		defer done()
		switch {
		case taken:
			t.post(core, trainer.Event{Kind: trainer.Beaten, Number: m.Number})
		case errors.Is(err, tidemill.ErrInvalid):
			t.post(core, trainer.Event{Kind: trainer.Stop, Final: tidemill.JobFailed, Reason: fmt.Sprintf("snapshot %d: %v", m.Number, err)})
		case err != nil:
			t.post(core, trainer.Event{Kind: trainer.Lost, Number: m.Number})
		default:
			t.parent = m.Number
			if t.val != nil {
				t.val.committed(m)
			} else {
				t.left = append(t.left, m)
			}
			t.post(core, trainer.Event{Kind: trainer.Committed, Number: m.Number})
			t.collect()
		}
	})
}
