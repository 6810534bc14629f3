package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// run carries out one job's Core. Its state belongs to the goroutine of main; everybody else
// posts events. What touches the store or the records goes through one queue, in order.
type run struct {
	t      *Trainer
	log    *slog.Logger
	job    string
	spec   tidemill.Spec
	parts  int           // partitions of the topic
	line   string        // lineage
	schema *arrow.Schema // of the topic when the job was submitted
	model  *model.Model
	chain  *snapshot.Chain
	dead   *deadLetters
	// replays: one command at a time replays dead letters.
	replays sync.Mutex
	known   chan struct{}   // closed once it is known what the lineage goes back to
	learnt  sync.Once       // closes known
	lines   []snapshot.Line // that the lineage goes back to; guarded by the trainer's mu
	left    leftover        // of a job that is over
	core    *Core

	inbox chan Event
	// replies come from the queue's goroutine. There is room for all that the queue can hold,
	// so that it never waits for a main that waits for it.
	replies chan Event
	stores  chan func(ctx context.Context)
	done    chan struct{}

	// wrote is the revision of the job's record as last written, or as it was taken up; the
	// queue's goroutine sets it.
	wrote atomic.Uint64
	// deposed: main has ended because somebody else leads the job. Set before done is closed.
	deposed bool

	ready chan struct{} // closed once val is there

	began   map[int64]time.Time // snapshot number → when it was asked for
	stall   map[int64]time.Duration
	written map[int64]map[string]wire.Written
	parent  int64
	from    int64              // the snapshot that the job's record named when the run began; 0: none
	origin  *snapshot.Ancestor // what the lineage began from
	val     *validator
	keep    *keeper
	damaged bool // a damaged snapshot was reported, and advice is sought

	rested chan struct{} // closed once the core rests, or the job is over

	// assignment as last written, and load as last measured (nil: not yet), for those who ask;
	// guarded by the trainer's mu.
	asg  tidemill.Assignment
	load *sample
}

func newRun(t *Trainer, a tidemill.Assignment, rev uint64) *run {
	r := &run{
		t: t, log: t.log.With("job", a.Job), job: a.Job, spec: a.Spec, parts: len(a.Cut), line: a.Lineage, from: a.Snapshot, asg: a,
		inbox: make(chan Event, 1024), replies: make(chan Event, 4*queueLen), stores: make(chan func(context.Context), queueLen), done: make(chan struct{}), ready: make(chan struct{}),
		began: map[int64]time.Time{}, stall: map[int64]time.Duration{}, written: map[int64]map[string]wire.Written{},
	}
	r.wrote.Store(rev)
	r.dead, r.known, r.rested = newDeadLetters(r), make(chan struct{}), make(chan struct{})
	return r
}

const queueLen = 64

// reply hands the run an event from the queue's goroutine.
func (r *run) reply(ev Event) {
	select {
	case r.replies <- ev:
	case <-r.done:
	}
}

// post hands the run an event; after the run has ended it does nothing.
func (r *run) post(ev Event) {
	select {
	case r.inbox <- ev:
	case <-r.done:
	}
}

// main leads the job until ctx ends or it is over.
func (r *run) main(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer close(r.done)
	var err error
	r.schema, err = model.DecodeSchema(r.asg.Schema)
	if err == nil {
		r.model, err = r.compile(ctx)
	}
	if err == nil {
		r.chain, err = snapshot.Snapshots(r.t.cfg.Bucket, r.job)
	}
	if err == nil {
		r.val, err = newValidator(r)
	}
	if err == nil {
		r.keep, err = newKeeper(r)
	}
	if err != nil {
		r.log.Error("the job cannot be run", "err", err)
		r.fail(ctx, err)
		return
	}
	close(r.ready)
	queue := make(chan struct{})
	go func() {
		defer close(queue)
		for {
			select {
			case f := <-r.stores:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	}()
	over := isTerminal(r.asg.State)
	validated, lettered, kept := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(validated)
		if !over || r.left.undecided || r.left.unoffered != nil {
			r.val.run(ctx)
		}
	}()
	go func() {
		defer close(lettered)
		r.dead.run(ctx)
	}()
	go func() {
		defer close(kept)
		r.keep.run(ctx)
	}()
	defer func() {
		stop()
		<-queue
		<-validated
		<-lettered
		<-kept
	}()
	// end waits for the last candidates' decisions and the last dead letters.
	rests := false
	rest := func() {
		if !rests {
			rests = true
			close(r.rested)
		}
	}
	end := func(state string) {
		rest()
		r.val.finish(state)
		r.dead.finish()
		<-validated
		<-lettered
		if ctx.Err() == nil {
			r.release(ctx)
			r.forget()
		}
	}
	if over {
		if r.left.dead != nil {
			r.dead.committed(r.left.dead)
		}
		if r.left.unoffered != nil {
			r.val.committed(r.left.unoffered, nil)
		}
		end(r.asg.State)
		return
	}
	t := &r.spec.Train
	r.core = NewCore(CoreConfig{
		Staleness: t.Staleness, Batch: int64(t.Batch), Window: wire.Window(t.Batch), Every: t.Snapshot.Rows,
		Partitions: len(r.asg.Cut), Shards: r.spec.Shards, End: t.End, MaxBadRows: t.MaxBadRows,
	})
	watched, measured := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		r.watchTopic(ctx)
	}()
	go func() {
		defer close(measured)
		r.measure(ctx)
	}()
	defer func() {
		stop()
		<-watched
		<-measured
	}()
	a := r.asg
	a.Leader = r.t.cfg.Member
	r.step(ctx, &Event{Kind: Lead, Assignment: a})
	r.step(ctx, r.members())
	var due <-chan time.Time
	if t.Snapshot.Rows == 0 {
		tick := time.NewTicker(t.Snapshot.Time)
		defer tick.Stop()
		due = tick.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-r.inbox:
			if r.damage(ctx, &ev) {
				continue
			}
			if ev.Kind == Members {
				ev = *r.members()
			}
			r.step(ctx, &ev)
		case ev := <-r.replies:
			r.step(ctx, &ev)
		case <-due:
			r.step(ctx, &Event{Kind: Due})
		}
		if r.core.Rested() {
			rest()
		}
		switch {
		case r.core.Deposed():
			r.log.Warn("somebody else leads this job")
			r.deposed = true
			stop()
			return
		case r.core.Over():
			state := r.core.Assignment().State
			if f := r.t.cfg.Events.State; f != nil {
				f(r.job, state, r.core.Assignment().Reason)
			}
			end(state)
			return
		}
	}
}

// fail ends a job that could not begin, and forgets it.
func (r *run) fail(ctx context.Context, cause error) {
	a := r.asg
	a.State, a.Reason = tidemill.JobFailed, cause.Error()
	a.Seq++
	if value, err := json.Marshal(&a); err == nil {
		_ = again(ctx, r.log, "write the job's record", func() error {
			rev, err := r.t.cfg.Records.Update(ctx, JobPrefix+r.job, value, r.wrote.Load())
			if err == nil {
				r.wrote.Store(rev)
			}
			return err
		})
	}
	r.forget()
}

// validator returns the run's validator once it is there.
func (r *run) validator(ctx context.Context) (*validator, error) {
	select {
	case <-r.ready:
		return r.val, nil
	case <-r.done:
		return nil, fmt.Errorf("trainer: job %q has just ended: %w", r.job, tidemill.ErrNotReady)
	case <-ctx.Done():
		return nil, fmt.Errorf("trainer: %w: %w", tidemill.ErrUnavailable, ctx.Err())
	}
}

// forget takes the run off the list once nothing is left to do.
func (r *run) forget() {
	r.t.mu.Lock()
	if r.t.runs[r.job] == r {
		delete(r.t.runs, r.job)
		r.t.signal()
	}
	r.t.mu.Unlock()
}

func (r *run) members() *Event {
	workers, ps, _ := r.t.alive()
	leaving := r.t.leavers()
	ps = slices.DeleteFunc(ps, func(id string) bool { return leaving[id] })
	for w := range workers {
		if leaving[w] {
			delete(workers, w)
		}
	}
	ps, profiles := able(model.EngineOf(&r.spec), workers, ps, r.t.profiles())
	// Of more than the job wants, those that own something stay.
	a := r.core.Assignment()
	if n := r.spec.Train.PS; n > 0 && len(ps) > n {
		ps = chosen(ps, n, a.Shards)
	}
	if n := r.spec.Train.Parallelism; n > 0 && len(workers) > n {
		keep := chosen(slices.Sorted(maps.Keys(workers)), n, a.Partitions)
		maps.DeleteFunc(workers, func(w string, _ int) bool { return !slices.Contains(keep, w) })
	}
	return &Event{Kind: Members, Workers: workers, PS: ps, Profiles: profiles, Leaving: leaving}
}

// chosen returns n of names, which are sorted: owners before others, and by name among equals.
func chosen(names []string, n int, owners []tidemill.Owner) []string {
	owns := func(name string) bool {
		return slices.ContainsFunc(owners, func(o tidemill.Owner) bool { return o.Member == name })
	}
	slices.SortStableFunc(names, func(a, b string) int {
		switch x, y := owns(a), owns(b); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return 0
	})
	names = names[:n]
	slices.Sort(names)
	return names
}

// step runs one event and its effects.
func (r *run) step(ctx context.Context, ev *Event) {
	if ev.Kind == Written {
		if w := r.written[ev.Number]; w != nil {
			w[ev.Member] = *ev.Written
		}
	}
	if ev.Kind == Marked {
		if at, ok := r.began[ev.Number]; ok {
			r.stall[ev.Number] = time.Since(at)
		}
	}
	if ev.Kind == ReportIn && ev.Report.Fault != "" {
		r.log.Error("training failed", "partition", ev.Report.Partition, "err", ev.Report.Fault)
	}
	effects := r.core.Step(ev)
	if f := r.t.cfg.Record; f != nil {
		f(r.job, r.core.cfg, ev, effects)
	}
	for _, e := range effects {
		switch e.Kind {
		case AppendFence:
			gen := r.core.Assignment().Generation
			r.queue(ctx, func(ctx context.Context) { r.fence(ctx, gen) })
		case WriteAssignment:
			a := e.Assignment
			r.queue(ctx, func(ctx context.Context) { r.assign(ctx, a) })
		case Grant:
			a := r.core.Assignment()
			r.t.grant(e.Member, wire.Grant{
				Job: r.job, Generation: a.Generation, Partition: e.Partition,
				Epoch: a.Partitions[e.Partition].Epoch, Routes: a.Routes(), Run: e.Run, Next: e.Next,
			})
		case CopyShard, SettleShard:
			go r.adopt(ctx, e, r.core.Assignment())
		case TakeSnapshot:
			r.began[e.Number] = time.Now()
			r.written[e.Number] = map[string]wire.Written{}
			asg := r.core.Assignment()
			r.t.mu.Lock()
			members := r.asg.Members
			r.t.mu.Unlock()
			settled := r.dead.below()
			for _, id := range e.PS {
				go r.snapshot(ctx, members[id], &wire.SnapshotRequest{
					Job: r.job, Generation: asg.Generation, Routes: asg.Routes(), Number: e.Number, Round: e.Round, Cut: e.Cut.Clone(), Base: e.Base,
					Settled: settled,
				})
			}
		case Commit:
			m, home := r.manifest(&e)
			took, stall := time.Since(r.began[e.Number]), r.stall[e.Number]
			delete(r.written, e.Number)
			delete(r.began, e.Number)
			delete(r.stall, e.Number)
			r.queue(ctx, func(ctx context.Context) { r.commit(ctx, m, home, took, stall) })
		case Depose:
		}
	}
}

func (r *run) queue(ctx context.Context, f func(context.Context)) {
	select {
	case r.stores <- f:
	case <-ctx.Done():
	}
}

// again repeats f until it succeeds, fails for good, or ctx ends.
func again(ctx context.Context, log *slog.Logger, what string, f func() error) error {
	wait := 20 * time.Millisecond
	for {
		err := f()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, tidemill.ErrExists), errors.Is(err, tidemill.ErrConflict), errors.Is(err, tidemill.ErrInvalid), errors.Is(err, tidemill.ErrCorrupt):
			return err
		}
		log.Warn("will try again", "what", what, "err", err)
		sleep(ctx, wait)
		wait = min(2*wait, 2*time.Second)
	}
}

// fence appends a fence record and reports where to go back to.
func (r *run) fence(ctx context.Context, generation uint64) {
	for {
		var last int64
		var m, top *snapshot.Manifest
		err := again(ctx, r.log, "read the snapshot chain", func() (err error) {
			if last, m, err = snapshot.Latest(ctx, r.chain); err != nil || last == 0 {
				return err
			}
			top, err = snapshot.ReadManifest(ctx, r.chain, last)
			return err
		})
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("the snapshot chain cannot be read", "err", err)
				r.reply(Event{Kind: Stop, Final: tidemill.JobFailed, Reason: err.Error() + "; " + goOnFrom(ctx, r.t.cfg.Bucket, r.job)})
			}
			return
		}
		if m != nil && m.Lineage != r.line { // of an earlier job of this name
			if m, err = r.own(ctx); err != nil {
				if ctx.Err() == nil {
					r.log.Error("the snapshot to start from cannot be read", "err", err)
					r.reply(Event{Kind: Stop, Final: tidemill.JobFailed, Reason: err.Error() + "; " + goOnFrom(ctx, r.t.cfg.Bucket, r.job)})
				}
				return
			}
		}
		if top != nil {
			generation = max(generation, top.Generation)
			if top.Fence != nil {
				generation = max(generation, top.Fence.Generation)
			}
		}
		f := &snapshot.Manifest{
			Format: snapshot.Format, Job: r.job, Number: last + 1, Generation: generation, Created: time.Now().UTC(),
			Fence: &snapshot.Fence{Generation: generation + 1, Holder: r.t.cfg.Member.ID},
		}
		err = again(ctx, r.log, "append a fence record", func() error { return snapshot.Commit(ctx, r.chain, f) })
		if errors.Is(err, tidemill.ErrExists) {
			continue // somebody was quicker: look again what the last manifest is
		}
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("cannot append a fence record", "err", err)
			}
			return
		}
		from := tidemill.Assignment{Generation: generation, Cut: r.start()}
		r.parent = 0
		if m != nil {
			r.origin = m.Ancestor
			if m.Ancestor != nil {
				r.t.mu.Lock()
				r.lines = m.Ancestor.Lines
				r.t.mu.Unlock()
			}
			from.Snapshot, from.Cut, from.Round, from.Examples = m.Number, m.Cut, m.Round, m.Examples
			r.parent = m.Number
			r.val.committed(m, nil)
			r.dead.committed(m)
		}
		if f := r.t.cfg.Events.Rewound; f != nil {
			f(r.job, generation+1)
		}
		r.learnt.Do(func() { close(r.known) })
		ev := Event{Kind: Recovered, Number: last + 2, Assignment: from}
		if m != nil {
			ev.Bad, ev.Read = m.Bad(), m.Examples+m.Bad()
		}
		r.reply(ev)
		return
	}
}

// logOf says where one of the job's partitions is read.
func (r *run) logOf(partition int) tidemill.Origin {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return r.asg.Origin(partition)
}

// start is the cut at which the job began.
func (r *run) start() tidemill.Cut { return tidemill.Cut(r.spec.Stream.Offsets).Clone() }

// assign writes the job's record by compare-and-set.
func (r *run) assign(ctx context.Context, a tidemill.Assignment) {
	_, _, members := r.t.alive()
	a.Members = map[string]tidemill.Member{}
	for _, owners := range [][]tidemill.Owner{a.Partitions, a.Shards} {
		for _, o := range owners {
			if m, ok := members[o.Member]; ok {
				a.Members[o.Member] = m
			}
		}
	}
	value, err := json.Marshal(&a)
	if err == nil {
		err = again(ctx, r.log, "write the assignment", func() error {
			rev, err := r.t.cfg.Records.Update(ctx, JobPrefix+r.job, value, r.wrote.Load())
			if err == nil {
				r.wrote.Store(rev)
			}
			return err
		})
	}
	if errors.Is(err, tidemill.ErrConflict) {
		// An earlier try may have arrived although its answer did not.
		if e, gerr := r.t.cfg.Records.Get(ctx, JobPrefix+r.job); gerr == nil && string(e.Value) == string(value) {
			r.wrote.Store(e.Revision)
			err = nil
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("the assignment could not be written", "err", err)
			r.reply(Event{Kind: NotAssigned})
		}
		return
	}
	r.t.mu.Lock()
	r.asg = a
	r.t.signal()
	r.t.mu.Unlock()
	r.reply(Event{Kind: Assigned, Assignment: a})
}

// snapshot asks one ps for its part. Until all have captured the cut nothing is granted beyond
// it, so that asking again gives the same state.
func (r *run) snapshot(ctx context.Context, m tidemill.Member, req *wire.SnapshotRequest) {
	ps, err := r.t.cfg.PS(ctx, m)
	var w wire.Written
	for wait := 20 * time.Millisecond; err == nil; wait = min(2*wait, time.Second) {
		w, err = ps.Snapshot(ctx, req, func() { r.post(Event{Kind: Marked, Number: req.Number, Member: m.ID}) })
		if err == nil || !errors.Is(err, tidemill.ErrUnavailable) && !errors.Is(err, tidemill.ErrNotReady) {
			break
		}
		if !r.isAlive(m.ID) {
			break // its shards go to others, in another generation
		}
		err = nil
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.log.Warn("snapshot failed", "number", req.Number, "ps", m.ID, "err", err)
		// A pause, so that a full disk is not hammered.
		sleep(ctx, time.Second)
		r.post(Event{Kind: Lost, Number: req.Number, Member: m.ID})
		return
	}
	r.post(Event{Kind: Written, Number: req.Number, Member: m.ID, Written: &w})
}

func (r *run) isAlive(id string) bool {
	_, ps, _ := r.t.alive()
	return slices.Contains(ps, id)
}

// manifest composes the record of a snapshot from what was written for it.
func (r *run) manifest(e *Effect) (*snapshot.Manifest, *wire.Home) {
	a := r.core.Assignment()
	m := &snapshot.Manifest{
		Format: snapshot.Format, Job: r.job, Model: r.spec.Model, Lineage: a.Lineage, Number: e.Number, Generation: a.Generation, Ancestor: r.origin,
		StreamTopic: r.spec.Stream.Topic, StreamIdentity: a.Identity, Origins: slices.Clone(a.Origins), Cut: e.Cut.Clone(), Round: e.Round,
		SpecHash: r.spec.Hash(), Spec: r.spec, Profile: profileOf(&a, r.model.Engine.Profile()), Schema: a.Schema,
		Layout: r.model.Layout, Metrics: map[string]float64{}, Created: time.Now().UTC(),
	}
	for _, run := range e.Schedule {
		s := snapshot.Run{Round: run.Round, Rounds: run.Count}
		for _, p := range run.Parts {
			s.Steps = append(s.Steps, snapshot.Step{Partition: p.Partition, First: p.First, Next: p.First + run.Count*p.Step, Rows: p.Step})
		}
		m.Schedule = append(m.Schedule, s)
	}
	var home *wire.Home
	for _, w := range r.written[e.Number] {
		m.Parts = append(m.Parts, w.Part)
		m.Examples = w.Examples
		if w.Home != nil {
			home = w.Home
		}
	}
	slices.SortFunc(m.Parts, func(a, b snapshot.Part) int {
		if len(a.Shards) == 0 || len(b.Shards) == 0 {
			return len(b.Shards) - len(a.Shards)
		}
		return a.Shards[0] - b.Shards[0]
	})
	m.Digest = snapshot.SumParts(m.Parts)
	if home == nil {
		return m, nil
	}
	m.BadRows, m.BadCounts = home.Bad, home.BadCounts
	if len(m.BadRows) > maxDead { // the home shard's notes have them all
		m.BadRows = m.BadRows[:maxDead]
	}
	first := true
	for p, t := range home.EventMax {
		// Rows that are replayed are late by nature; they do not hold the watermark back.
		if o := a.Origin(p); p >= len(e.Cut) || e.Cut[p] == o.First || o.Topic != r.spec.Stream.Topic {
			continue
		}
		if t -= r.spec.Time.MaxOutOfOrder.Milliseconds(); first || t < m.WatermarkMS {
			m.WatermarkMS, first = max(0, t), false
		}
	}
	if s, err := progress.Load(home.Progress); err == nil {
		rep := s.Total()
		m.Metrics = map[string]float64{
			"loss": rep.Loss, "prior_loss": rep.PriorLoss, "auc": rep.AUC, "accuracy": rep.Accuracy,
			"no_change_accuracy": rep.NoChangeAccuracy, "normalized_entropy": rep.NE, "bad_rows": float64(m.Bad()),
		}
		for k, v := range s.Prior(r.model.Engine.Outputs()) {
			m.Metrics[priorMetric(k)] = float64(v)
		}
	}
	return m, home
}

// priorMetric names the constant that the labels so far would predict for output k.
func priorMetric(k int) string { return fmt.Sprintf("prior_%d", k) }

func (r *run) commit(ctx context.Context, m *snapshot.Manifest, home *wire.Home, took, stall time.Duration) {
	m.Parent = r.parent
	err := again(ctx, r.log, "commit a snapshot", func() error { return snapshot.Commit(ctx, r.chain, m) })
	if errors.Is(err, tidemill.ErrExists) {
		// An earlier try may have arrived although its answer did not.
		if was, rerr := snapshot.ReadManifest(ctx, r.chain, m.Number); rerr == nil && was.Fence == nil && was.Generation == m.Generation {
			err = nil
		} else {
			r.reply(Event{Kind: Beaten, Number: m.Number})
			return
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			r.log.Error("cannot commit a snapshot", "number", m.Number, "err", err)
			if errors.Is(err, tidemill.ErrInvalid) { // it would be again
				r.reply(Event{Kind: Stop, Final: tidemill.JobFailed, Reason: fmt.Sprintf("snapshot %d: %v", m.Number, err)})
				return
			}
			r.reply(Event{Kind: Lost, Number: m.Number})
		}
		return
	}
	r.parent = m.Number
	if f := r.t.cfg.Events.Committed; f != nil {
		f(r.job, m.Number, m.Cut, m.Examples, took, stall)
	}
	r.val.committed(m, home)
	r.dead.committed(m)
	r.reply(Event{Kind: Committed, Number: m.Number, Bad: m.Bad(), Read: m.Examples + m.Bad(), Reason: r.dead.tooMany(m)})
}
