package sim

import (
	"fmt"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// clients submit, produce, promote and ask; they try again until they are acknowledged, and
// remember what was.
type clients struct {
	produced  map[string]produced // acknowledged appends by key
	submitted map[string]bool     // acknowledged jobs
	promoted  map[string]int64    // why → version, acknowledged
	asked     int
	tries     int
}

type produced struct {
	partition int
	rng       tidemill.Range
	rows      []uint64
}

// patient is how often a client tries before it gives up.
const patient = 12

// submit asks for the job of this world.
func (c *clients) submit(w *World) {
	n := w.nodes["client"]
	a := tidemill.Assignment{Job: jobName, State: tidemill.JobSubmitted, Lineage: "only", Cut: make(tidemill.Cut, w.cfg.Partitions)}
	a.Spec.Model, a.Spec.Shards = modelName, w.cfg.Shards
	a.Spec.Gate = tidemill.GateSpec{Prove: tidemill.ProveHarm, MinExamples: 6, MaxExamples: 60, Alpha: 0.05, Clip: 0.5, Margin: 0.01}
	if w.cfg.Bounded {
		a.Spec.Train.End = make(tidemill.Cut, len(w.log))
		for p := range w.log {
			a.Spec.Train.End[p] = int64(len(w.log[p]))
		}
	}
	c.ask(w, n, 1<<30, "kv", func(_ *node, answer func(any, error)) {
		if w.records.rev == 0 {
			w.records = record{rev: 1, asg: a}
		}
		answer(nil, nil)
	}, func(any) { c.submitted = map[string]bool{jobName: true} })
}

// ask calls until it is answered well, at most tries times.
func (c *clients) ask(w *World, n *node, tries int, to string, serve func(n *node, answer func(any, error)), done func(any)) {
	w.call(n, to, "client", serve, func(v any, err error) {
		if err == nil {
			done(v)
			return
		}
		if tries > 1 {
			w.on(n, n.incarnation, 50*ms, func() { c.ask(w, n, tries-1, to, serve, done) })
		}
	})
}

// leader is where a client's request to the trainer goes: to whoever seems to lead.
func (w *World) leader() string {
	for _, n := range w.roles("t") {
		if n.trainer != nil && n.trainer.leads {
			return n.id()
		}
	}
	return "t1"
}

// produce appends rows under a key of its own.
func (c *clients) produce(w *World, p, count int) {
	if p >= len(w.log) {
		return
	}
	n := w.nodes["client"]
	c.tries++
	key := fmt.Sprintf("client/%09d", c.tries)
	rows := w.draw(count)
	c.ask(w, n, patient, "log", func(_ *node, answer func(any, error)) {
		answer(w.broker.append(p, key, rows, w.disk.lying > 0), nil)
	}, func(v any) {
		if c.produced == nil {
			c.produced = map[string]produced{}
		}
		c.produced[key] = produced{p, v.(tidemill.Range), rows}
	})
}

// promote makes some version serve.
func (c *clients) promote(w *World) {
	n := w.nodes["client"]
	c.tries++
	why := fmt.Sprintf("try %0*d", 1+c.tries%7, c.tries)
	var try func(left int)
	try = func(left int) {
		c.ask(w, n, 1, w.leader(), func(n *node, answer func(any, error)) {
			if n.trainer == nil || n.trainer.val == nil {
				answer(nil, fmt.Errorf("another one leads: %w", tidemill.ErrNotReady))
				return
			}
			n.trainer.val.promote("client", why, answer)
		}, func(v any) {
			if c.promoted == nil {
				c.promoted = map[string]int64{}
			}
			c.promoted[why] = v.(int64)
		})
		if left > 1 {
			w.on(n, n.incarnation, 2*rpcLimit, func() {
				if _, ok := c.promoted[why]; !ok {
					try(left - 1)
				}
			})
		}
	}
	try(3)
}

// predict asks a serving replica.
func (c *clients) predict(w *World, to string) {
	c.ask(w, w.nodes["client"], 2, to, func(n *node, answer func(any, error)) {
		if n.serving == nil {
			answer(nil, fmt.Errorf("no server: %w", tidemill.ErrUnavailable))
			return
		}
		n.serving.predict(answer)
	}, func(v any) {
		c.asked++
		w.checks.answered(w, to, v.(int64))
	})
}

// control hands the leading trainer's core an event.
func (c *clients) control(w *World, ev trainer.Event) {
	c.ask(w, w.nodes["client"], patient, w.leader(), func(n *node, answer func(any, error)) {
		if n.trainer == nil || n.trainer.core == nil {
			answer(nil, fmt.Errorf("another one leads: %w", tidemill.ErrNotReady))
			return
		}
		e := ev
		n.trainer.step(&e)
		answer(nil, nil)
	}, func(any) {})
}

// finish brings an unbounded job to its end once everything is trained, again and again until
// it is there.
func (c *clients) finish(w *World) {
	a := &w.records.asg
	if w.records.rev > 0 && !ended(a.State) {
		whole := w.checks.cut != nil && len(w.checks.cut) == len(a.Partitions)
		for p, next := range w.checks.cut {
			whole = whole && next >= int64(len(w.rows(p)))
		}
		switch {
		case a.State == tidemill.JobPaused:
			c.control(w, trainer.Event{Kind: trainer.Resume})
		case a.Spec.Train.End != nil:
		case whole:
			c.control(w, trainer.Event{Kind: trainer.Stop, Final: tidemill.JobFinished})
		default:
			c.control(w, trainer.Event{Kind: trainer.Due})
		}
	}
	w.on(w.nodes["client"], w.nodes["client"].incarnation, watchEvery, func() { c.finish(w) })
}
