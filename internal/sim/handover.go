package sim

import (
	"errors"
	"maps"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
)

// handed is what one ps sends another of a shard: all of it, or what has changed.
type handed struct {
	copy   uint64
	whole  bool
	shard  shard
	ledger *wire.Ledger
	since  *since // with the ledger
}

// merge puts what h brings into s.
func (s shard) merge(h handed) {
	maps.Copy(s.count, h.shard.count)
	maps.Copy(s.value, h.shard.value)
}

// give is the effect Give or GiveRest: the shard, or what was touched since it was last given.
func (p *psNode) give(e ps.Effect) handed {
	s := p.shards[e.Shard]
	h := handed{copy: e.Copy, whole: e.Whole, ledger: e.Ledger}
	if e.Whole {
		h.shard = s.clone()
	} else {
		h.shard = newShard()
		for id := range p.touched[e.Shard] {
			h.shard.count[id], h.shard.value[id] = s.count[id], s.value[id]
		}
	}
	p.touched[e.Shard] = map[uint64]bool{}
	if e.Kind == ps.GiveRest {
		h.since = p.since[e.Shard].clone()
	}
	return h
}

// fetch is the effect Fetch or FetchRest.
func (p *psNode) fetch(e ps.Effect) {
	a := p.asg
	req := ps.Event{Kind: ps.Copy, Generation: a.Generation, Routes: a.Routes(), Shard: e.Shard, Copy: e.Copy, Round: e.Round, Cut: e.Cut}
	done := ps.Event{Kind: ps.Fetched, ID: e.ID, Shard: e.Shard, Copy: e.Copy}
	if e.Kind == ps.FetchRest {
		req.Kind, done.Kind = ps.CopyRest, ps.Settled
	} else {
		p.arriving[e.Shard] = newShard()
	}
	into := p.arriving[e.Shard]
	passes := 1 + p.w.rng.IntN(3)
	var pass func()
	pass = func() {
		p.w.call(p.n, a.Shards[e.Shard].Member, "copy", func(n *node, answer func(any, error)) {
			if n.ps == nil {
				answer(nil, tidemill.ErrUnavailable)
				return
			}
			n.ps.ask(req, nil, answer)
		}, func(v any, err error) {
			done.Err = err
			if h, ok := v.(handed); ok && err == nil {
				into.merge(h)
				p.stored[e.Shard] = h.since
				done.Copy, done.Ledger, req.Copy = h.copy, h.ledger, h.copy
				if passes--; passes > 0 && req.Kind == ps.Copy {
					pass()
					return
				}
			}
			p.step(&done)
		})
	}
	pass()
}

// adopt is the trainer's CopyShard or SettleShard.
func (t *trainerNode) adopt(core *trainer.Core, e trainer.Effect) {
	a := core.Assignment()
	ev := ps.Event{Kind: ps.Adopt, Generation: a.Generation, Routes: a.Routes(), Shard: e.Shard, Round: e.Round, Cut: e.Cut}
	done := trainer.Event{Kind: trainer.Copied, Number: e.Number}
	if e.Kind == trainer.SettleShard {
		ev.Kind, done.Kind = ps.Settle, trainer.Settled
	}
	tries := 3
	var try func()
	try = func() {
		t.w.call(t.n, e.Member, "adopt", func(n *node, answer func(any, error)) {
			if n.ps == nil {
				answer(nil, tidemill.ErrUnavailable)
				return
			}
			n.ps.ask(ev, nil, answer)
		}, func(_ any, err error) {
			if t.core != core {
				return
			}
			if errors.Is(err, tidemill.ErrUnavailable) || errors.Is(err, tidemill.ErrNotReady) {
				if tries--; tries > 0 {
					t.w.on(t.n, t.n.incarnation, t.w.delay(), try)
					return
				}
			}
			if err != nil {
				t.w.say("shard %d does not move to %s: %v", e.Shard, e.Member, err)
				t.post(core, trainer.Event{Kind: trainer.Unmoved, Number: e.Number})
				return
			}
			t.post(core, done)
		})
	}
	try()
}

// install puts an arrived shard among those of this ps.
func (p *psNode) install(e ps.Effect) {
	if len(p.shards) == 0 {
		p.watch.began(p, p.asg.Generation, p.core.Cut())
	}
	p.shards[e.Shard], p.since[e.Shard] = p.arriving[e.Shard], p.stored[e.Shard]
	if e.Whole || p.since[e.Shard] == nil {
		p.since[e.Shard] = newSince()
	}
	delete(p.arriving, e.Shard)
	delete(p.stored, e.Shard)
	p.w.moved++
}

// drainLooks is how often drain looks whether a node still owns something.
const drainLooks = 20

// drain makes a node leave in order: its session says so, and it goes once it owns nothing, or
// after a while.
func (w *World) drain(n *node, looks int, back func()) {
	s := n.session
	if s == nil || !n.up || s.over {
		return
	}
	if looks == drainLooks {
		s.value = n.id() + leavingMark // others see it with the next renewal
	}
	owns := false
	for _, owners := range [][]tidemill.Owner{w.records.asg.Partitions, w.records.asg.Shards} {
		for _, o := range owners {
			owns = owns || o.Member == n.id()
		}
	}
	if owns && looks > 0 && !ended(w.records.asg.State) {
		w.on(n, n.incarnation, leaseRenew/3, func() {
			if n.session == s {
				w.drain(n, looks-1, back)
			}
		})
		return
	}
	if t := n.trainer; t != nil && looks > 0 && t.rests(s, func() { w.drain(n, looks-1, back) }) {
		return
	}
	w.say("%s goes, drained %v", n.id(), !owns)
	if owns {
		w.late++
	} else {
		w.drained++
	}
	w.leave(n)
	back()
}

// leave gives up what a node holds and stops it.
func (w *World) leave(n *node) {
	if n.session != nil && n.pausedUntil <= w.now {
		if n.trainer != nil {
			n.trainer.election.release()
		}
		n.session.release()
	}
	w.crash(n)
}
