package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/wire"
)

// loop trains one partition in one generation, under one map of the shards: it carries out the
// effects of its Core. All of it belongs to one goroutine but for the fields that say otherwise.
type loop struct {
	w          *Worker
	job        string
	partition  int
	generation uint64
	epoch      uint64
	routes     uint64
	origin     tidemill.Origin
	identity   string       // of the origin's topic; "": not known
	end        atomic.Int64 // of what is to be read; -1: no end. Any goroutine may set it.
	linger     time.Duration
	step       int64 // rows per batch

	core  *Core
	todo  []Effect
	peers []tidemill.Member
	ps    []wire.PS
	m     *model.Model
	batch *batcher

	grants   grants        // from the link's goroutine
	relinked chan struct{} // the link was made anew; capacity 1
	link     atomic.Pointer[link]

	in       *reading // nil until opened
	offers   []wire.Offer
	upTo     int64 // offers end there
	welcome  bool  // the trainer has said where it stands
	joined   bool
	torn     bool
	pending  time.Time // when the short batch at the log's end was first seen; zero if none
	reported int64     // acknowledged below, as last reported
	fresh    bool      // something to report
	started  time.Time
	computed time.Duration
}

func newLoop(w *Worker, a *tidemill.Assignment, partition int, m *model.Model, l *link) *loop {
	o := &loop{
		w: w, job: a.Job, partition: partition, generation: a.Generation, epoch: a.Partitions[partition].Epoch, routes: a.Routes(),
		origin: a.Origin(partition), linger: a.Spec.Train.Linger, step: int64(a.Spec.Train.Batch), m: m,
		grants: grants{wake: make(chan struct{}, 1)}, relinked: make(chan struct{}, 1),
	}
	if o.identity = o.origin.Identity; o.origin.Topic == a.Spec.Stream.Topic {
		o.identity = a.Identity
	}
	o.end.Store(endOf(a, partition))
	for _, id := range a.PSes() {
		o.peers = append(o.peers, a.Members[id])
	}
	o.core = NewCore(CoreConfig{Partition: partition, Staleness: a.Spec.Train.Staleness, PS: len(o.peers), Keep: Keeps(&a.Spec.Train)})
	o.batch = newBatcher(o, a)
	o.link.Store(l)
	return o
}

// endOf returns the offset at which a partition of the job ends, or -1.
func endOf(a *tidemill.Assignment, partition int) int64 {
	if e := a.Spec.Train.End; partition < len(e) {
		return e[partition]
	}
	if end := a.Origin(partition).End; end > 0 {
		return end
	}
	return -1
}

// use makes l the link for reports from now on. Any goroutine may call it.
func (o *loop) use(l *link) {
	if o.link.Swap(l) != l {
		l.add(o)
		o.linked()
	}
}

// linked tells the loop that the trainer may have missed what it said. Any goroutine may call it.
func (o *loop) linked() {
	select {
	case o.relinked <- struct{}{}:
	default:
	}
}

// grants is a queue without a bound of its own: the trainer grants no more than its window, and
// a loop that waits for another partition of its round must not keep the link from bringing
// that one its grants.
type grants struct {
	wake chan struct{} // holds one: something was queued

	mu    sync.Mutex
	queue []wire.Grant // guarded by mu
}

// put queues a grant. The link's goroutine calls it; it does not wait.
func (q *grants) put(g wire.Grant) {
	q.mu.Lock()
	q.queue = append(q.queue, g)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (q *grants) take() []wire.Grant {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.queue
	q.queue = nil
	return all
}

// open connects to the parameter servers and opens the topic, unless that is open.
func (o *loop) open(ctx context.Context) error {
	return o.again(ctx, func() error {
		o.ps = o.ps[:0]
		for _, m := range o.peers {
			ps, err := o.w.cfg.PS(ctx, m)
			if err != nil {
				return err
			}
			o.ps = append(o.ps, ps)
		}
		if o.in != nil {
			return nil
		}
		topic, err := source.OpenLog(ctx, o.w.cfg.Source, &o.m.Spec.Stream, o.origin.Topic)
		if err != nil {
			return err
		}
		info, err := topic.Info(ctx)
		switch {
		case err != nil:
		case o.identity != "" && info.Identity != o.identity:
			err = fmt.Errorf("topic %q was made again since the job began: %w", o.origin.Topic, tidemill.ErrInvalid)
		case o.origin.Partition >= info.Partitions:
			err = fmt.Errorf("partition %d of topic %q is not known here yet: %w", o.origin.Partition, o.origin.Topic, tidemill.ErrNotReady)
		}
		if err != nil {
			topic.Close()
			return err
		}
		o.in = &reading{topic: topic}
		return nil
	})
}

// again repeats try until it succeeds, fails in a way that will not pass, or ctx ends.
func (o *loop) again(ctx context.Context, try func() error) error {
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		err := try()
		if err == nil || !errors.Is(err, tidemill.ErrUnavailable) && !errors.Is(err, tidemill.ErrNotReady) {
			return err
		}
		o.w.cfg.Logger.Warn("will try again", "what", "begin a partition", "job", o.job, "partition", o.partition, "err", err)
		if !pause(ctx, wait) {
			return err
		}
	}
}

func (o *loop) run(ctx context.Context) error {
	if err := o.open(ctx); err != nil {
		return o.fault(ctx, err)
	}
	if err := o.feed(ctx, &Event{Kind: Begin}); err != nil {
		return err
	}
	if !o.joined {
		return o.last(ctx, nil)
	}
	if err := o.again(ctx, func() error { return o.begin(ctx) }); err != nil {
		return o.fault(ctx, err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, err := o.offer()
		if err != nil {
			return o.fault(ctx, err)
		}
		o.tell()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-o.grants.wake:
			for _, g := range o.grants.take() {
				if ev, ok := o.granted(g); !ok {
					continue
				} else if err = o.feed(ctx, &ev); err != nil {
					break
				}
			}
		case <-o.relinked:
			o.report(true)
		case p := <-o.in.rows.more():
			o.in.rows.take(p)
		case <-timer.C:
		}
		if err != nil {
			return err
		}
	}
}

// granted takes note of a grant. It returns the event that it is for the core, if it grants anything.
func (o *loop) granted(g wire.Grant) (Event, bool) {
	o.welcome = true
	if g.Next > o.upTo {
		o.offers, o.upTo = o.offers[:0], g.Next
	}
	// Offers that are granted are no longer offered.
	for len(o.offers) > 0 {
		f := &o.offers[0]
		n := min(f.Count, max(0, g.Next-f.First)/f.Step)
		f.First, f.Count = f.First+n*f.Step, f.Count-n
		if f.Count > 0 {
			break
		}
		o.offers = o.offers[1:]
	}
	if g.Run.Count == 0 {
		o.fresh = true
		return Event{}, false
	}
	return Event{Kind: Granted, Run: g.Run}, true
}

// offer extends the offers by what can be read now. It returns how long to wait before
// looking again.
func (o *loop) offer() (time.Duration, error) {
	const idle = time.Second
	if !o.welcome {
		return idle, nil
	}
	end, err := o.in.rows.logEnd()
	if err != nil {
		return 0, err
	}
	last := o.end.Load()
	bounded := last >= 0
	if bounded {
		end = min(end, last)
	}
	if n := (end - o.upTo) / o.step; n > 0 {
		o.extend(wire.Offer{First: o.upTo, Step: o.step, Count: n})
		o.pending = time.Time{}
	}
	rest := end - o.upTo
	if rest <= 0 {
		o.pending = time.Time{}
		return idle, nil
	}
	if bounded && end == last {
		o.extend(wire.Offer{First: o.upTo, Step: rest, Count: 1})
		return idle, nil
	}
	if o.pending.IsZero() {
		o.pending = time.Now()
		o.fresh = true // at the log's end for now
	}
	left := o.linger - time.Since(o.pending)
	if left > 0 {
		return left, nil
	}
	o.extend(wire.Offer{First: o.upTo, Step: rest, Count: 1})
	o.pending = time.Time{}
	return idle, nil
}

func (o *loop) extend(f wire.Offer) {
	o.fresh = true
	o.upTo = f.First + f.Step*f.Count
	if n := len(o.offers); n > 0 {
		if last := &o.offers[n-1]; last.Step == f.Step && last.First+last.Step*last.Count == f.First {
			last.Count += f.Count
			return
		}
	}
	o.offers = append(o.offers, f)
}

// tell reports if there is something new to say.
func (o *loop) tell() {
	if o.fresh || o.core.Next() > o.reported {
		o.report(false)
	}
}

func (o *loop) report(joined bool) {
	o.fresh = false
	o.reported = o.core.Next()
	r := &wire.Report{Joined: joined, Next: o.core.Next(), Acked: o.core.Next(), Offers: append([]wire.Offer(nil), o.offers...)}
	r.AtEnd, r.End = o.welcome, o.upTo
	o.send(r)
}

func (o *loop) send(r *wire.Report) {
	r.Generation, r.Partition, r.Epoch, r.Routes = o.generation, o.partition, o.epoch, o.routes
	o.link.Load().send(r)
}

// fault tells the trainer about a failure that will not pass.
func (o *loop) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return o.last(ctx, &wire.Report{Fault: err.Error()})
}

// last says a last word, again over every new link, until an assignment ends the loop.
func (o *loop) last(ctx context.Context, r *wire.Report) error {
	if r == nil {
		r = &wire.Report{Torn: o.torn}
	}
	for {
		if r.Torn || r.Fault != "" {
			o.send(r)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-o.relinked:
		case <-o.grants.wake:
			o.grants.take()
		}
	}
}

// feed steps the core and carries out all that follows.
func (o *loop) feed(ctx context.Context, ev *Event) error {
	o.todo = append(o.todo, o.stepCore(ev)...)
	for i := 0; i < len(o.todo); i++ {
		e := o.todo[i]
		if err := ctx.Err(); err != nil {
			o.todo = o.todo[:0]
			return err
		}
		var evs []Event
		switch e.Kind {
		case SendFence, SendPull, SendPush:
			// All requests to the parameter servers of one phase go out together.
			n := i + 1
			for n < len(o.todo) && o.todo[n].Kind == e.Kind {
				n++
			}
			evs = o.ask(ctx, o.todo[i:n])
			i = n - 1
		case Joined:
			if !o.joined {
				o.upTo = e.Next
			}
			o.joined = true
			o.report(true)
		case Compute:
			t := time.Now()
			err := o.compute(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			o.computed = time.Since(t)
			evs = []Event{{Kind: Computed, Err: err}}
		case Acked:
			o.acked(e)
			// What was granted meanwhile is queued before the last batch is begun, so that there is
			// always one to prepare ahead.
			for _, g := range o.grants.take() {
				if ev, ok := o.granted(g); ok {
					evs = append(evs, ev)
				}
			}
		case Torn:
			o.torn = true
			o.todo = o.todo[:0]
			return o.last(ctx, nil)
		case Fault:
			o.todo = o.todo[:0]
			return o.fault(ctx, e.Err)
		case Over:
			o.todo = o.todo[:0]
			o.w.cfg.Logger.Debug("partition taken over", "job", o.job, "partition", o.partition, "err", e.Err)
			return o.last(ctx, &wire.Report{})
		}
		for k := range evs {
			o.todo = append(o.todo, o.stepCore(&evs[k])...)
		}
		if i > 256 { // a long run of batches: do not let the queue grow with it
			o.todo = append(o.todo[:0], o.todo[i+1:]...)
			i = -1
		}
	}
	o.todo = o.todo[:0]
	return nil
}

func (o *loop) stepCore(ev *Event) []Effect {
	effects := o.core.Step(ev)
	if f := o.w.cfg.Record; f != nil {
		f(fmt.Sprintf("%s/%d/%d/%d/%d", o.job, o.partition, o.generation, o.epoch, o.routes), o.core.cfg, ev, effects)
	}
	return effects
}

func (o *loop) compute(ctx context.Context) error {
	select {
	case o.w.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-o.w.slots }()
	return o.batch.compute(ctx)
}

func (o *loop) acked(e Effect) {
	now := time.Now()
	if f := o.w.cfg.Events.Batch; f != nil {
		f(o.job, o.partition, o.batch.kept(), now.Sub(o.started), o.computed)
	}
	if e.Next-o.reported >= wire.Window(int(o.step))/4 {
		_, _ = o.offer() // a failing reader is noticed by run
		o.report(false)
	}
}

// ask sends requests of one kind, to several parameter servers at the same time, and returns
// their answers as events.
func (o *loop) ask(ctx context.Context, es []Effect) []Event {
	if es[0].Again && !pause(ctx, retryFirst) {
		return nil
	}
	if es[0].Kind == SendPull && !es[0].Again {
		o.started = time.Now()
		if err := o.batch.begin(ctx, es[0].Batch); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return []Event{{Kind: Pulled, PS: es[0].PS, Err: err}}
		}
	}
	if !o.w.cfg.Alive() {
		return []Event{o.answer(es[0], wire.Held{}, fmt.Errorf("the session lease is lost: %w", tidemill.ErrFenced))}
	}
	evs := make([]Event, len(es))
	if es[0].Kind == SendPush {
		if rng, ok := o.core.Ahead(); ok && (o.step >= worthAhead || len(o.peers) > 1) {
			// The next batch is read and transformed while this one is pushed.
			ready := make(chan struct{})
			go func() {
				defer close(ready)
				o.batch.ahead(ctx, rng)
			}()
			defer func() { <-ready }()
		}
	}
	if len(es) == 1 {
		held, err := o.request(ctx, es[0])
		evs[0] = o.answer(es[0], held, err)
		return evs
	}
	done := make(chan struct{}, len(es))
	for i, e := range es[1:] {
		go func() {
			held, err := o.request(ctx, e)
			evs[i+1] = o.answer(e, held, err)
			done <- struct{}{}
		}()
	}
	held, err := o.request(ctx, es[0])
	evs[0] = o.answer(es[0], held, err)
	for range es[1:] {
		<-done
	}
	return evs
}

// worthAhead is how many rows a batch has at least for a second goroutine to be worth its cost
// when the parameter server is this very process.
const worthAhead = 64

func (o *loop) answer(e Effect, held wire.Held, err error) Event {
	kind := Pushed
	switch e.Kind {
	case SendFence:
		kind = Fenced
	case SendPull:
		kind = Pulled
	}
	if err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		err = fmt.Errorf("%w: %w", tidemill.ErrUnavailable, err)
	}
	return Event{Kind: kind, PS: e.PS, Held: held, Err: err}
}

func (o *loop) request(ctx context.Context, e Effect) (wire.Held, error) {
	switch e.Kind {
	case SendFence:
		return o.ps[e.PS].Fence(ctx, &wire.FenceRequest{Job: o.job, Generation: o.generation, Partition: o.partition, Epoch: o.epoch, Routes: o.routes})
	case SendPull:
		return wire.Held{}, o.batch.pull(ctx, e.PS, e.Batch)
	default:
		return wire.Held{}, o.batch.push(ctx, e.PS, e.Batch)
	}
}
