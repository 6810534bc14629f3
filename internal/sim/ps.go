package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps"
)

// psNode runs a ps core over counting shards: what ps.Server and its jobs do around the core.
type psNode struct {
	w      *World
	n      *node
	core   *ps.Core
	asg    tidemill.Assignment
	shards map[int]shard
	since  map[int]*since // by shard
	// arriving are shards on their way here; touched is what changed in those that another ps
	// copies.
	arriving map[int]shard
	stored   map[int]*since // what came with them of the last snapshots
	touched  map[int]map[uint64]bool
	nextID   uint64
	calls    map[uint64]*psCall
	fault    error // answers everything in the generation that it was found in
	watch    psWatch
}

type psCall struct {
	ev     ps.Event
	answer func(any, error)
	ids    []uint64
}

type psMark struct {
	shards   map[int]mark
	examples int64
	attempt  int64
}

// gradient is a push's payload.
type gradient struct {
	ids        []uint64
	grad       uint64
	generation uint64
}

func newPSNode(w *World, n *node) *psNode {
	return &psNode{
		w: w, n: n, core: ps.NewCore(w.cfg.Staleness), calls: map[uint64]*psCall{},
		shards: map[int]shard{}, since: map[int]*since{}, arriving: map[int]shard{}, stored: map[int]*since{}, touched: map[int]map[uint64]bool{},
	}
}

func (p *psNode) assigned(a tidemill.Assignment) {
	if a.Seq <= p.asg.Seq {
		return
	}
	p.asg = a
	if a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
		// The job is dropped; whoever waits for a round that will not come is told.
		p.step(&ps.Event{Kind: ps.Assign, Generation: a.Generation + 1})
		p.core, p.fault = ps.NewCore(p.w.cfg.Staleness), nil
		clear(p.shards)
		clear(p.since)
		clear(p.arriving)
		clear(p.touched)
		clear(p.calls)
		return
	}
	epochs := make([]uint64, len(a.Partitions))
	for i, o := range a.Partitions {
		epochs[i] = o.Epoch
	}
	mine := make([]bool, len(a.Shards))
	for i, o := range a.Shards {
		mine[i] = o.Member == p.n.id()
	}
	p.step(&ps.Event{Kind: ps.Assign, Seq: a.Seq, Generation: a.Generation, Epochs: epochs, Routes: a.Routes(), Shards: mine, Cut: a.Cut})
}

func (p *psNode) step(ev *ps.Event) {
	for _, e := range slices.Clone(p.core.Step(ev)) {
		switch e.Kind {
		case ps.Restore:
			p.fault = nil
			if slices.ContainsFunc(p.asg.Shards, func(o tidemill.Owner) bool { return o.Member == p.n.id() }) {
				p.restore(p.asg)
			} else {
				p.shards, p.since = map[int]shard{}, map[int]*since{}
			}
		case ps.Apply:
			g := e.Payload.(gradient)
			p.watch.applied(p, &e, g)
			for i, id := range g.ids {
				k := tidemill.ShardOf(id, p.w.cfg.Shards)
				if s, ok := p.shards[k]; ok {
					s.apply(id, g.grad, i)
					p.since[k].rows[id] = true
				}
				if t := p.touched[tidemill.ShardOf(id, p.w.cfg.Shards)]; t != nil {
					t[id] = true
				}
			}
		case ps.Fetch, ps.FetchRest:
			p.fetch(e)
		case ps.Discard:
			delete(p.arriving, e.Shard)
		case ps.Install:
			p.install(e)
		case ps.Drop:
			delete(p.shards, e.Shard)
			delete(p.since, e.Shard)
		case ps.Forget:
			delete(p.touched, e.Shard)
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
						sum += s.pull(id)
					}
				}
				c.answer(sum, nil)
			case ps.Accept:
				if c.ev.Kind == ps.Push {
					p.watch.accepted(p, &c.ev)
				}
				c.answer(nil, nil)
			case ps.Fenced:
				p.watch.fenced(p, &c.ev)
				c.answer(e.Held, nil)
			case ps.Give, ps.GiveRest:
				c.answer(p.give(e), nil)
			case ps.Capture:
				p.watch.captured(p, &c.ev)
				m := psMark{map[int]mark{}, p.core.Examples(), e.Attempt}
				for i, s := range p.shards {
					p.since[i].settle(e.Base)
					m.shards[i] = p.since[i].take(s)
				}
				c.answer(m, nil)
			}
		}
	}
}

// restore loads this member's shards as of the assignment's snapshot, unless a newer
// generation has begun meanwhile.
func (p *psNode) restore(a tidemill.Assignment) {
	goes := func() bool {
		g, ready := p.core.Generation()
		return p.n.ps == p && g == a.Generation && !ready
	}
	mine := func(i int) bool { return i < len(a.Shards) && a.Shards[i].Member == p.n.id() }
	var shards []shard
	var parts []snapshot.Part
	p.w.again(p.n, goes, p.w.process, func(ctx context.Context, b *blob.Bucket) error {
		shards = emptyShards(len(a.Shards))
		if a.Snapshot == 0 {
			return nil
		}
		chain, err := snapshot.Snapshots(b, jobName)
		if err != nil {
			return err
		}
		m, err := snapshot.ReadManifest(ctx, chain, a.Snapshot)
		if err != nil {
			return err
		}
		parts = m.Parts
		shards, err = readParts(ctx, b, m.Parts, len(a.Shards), mine)
		return err
	}, func(err error) {
		if err != nil {
			p.fault = fmt.Errorf("ps: restore snapshot %d: %w", a.Snapshot, err)
			return
		}
		p.shards, p.since = map[int]shard{}, map[int]*since{}
		for i := range shards {
			if mine(i) {
				p.shards[i], p.since[i] = shards[i], newSince()
			}
		}
		for _, part := range parts {
			for _, i := range part.Shards {
				if mine(i) {
					p.since[i] = loadedFrom(part.Base(i, tableName))
				}
			}
		}
		p.watch.restored(p, a)
		p.step(&ps.Event{Kind: ps.Restored, Generation: a.Generation, Number: a.Snapshot, Cut: a.Cut, Round: a.Round, Examples: a.Examples})
	})
}

// ask runs an event that has an answer, if this process may still act for the job.
func (p *psNode) ask(ev ps.Event, ids []uint64, answer func(any, error)) {
	if !p.n.alive() {
		answer(nil, fmt.Errorf("ps: this process has lost its session lease: %w", tidemill.ErrFenced))
		return
	}
	if g, _ := p.core.Generation(); p.fault != nil && ev.Generation == g {
		answer(nil, p.fault)
		return
	}
	p.nextID++
	ev.ID = p.nextID
	p.calls[ev.ID] = &psCall{ev, answer, ids}
	p.step(&ev)
}

// snapshot captures, tells that it has, writes what it captured, and answers with a Part.
func (p *psNode) snapshot(ev ps.Event, number int64, marked func(), answer func(any, error)) {
	p.ask(ev, nil, func(v any, err error) {
		if err != nil {
			answer(nil, err)
			return
		}
		m := v.(psMark)
		marked()
		if !p.n.alive() {
			answer(nil, fmt.Errorf("ps: this process has lost its session lease: %w", tidemill.ErrFenced))
			return
		}
		prefix, err := snapshot.PartName{
			Job: jobName, Number: number, Generation: ev.Generation, Epoch: p.asg.Seq, Attempt: m.attempt, Member: p.n.id(),
		}.Prefix()
		if err != nil {
			answer(nil, err)
			return
		}
		var part snapshot.Part
		p.w.do(p.n, func(ctx context.Context, b *blob.Bucket) (err error) {
			part, err = writePart(ctx, b, prefix, m.shards)
			return err
		}, func(err error) {
			if errors.Is(err, tidemill.ErrUnavailable) {
				// Whether it was written is not known; the answer says no.
				err = fmt.Errorf("ps: write snapshot %d: %w", number, tidemill.ErrFull)
			}
			if err == nil {
				for i, x := range m.shards {
					x.tried.wrote, x.tried.done = part.Base(i, tableName), true
				}
			}
			answer(written{part, m.examples}, err)
		})
	})
}

// written is what a ps answers to a snapshot.
type written struct {
	part     snapshot.Part
	examples int64
}
