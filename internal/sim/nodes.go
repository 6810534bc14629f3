package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// shard is the counting job's parameters: how often an id was seen, and a value that depends
// on every step that touched it.
type shard struct {
	count map[uint64]int64
	value map[uint64]uint64
}

func (s shard) clone() shard { return shard{maps.Clone(s.count), maps.Clone(s.value)} }

func emptyShards(n int) []shard {
	out := make([]shard, n)
	for i := range out {
		out[i] = shard{map[uint64]int64{}, map[uint64]uint64{}}
	}
	return out
}

// psNode runs a ps core over counting shards.
type psNode struct {
	w      *World
	n      *node
	core   *ps.Core
	asg    tidemill.Assignment
	shards map[int]shard
	nextID uint64
	calls  map[uint64]*psCall
}

type psCall struct {
	answer func(any, error)
	ids    []uint64
}

type psMark struct {
	shards map[int]shard
}

// gradient is a push's payload.
type gradient struct {
	ids  []uint64
	grad uint64
}

func newPSNode(w *World, n *node) *psNode {
	return &psNode{w: w, n: n, core: ps.NewCore(w.cfg.Staleness), calls: map[uint64]*psCall{}}
}

func (p *psNode) assigned(a tidemill.Assignment) {
	if a.Seq <= p.asg.Seq {
		return
	}
	p.asg = a
	epochs := make([]uint64, len(a.Partitions))
	for i, o := range a.Partitions {
		epochs[i] = o.Epoch
	}
	p.step(&ps.Event{Kind: ps.Assign, Seq: a.Seq, Generation: a.Generation, Epochs: epochs, Cut: a.Cut})
}

func (p *psNode) step(ev *ps.Event) {
	for _, e := range slices.Clone(p.core.Step(ev)) {
		switch e.Kind {
		case ps.Restore:
			a := p.asg
			p.w.on(p.n, p.n.incarnation, p.w.delay()*5, func() { p.restore(a) })
		case ps.Apply:
			g := e.Payload.(gradient)
			for i, id := range g.ids {
				s, ok := p.shards[tidemill.ShardOf(id, p.w.cfg.Shards)]
				if !ok {
					continue
				}
				s.count[id]++
				s.value[id] = tidemill.Mix(s.value[id] + g.grad + uint64(i))
			}
		default:
			c := p.calls[e.ID]
			if c == nil {
				continue
			}
			delete(p.calls, e.ID)
			switch e.Kind {
			case ps.Refuse:
				c.answer(nil, e.Err)
			case ps.Serve:
				var sum uint64
				for _, id := range c.ids {
					if s, ok := p.shards[tidemill.ShardOf(id, p.w.cfg.Shards)]; ok {
						sum += tidemill.Mix(s.value[id] ^ id)
					}
				}
				c.answer(sum, nil)
			case ps.Accept:
				c.answer(nil, nil)
			case ps.Fenced:
				c.answer(e.Held, nil)
			case ps.Capture:
				m := psMark{map[int]shard{}}
				for i, s := range p.shards {
					m.shards[i] = s.clone()
				}
				c.answer(m, nil)
			}
		}
	}
}

func (p *psNode) restore(a tidemill.Assignment) {
	if g, ready := p.core.Generation(); g != a.Generation || ready {
		return
	}
	p.shards = map[int]shard{}
	from := emptyShards(p.w.cfg.Shards)
	if a.Snapshot > 0 {
		from = p.w.chain[a.Snapshot-1].shards
	}
	for i, o := range a.Shards {
		if o.Member == p.n.id() {
			p.shards[i] = from[i].clone()
		}
	}
	p.step(&ps.Event{Kind: ps.Restored, Generation: a.Generation, Cut: a.Cut, Round: a.Round, Examples: a.Examples})
}

// ask runs an event that has an answer.
func (p *psNode) ask(ev ps.Event, ids []uint64, answer func(any, error)) {
	p.nextID++
	ev.ID = p.nextID
	p.calls[ev.ID] = &psCall{answer, ids}
	p.step(&ev)
}

// workerNode runs one worker core per partition that it owns.
type workerNode struct {
	w     *World
	n     *node
	asg   tidemill.Assignment
	loops map[int]*loop
}

type loop struct {
	worker.Core
	epoch      uint64
	generation uint64
	pss        []string
	pulled     uint64
	grad       uint64
	joined     bool
}

func newWorkerNode(w *World, n *node) *workerNode {
	return &workerNode{w: w, n: n, loops: map[int]*loop{}}
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
	if a.State != tidemill.JobRunning {
		return
	}
	for p, o := range a.Partitions {
		if o.Member != k.n.id() {
			continue
		}
		l := k.loops[p]
		if l == nil || l.epoch != o.Epoch || l.generation != a.Generation {
			pss := a.PSes()
			l = &loop{
				Core:  *worker.NewCore(worker.CoreConfig{Partition: p, Staleness: k.w.cfg.Staleness, PS: len(pss)}),
				epoch: o.Epoch, generation: a.Generation, pss: pss,
			}
			k.loops[p] = l
			k.step(p, l, &worker.Event{Kind: worker.Begin})
		} else if l.joined && leader != a.Leader.ID {
			k.report(p, l, true)
		}
	}
}

func (k *workerNode) ids(p int, r tidemill.Range) []uint64 { return k.w.rows(p)[r.First:r.Next] }

func (k *workerNode) step(p int, l *loop, ev *worker.Event) {
	if k.loops[p] != l {
		return
	}
	for _, e := range slices.Clone(l.Step(ev)) {
		switch e.Kind {
		case worker.SendFence, worker.SendPull, worker.SendPush:
			d := int64(0)
			if e.Again {
				d = 20_000 + k.w.delay()
			}
			k.w.on(k.n, k.n.incarnation, d, func() { k.send(p, l, e) })
		case worker.Joined:
			l.joined = true
			k.report(p, l, true)
		case worker.Compute:
			// The gradient depends on what was pulled, as a real one does.
			l.grad = tidemill.Mix(l.pulled + uint64(e.Batch.Range.First)*7 + uint64(p))
			l.pulled = 0
			k.w.on(k.n, k.n.incarnation, 100+k.w.delay()/4, func() { k.step(p, l, &worker.Event{Kind: worker.Computed}) })
		case worker.Acked:
			k.report(p, l, false)
		case worker.Torn:
			k.send1(p, l, wire.Report{Torn: true})
		case worker.Fault:
			k.w.fail("%s: fault: %v", k.n.name, e.Err)
		case worker.Over:
			delete(k.loops, p)
		}
	}
}

func (k *workerNode) send(p int, l *loop, e worker.Effect) {
	if k.loops[p] != l {
		return
	}
	hdr := ps.Event{Generation: l.generation, Partition: p, Epoch: l.epoch, Round: e.Batch.Round}
	var ids []uint64
	kind := worker.Fenced
	switch e.Kind {
	case worker.SendFence:
		hdr.Kind = ps.Fence
	case worker.SendPull:
		hdr.Kind, kind = ps.Pull, worker.Pulled
		ids = k.ids(p, e.Batch.Range)
	case worker.SendPush:
		hdr.Kind, kind = ps.Push, worker.Pushed
		hdr.Range, hdr.Members = e.Batch.Range, slices.Clone(e.Batch.Members)
		hdr.Floor, hdr.Examples = e.Batch.Range.First, e.Batch.Range.Next-e.Batch.Range.First
		hdr.Payload = gradient{k.ids(p, e.Batch.Range), l.grad}
	}
	k.w.call(k.n, l.pss[e.PS], func(n *node, answer func(any, error)) {
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

// report tells the leader where a partition stands and all that it could take.
func (k *workerNode) report(p int, l *loop, joined bool) {
	r := wire.Report{Joined: joined, Next: l.Next(), Acked: l.Next(), AtEnd: true, End: int64(len(k.w.rows(p)))}
	// Offers count from the cut of the generation on, as batches do.
	from, end, b := k.asg.Cut[p], r.End, k.w.cfg.Batch
	if n := (end - from) / b; n > 0 {
		r.Offers = append(r.Offers, wire.Offer{First: from, Step: b, Count: n})
		from += n * b
	}
	if from < end {
		r.Offers = append(r.Offers, wire.Offer{First: from, Step: end - from, Count: 1})
	}
	k.send1(p, l, r)
}

func (k *workerNode) send1(p int, l *loop, r wire.Report) {
	r.Partition, r.Generation, r.Epoch = p, l.generation, l.epoch
	k.w.call(k.n, k.asg.Leader.ID, func(n *node, answer func(any, error)) {
		if n.trainer != nil {
			n.trainer.step(&trainer.Event{Kind: trainer.ReportIn, Report: r})
		}
		answer(nil, nil)
	}, func(_ any, err error) {
		if err != nil && k.loops[p] == l {
			// The stream to the trainer broke: say everything again.
			if r.Torn {
				k.send1(p, l, r)
			} else if l.joined {
				k.report(p, l, true)
			}
		}
	})
}

// trainerNode runs a trainer core while its node leads.
type trainerNode struct {
	w    *World
	n    *node
	core *trainer.Core
	rev  uint64 // of the record this leader wrote last
	// parts are what ps have written, by snapshot and ps.
	parts map[int64]map[string]psMark
}

func newTrainerNode(w *World, n *node) *trainerNode { return &trainerNode{w: w, n: n} }

func (t *trainerNode) lead() {
	t.core = trainer.NewCore(trainer.CoreConfig{
		Staleness: t.w.cfg.Staleness, Batch: t.w.cfg.Batch, Window: 8 * t.w.cfg.Batch, Every: t.w.cfg.Every,
		Partitions: t.w.cfg.Partitions, Shards: t.w.cfg.Shards, End: t.w.ends(),
	})
	a := t.w.records.asg
	t.rev = t.w.records.rev
	a.Leader = tidemill.Member{ID: t.n.id()}
	a.Partitions, a.Shards, a.Origins = slices.Clone(a.Partitions), slices.Clone(a.Shards), slices.Clone(a.Origins)
	t.step(&trainer.Event{Kind: trainer.Lead, Assignment: a})
}

func (t *trainerNode) members(workers map[string]int, pss []string) {
	if t.core != nil {
		t.step(&trainer.Event{Kind: trainer.Members, Workers: workers, PS: pss})
	}
}

func (t *trainerNode) step(ev *trainer.Event) {
	if t.core == nil {
		return
	}
	core := t.core
	later := func(d int64, ev trainer.Event) {
		t.w.on(t.n, t.n.incarnation, d, func() {
			if t.core == core {
				t.step(&ev)
			}
		})
	}
	for _, e := range slices.Clone(core.Step(ev)) {
		switch e.Kind {
		case trainer.AppendFence:
			t.w.on(t.n, t.n.incarnation, t.w.delay(), func() {
				if t.core != core {
					return
				}
				r := tidemill.Assignment{Cut: make(tidemill.Cut, t.w.cfg.Partitions)}
				for i, m := range t.w.chain {
					r.Generation = max(r.Generation, m.generation)
					if !m.fence {
						r.Snapshot, r.Cut, r.Round, r.Examples = int64(i+1), m.cut, m.round, m.examples
					}
				}
				t.w.chain = append(t.w.chain, entry{fence: true, generation: max(r.Generation, core.Assignment().Generation)})
				later(t.w.delay(), trainer.Event{Kind: trainer.Recovered, Number: int64(len(t.w.chain) + 1), Assignment: r})
			})
		case trainer.WriteAssignment:
			t.w.on(t.n, t.n.incarnation, t.w.delay(), func() {
				if t.w.records.rev != t.rev {
					later(0, trainer.Event{Kind: trainer.NotAssigned})
					return
				}
				t.w.write(e.Assignment)
				t.rev = t.w.records.rev
				later(t.w.delay(), trainer.Event{Kind: trainer.Assigned})
			})
		case trainer.Grant:
			asg := core.Assignment()
			dst, dstIncarnation := t.w.member(e.Member)
			if dst == nil {
				continue
			}
			deliver := func() {
				if dst.worker == nil {
					return
				}
				l := dst.worker.loops[e.Partition]
				if l != nil && l.generation == asg.Generation && l.joined {
					dst.worker.step(e.Partition, l, &worker.Event{Kind: worker.Granted, Run: e.Run})
				}
			}
			if t.w.rng.Float64() < t.w.cfg.Loss {
				// The stream broke: its owner notices and joins again.
				t.w.on(dst, dstIncarnation, rpcLimit/2, func() {
					if dst.worker != nil {
						if l := dst.worker.loops[e.Partition]; l != nil && l.joined {
							dst.worker.report(e.Partition, l, true)
						}
					}
				})
				continue
			}
			t.w.on(dst, dstIncarnation, t.w.delay(), deliver)
		case trainer.TakeSnapshot:
			t.snapshot(core, e, later)
		case trainer.Commit:
			// The manifest is composed from what was written, and appended create-only.
			parts := t.parts
			gen := core.Assignment().Generation
			t.w.on(t.n, t.n.incarnation, t.w.delay(), func() {
				if int64(len(t.w.chain)) != e.Number-1 {
					later(0, trainer.Event{Kind: trainer.Beaten, Number: e.Number})
					return
				}
				m := entry{generation: gen, cut: e.Cut, round: e.Round, shards: emptyShards(t.w.cfg.Shards)}
				seen := map[int]bool{}
				for _, part := range parts[e.Number] {
					for i, s := range part.shards {
						if seen[i] {
							t.w.fail("shard %d is in two parts of snapshot %d", i, e.Number)
						}
						seen[i] = true
						m.shards[i] = s
					}
				}
				if len(seen) != t.w.cfg.Shards {
					t.w.fail("snapshot %d has %d of %d shards", e.Number, len(seen), t.w.cfg.Shards)
				}
				for p, next := range e.Cut {
					m.examples += next - t.w.first(p)
				}
				t.w.commit(m)
				later(t.w.delay(), trainer.Event{Kind: trainer.Committed, Number: e.Number})
			})
		case trainer.Depose:
			t.core = nil
			if t.w.leader == t.n.id() {
				t.w.leader = "" // it will be elected again, or another one
			}
		}
		if t.core == nil {
			return
		}
	}
}

func (t *trainerNode) snapshot(core *trainer.Core, e trainer.Effect, later func(int64, trainer.Event)) {
	parts := map[string]psMark{}
	if t.parts == nil {
		t.parts = map[int64]map[string]psMark{}
	}
	t.parts[e.Number] = parts
	gen := core.Assignment().Generation
	for _, name := range e.PS {
		var try func()
		try = func() {
			t.w.call(t.n, name, func(n *node, answer func(any, error)) {
				if n.ps == nil {
					answer(nil, tidemill.ErrUnavailable)
					return
				}
				n.ps.ask(ps.Event{Kind: ps.Snapshot, Generation: gen, Round: e.Round, Cut: e.Cut}, nil, answer)
			}, func(v any, err error) {
				if t.core != core {
					return
				}
				if errors.Is(err, tidemill.ErrUnavailable) || errors.Is(err, tidemill.ErrNotReady) {
					// Nothing is granted beyond the cut until all have captured it, so asking
					// again gives the same state.
					if core.Assignment().Generation == gen {
						t.w.on(t.n, t.n.incarnation, t.w.delay(), try)
					}
					return
				}
				if err != nil {
					later(0, trainer.Event{Kind: trainer.Lost, Number: e.Number, Member: name})
					return
				}
				parts[name] = v.(psMark)
				later(0, trainer.Event{Kind: trainer.Marked, Number: e.Number, Member: name})
				later(t.w.delay()*3, trainer.Event{Kind: trainer.Written, Number: e.Number, Member: name})
			})
		}
		try()
	}
}

// servingNode serves the newest champion that it has seen.
type servingNode struct {
	seen   int
	serves int
}

func (s *servingNode) poll(w *World) {
	for ; s.seen < len(w.champs); s.seen++ {
		if v := w.champs[s.seen].version; v >= 0 {
			s.serves = v + 1
		}
	}
	if s.serves > 0 {
		published := false
		for _, c := range w.champs {
			published = published || c.version == s.serves-1
		}
		if !published {
			w.fail("version %d is served and was never published", s.serves-1)
		}
	}
}

// write is the compare-and-set on the assignment record; whoever gets here has won.
func (w *World) write(a tidemill.Assignment) {
	check := func(what string, i int, o tidemill.Owner) {
		if o.Member == "" {
			return
		}
		key := fmt.Sprintf("%s %d epoch %d", what, i, o.Epoch)
		if was, ok := w.owners[key]; ok && was != o.Member {
			w.fail("%s belongs to %s and to %s", key, was, o.Member)
		}
		w.owners[key] = o.Member
	}
	for i, o := range a.Shards {
		check("shard", i, o)
	}
	for i, o := range a.Partitions {
		check("partition", i, o)
	}
	if a.Generation < w.records.asg.Generation {
		w.fail("generation goes back from %d to %d", w.records.asg.Generation, a.Generation)
	}
	a.Shards, a.Partitions, a.Origins = slices.Clone(a.Shards), slices.Clone(a.Partitions), slices.Clone(a.Origins)
	w.records.asg = a
	w.records.rev++
	w.trace("assignment %d generation %d snapshot %d", a.Seq, a.Generation, a.Snapshot)
	for _, name := range w.names {
		if n := w.nodes[name]; n.up {
			w.tell(n)
		}
	}
}

// commit appends a manifest after checking its ledger against the stream.
func (w *World) commit(m entry) {
	for i := len(w.chain) - 1; i >= 0; i-- {
		if prev := w.chain[i]; !prev.fence {
			for p := range prev.cut {
				if m.cut[p] < prev.cut[p] {
					w.fail("cut of partition %d goes back from %d to %d", p, prev.cut[p], m.cut[p])
				}
			}
			break
		}
	}
	want := map[uint64]int64{}
	for p, next := range m.cut {
		for _, id := range w.rows(p)[w.first(p):next] {
			want[id]++
		}
	}
	got := map[uint64]int64{}
	for i, s := range m.shards {
		for id, n := range s.count {
			if tidemill.ShardOf(id, w.cfg.Shards) != i {
				w.fail("id %d lies in shard %d", id, i)
			}
			got[id] += n
		}
	}
	if !maps.Equal(got, want) {
		for id := range want {
			if got[id] != want[id] {
				w.fail("ledger at cut %v: id %d was counted %d times and seen %d times", m.cut, id, got[id], want[id])
			}
		}
		w.fail("ledger at cut %v counts ids that were never seen", m.cut)
	}
	w.chain = append(w.chain, m)
	w.trace("snapshot %d at %v round %d", len(w.chain), m.cut, m.round)
	// A gate of sorts: two out of three candidates are published, each once.
	if w.rng.IntN(3) > 0 {
		w.champs = append(w.champs, champion{version: len(w.chain) - 1, by: w.leader})
	}
	done := true
	for p, next := range m.cut {
		done = done && next == int64(len(w.rows(p)))
	}
	if done {
		w.final = &w.chain[len(w.chain)-1]
	}
}
