package sim

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// workerNode runs one worker core per partition that it owns: what worker.Worker and its loops
// do around the core.
type workerNode struct {
	w     *World
	n     *node
	asg   tidemill.Assignment
	ends  []int64 // of the logs, as last heard
	loops map[int]*loop
}

type loop struct {
	worker.Core
	epoch      uint64
	generation uint64
	routes     uint64
	pss        []string
	end        int64 // of a bounded job; −1 otherwise

	rows    []uint64 // of the batch in hand
	have    tidemill.Range
	waiting []worker.Effect // requests that wait for the rows
	pulled  uint64
	grad    uint64

	joined  bool
	welcome bool // the trainer has said where it stands
	offers  []wire.Offer
	upTo    int64 // offers end there
	pending int64 // when the short batch at the log's end was first seen; 0: none
	relinks bool  // the link to the trainer is about to be made anew
}

func newWorkerNode(w *World, n *node) *workerNode {
	return &workerNode{w: w, n: n, loops: map[int]*loop{}}
}

// sorted returns the loops by partition.
func (k *workerNode) sorted() []*loop {
	var out []*loop
	for _, p := range sortedKeys(k.loops) {
		out = append(out, k.loops[p])
	}
	return out
}

func (k *workerNode) assigned(a tidemill.Assignment) {
	if a.Seq <= k.asg.Seq {
		return
	}
	leader := k.asg.Leader.ID
	k.asg = a
	for p := range k.loops {
		if p >= len(a.Partitions) || a.Partitions[p].Member != k.n.id() {
			delete(k.loops, p)
		}
	}
	if a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
		clear(k.loops)
		return
	}
	for p, o := range a.Partitions {
		if o.Member != k.n.id() {
			continue
		}
		l := k.loops[p]
		if l == nil || l.epoch != o.Epoch || l.generation != a.Generation || l.routes != a.Routes() {
			pss := a.PSes()
			l = &loop{
				Core:  *worker.NewCore(worker.CoreConfig{Partition: p, Staleness: k.w.cfg.Staleness, PS: len(pss)}),
				epoch: o.Epoch, generation: a.Generation, routes: a.Routes(), pss: pss, end: -1,
			}
			if end := a.Origin(p).End; end != 0 {
				l.end = end
			}
			k.loops[p] = l
			k.step(p, l, &worker.Event{Kind: worker.Begin})
		} else if l.joined && leader != a.Leader.ID {
			k.report(p, l, true)
		}
	}
}

// knows reports whether the end of a partition's log was heard of.
func (k *workerNode) knows(p int) bool { return k.w.logOf(p) < len(k.ends) }

// heard learns where the log ends now.
func (k *workerNode) heard(ends []int64) {
	before := len(k.ends)
	k.ends = ends
	for _, p := range sortedKeys(k.loops) {
		// That the log is known at all is news too: it may end where the trainer stands.
		fresh := k.w.logOf(p) >= before
		if l := k.loops[p]; l.joined && (k.offer(p, l) || fresh) {
			k.report(p, l, false)
		}
	}
}

func (k *workerNode) step(p int, l *loop, ev *worker.Event) {
	if k.loops[p] != l {
		return
	}
	for _, e := range slices.Clone(l.Step(ev)) {
		switch e.Kind {
		case worker.SendFence, worker.SendPull, worker.SendPush:
			d := int64(0)
			if e.Again {
				d = 20*ms + k.w.delay()
			}
			k.w.on(k.n, k.n.incarnation, d, func() { k.send(p, l, e) })
		case worker.Joined:
			if !l.joined {
				l.upTo = e.Next
			}
			l.joined = true
			k.w.checks.acked(k.w, l, p, e.Next)
			k.report(p, l, true)
		case worker.Compute:
			l.grad = gradientOf(l.pulled, e.Batch.Range.First, p)
			l.pulled = 0
			k.w.on(k.n, k.n.incarnation, 100+k.w.delay()/4, func() { k.step(p, l, &worker.Event{Kind: worker.Computed}) })
		case worker.Acked:
			k.w.checks.acked(k.w, l, p, e.Next)
			k.offer(p, l)
			k.report(p, l, false)
		case worker.Torn:
			k.w.say("%s finds partition %d torn", k.n.id(), p)
			k.send1(p, l, wire.Report{Torn: true})
		case worker.Fault:
			k.send1(p, l, wire.Report{Fault: e.Err.Error()})
		case worker.Over:
			delete(k.loops, p)
		}
	}
}

// send sends a request of the core to a parameter server. A batch's rows are read first.
func (k *workerNode) send(p int, l *loop, e worker.Effect) {
	if k.loops[p] != l {
		return
	}
	if e.Kind == worker.SendPull && l.have != e.Batch.Range {
		l.waiting = append(l.waiting, e)
		if len(l.waiting) > 1 {
			return // being read
		}
		k.w.broker.read(k.n, k.w.logOf(p), e.Batch.Range, func() bool { return k.loops[p] == l }, func(rows []uint64, err error) {
			if err != nil {
				k.step(p, l, &worker.Event{Kind: worker.Pulled, PS: e.PS, Err: err})
				return
			}
			l.rows, l.have = rows, e.Batch.Range
			all := l.waiting
			l.waiting = nil
			for _, e := range all {
				k.send(p, l, e)
			}
		})
		return
	}
	hdr := ps.Event{Generation: l.generation, Partition: p, Epoch: l.epoch, Round: e.Batch.Round, Routes: l.routes}
	var ids []uint64
	var kind worker.EventKind
	var name string
	switch e.Kind {
	case worker.SendFence:
		hdr.Kind, kind, name = ps.Fence, worker.Fenced, "fence"
	case worker.SendPull:
		hdr.Kind, kind, name = ps.Pull, worker.Pulled, "pull"
		ids = l.rows
	case worker.SendPush:
		hdr.Kind, kind, name = ps.Push, worker.Pushed, "push"
		hdr.Range, hdr.Members = e.Batch.Range, slices.Clone(e.Batch.Members)
		hdr.Floor, hdr.Examples = e.Batch.Range.First, e.Batch.Range.Next-e.Batch.Range.First
		hdr.Payload = gradient{slices.Clone(l.rows), l.grad, l.generation}
	}
	if !k.n.alive() {
		k.step(p, l, &worker.Event{Kind: kind, PS: e.PS, Err: fmt.Errorf("the session lease is lost: %w", tidemill.ErrFenced)})
		return
	}
	k.w.call(k.n, l.pss[e.PS], name, func(n *node, answer func(any, error)) {
		if n.ps == nil {
			answer(nil, tidemill.ErrUnavailable)
			return
		}
		n.ps.ask(hdr, ids, answer)
	}, func(v any, err error) {
		ev := worker.Event{Kind: kind, PS: e.PS, Err: err}
		switch x := v.(type) {
		case wire.Held:
			ev.Held = x
		case uint64:
			l.pulled += x
		}
		k.step(p, l, &ev)
	})
}

// granted takes a grant of the trainer.
func (k *workerNode) granted(g wire.Grant) {
	l := k.loops[g.Partition]
	if l == nil || l.generation != g.Generation || l.epoch != g.Epoch || l.routes != g.Routes || !l.joined {
		return
	}
	l.welcome = true
	if g.Next > l.upTo {
		l.offers, l.upTo = nil, g.Next
	}
	// Offers that are granted are no longer offered.
	for len(l.offers) > 0 {
		f := &l.offers[0]
		n := min(f.Count, max(0, g.Next-f.First)/f.Step)
		f.First, f.Count = f.First+n*f.Step, f.Count-n
		if f.Count > 0 {
			break
		}
		l.offers = l.offers[1:]
	}
	fresh := k.offer(g.Partition, l)
	if g.Run.Count == 0 || fresh {
		k.report(g.Partition, l, false)
	}
	if g.Run.Count > 0 {
		k.step(g.Partition, l, &worker.Event{Kind: worker.Granted, Run: g.Run})
	}
}

// linger is how long a batch at the log's end waits for more rows.
const linger = 50 * ms

// offer extends the offers by what can be read now; it reports whether there is news.
func (k *workerNode) offer(p int, l *loop) (fresh bool) {
	if !l.welcome || !k.knows(p) {
		return false
	}
	extend := func(f wire.Offer) {
		fresh = true
		l.offers = append(l.offers, f)
		l.upTo = f.First + f.Step*f.Count
	}
	end := k.ends[k.w.logOf(p)]
	bounded := l.end >= 0
	if bounded {
		end = min(end, l.end)
	}
	if n := (end - l.upTo) / k.w.cfg.Batch; n > 0 {
		extend(wire.Offer{First: l.upTo, Step: k.w.cfg.Batch, Count: n})
		l.pending = 0
	}
	rest := end - l.upTo
	switch {
	case rest <= 0:
		l.pending = 0
	case bounded && end == l.end:
		extend(wire.Offer{First: l.upTo, Step: rest, Count: 1})
	case l.pending == 0:
		l.pending = k.w.now
		fresh = true
		k.w.on(k.n, k.n.incarnation, linger, func() {
			if k.loops[p] == l && k.offer(p, l) {
				k.report(p, l, false)
			}
		})
	case k.w.now-l.pending >= linger:
		extend(wire.Offer{First: l.upTo, Step: rest, Count: 1})
		l.pending = 0
	}
	return fresh
}

// report tells the leader where a partition stands and all that it could take.
func (k *workerNode) report(p int, l *loop, joined bool) {
	k.send1(p, l, wire.Report{
		Joined: joined, Next: l.Next(), Acked: l.Next(), Offers: slices.Clone(l.offers), AtEnd: l.welcome && k.knows(p), End: l.upTo,
	})
}

// send1 sends a report over the link to the leader. When the link breaks everything is said
// again over the next one.
func (k *workerNode) send1(p int, l *loop, r wire.Report) {
	r.Partition, r.Generation, r.Epoch, r.Routes = p, l.generation, l.epoch, l.routes
	k.w.call(k.n, k.asg.Leader.ID, "report", func(n *node, answer func(any, error)) {
		if n.trainer == nil || n.trainer.core == nil {
			answer(nil, fmt.Errorf("another one leads: %w", tidemill.ErrUnavailable))
			return
		}
		n.trainer.step(&trainer.Event{Kind: trainer.ReportIn, Report: r})
		answer(nil, nil)
	}, func(_ any, err error) {
		if err == nil || k.loops[p] != l {
			return
		}
		last := r.Torn || r.Fault != ""
		if !last && l.relinks {
			return
		}
		l.relinks = l.relinks || !last
		k.w.on(k.n, k.n.incarnation, 20*ms, func() {
			switch {
			case k.loops[p] != l:
			case last:
				k.send1(p, l, r)
			case l.joined:
				l.relinks = false
				k.report(p, l, true)
			}
		})
	})
}
