package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer/gate"
)

// validator makes versions of a job's snapshots, scores them on the rows after their cuts, and
// carries out what the gate's Book decides. Its state belongs to the goroutine of main.
type validator struct {
	r     *run
	log   *slog.Logger
	model string
	champ *snapshot.Chain

	mu    sync.Mutex
	queue []func(ctx context.Context) error
	kick  chan struct{} // capacity 1
	final string        // the job's terminal state, once it has one

	book    *gate.Book
	scorers map[int64]*predict.Scorer
	// snapshots holds those of the versions that scorers holds, as far as they are this job's.
	snapshots map[int64]int64
	offered   map[int64]bool // snapshots that a version was made of
	next      int64          // number of the next version
	last      int64          // number of the last champion record that is known: ours, or our fence
	prior     []float32
	probes    []byte
	parts     int          // of the topic that the job reads: what is judged on
	cut       tidemill.Cut // of the newest committed snapshot, by the topic's partitions
	all       tidemill.Cut // of the newest committed snapshot, by the job's partitions
	readers   []*follower
	pieces    chan tidemill.Batch
	kept      int

	retained time.Time // when the stream was last told what is needed
}

// follower is what was read of one partition after the oldest cut that is still of interest.
type follower struct {
	have []tidemill.Batch
	pos  int64
}

// minKept is how many rows may be kept for scoring at least, over all partitions; a gate that
// looks at more rows of a candidate may keep twice as many as it looks at.
const minKept = 1 << 16

func newValidator(r *run) (*validator, error) {
	champ, err := snapshot.Champions(r.t.cfg.Bucket, r.spec.Model)
	if err != nil {
		return nil, err
	}
	return &validator{
		r: r, log: r.log, model: r.spec.Model, champ: champ, kick: make(chan struct{}, 1),
		scorers: map[int64]*predict.Scorer{}, snapshots: map[int64]int64{}, offered: map[int64]bool{}, pieces: make(chan tidemill.Batch),
	}, nil
}

// do queues f for the goroutine of main.
func (v *validator) do(f func(ctx context.Context) error) {
	v.mu.Lock()
	v.queue = append(v.queue, f)
	v.mu.Unlock()
	v.wake()
}

func (v *validator) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// committed hands over a committed snapshot; home is nil when it was committed by a
// predecessor.
func (v *validator) committed(m *snapshot.Manifest, _ *wire.Home) {
	v.r.keep.offer(m.Number)
	v.do(func(ctx context.Context) error {
		err := v.offer(ctx, m)
		if errors.Is(err, tidemill.ErrFenced) {
			v.committed(m, nil) // once more when validation has begun again
			return err
		}
		v.r.keep.offered(m.Number)
		return err
	})
}

// finish tells that no further snapshot will come.
func (v *validator) finish(state string) {
	v.mu.Lock()
	v.final = state
	v.mu.Unlock()
	v.wake()
}

// run validates until ctx ends, or until the job is over and every candidate has its decision.
// What cannot go on begins again from what is stored.
func (v *validator) run(ctx context.Context) {
	defer v.close()
	for ctx.Err() == nil {
		err := v.main(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGrown) {
			v.log.Info("validation begins again", "why", err)
		} else {
			v.log.Error("validation begins again", "err", err)
		}
		v.close()
		v.offered, v.readers, v.kept = map[int64]bool{}, nil, 0
		v.snapshots = map[int64]int64{}
		v.r.keep.begins()
		sleep(ctx, time.Second)
	}
}

// main validates until the job is over, ctx ends, or something fails.
func (v *validator) main(ctx context.Context) error {
	var readers sync.WaitGroup
	defer readers.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := again(ctx, v.log, "read the model's versions", func() error { return v.recover(ctx) }); err != nil {
		return err
	}
	for ctx.Err() == nil {
		v.mu.Lock()
		queue, final := v.queue, v.final
		v.queue = nil
		v.mu.Unlock()
		for i, f := range queue {
			if err := f(ctx); err != nil {
				v.putBack(err, queue[i+1:])
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, errGrown) {
					return err
				}
				// The snapshot is kept; its version is not.
				v.log.Error("a snapshot could not be made a candidate", "err", err)
				if errors.Is(err, tidemill.ErrFenced) {
					v.mu.Lock()
					v.queue = append(slices.Clone(queue[i+1:]), v.queue...)
					v.mu.Unlock()
					return err
				}
			}
		}
		if v.readers == nil && len(v.book.Wants()) > 0 {
			if err := v.follow(ctx, &readers); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				v.log.Error("validation cannot read the stream", "err", err)
				sleep(ctx, time.Second)
				v.wake()
				continue
			}
		}
		if err := v.score(ctx); err != nil {
			return err
		}
		if final != "" && len(queue) > 0 {
			continue // the kick that told of the end may be the one that brought the queue
		}
		if final != "" && v.readAll(final) {
			if err := v.apply(ctx, gate.End{}); err != nil {
				return err
			}
			return nil
		}
		pieces := v.pieces
		if v.kept >= int(max(minKept, 2*v.r.spec.Gate.MaxExamples)) {
			pieces = nil
		}
		select {
		case <-ctx.Done():
		case <-v.kick:
		case b := <-pieces:
			f := v.readers[b.Partition]
			f.have = append(f.have, b)
			f.pos = b.Range.Next
			v.kept += int(b.Rows.NumRows())
			v.prune()
		}
	}
	return ctx.Err()
}

// recover rebuilds the Book from what is in the store.
func (v *validator) recover(ctx context.Context) error {
	b := v.r.t.cfg.Bucket
	rec, err := v.fence(ctx)
	if err != nil {
		return err
	}
	v.parts = v.r.judged()
	cfg := gate.Config{Model: v.model, Partitions: v.parts, Gate: v.r.spec.Gate}
	serving := func(n int64) (gate.Serving, error) {
		files, err := snapshot.ReadVersion(ctx, b, v.model, n)
		if err != nil {
			return gate.Serving{}, err
		}
		m, err := predict.LoadIn(files, v.r.t.cfg.Isolator)
		if err != nil {
			return gate.Serving{}, err
		}
		v.scoreWith(n, m)
		v.of(files)
		return gate.Serving{Version: n, Cut: v.judged(files)}, nil
	}
	if rec != nil {
		if cfg.Champion, err = serving(rec.Version); err != nil {
			return err
		}
		if rec.Anchor != 0 && rec.Anchor != rec.Version {
			if cfg.Anchor, err = serving(rec.Anchor); err != nil {
				return err
			}
		}
	}
	if v.book, err = gate.NewBook(cfg); err != nil {
		return err
	}
	numbers, err := snapshot.ListVersions(ctx, b, v.model)
	if err != nil {
		return err
	}
	v.next = 1
	for _, n := range numbers {
		v.next = max(v.next, n+1)
		if n <= cfg.Champion.Version {
			// One that a trainer which died had put forward and not decided on is older than what
			// serves, and gets its decision now. There are only so many at a time.
			if n == cfg.Champion.Version || n < cfg.Champion.Version-2*gate.MaxUnderTest {
				continue
			}
			if _, err := snapshot.ReadDecision(ctx, b, v.model, n); err == nil {
				continue
			} else if !errors.Is(err, tidemill.ErrNotFound) {
				return err
			}
		}
		files, err := snapshot.ReadVersion(ctx, b, v.model, n)
		if err != nil {
			if !errors.Is(err, tidemill.ErrNotFound) { // it is not retired
				v.log.Warn("a version cannot be read", "version", n, "err", err)
			}
			continue
		}
		if files.Version.Lineage != v.r.line {
			continue // of an earlier job of this name
		}
		v.offered[files.Version.Snapshot] = true
		d, err := snapshot.ReadDecision(ctx, b, v.model, n)
		if err == nil && (d.Decision == tidemill.Rejected || d.Decision == tidemill.Superseded) {
			continue
		}
		if err != nil && !errors.Is(err, tidemill.ErrNotFound) {
			return err
		}
		// Undecided, held, or published by a trainer that did not live to append the record.
		if err := v.present(ctx, files); err != nil {
			return err
		}
	}
	return nil
}

// fence takes the next number of the champion chain, so that a predecessor that wakes up later
// cannot publish any more, and returns the record of what serves (nil: nothing yet).
func (v *validator) fence(ctx context.Context) (*tidemill.Champion, error) {
	for {
		last, rec, err := snapshot.LastChampion(ctx, v.champ)
		if err != nil {
			return nil, err
		}
		err = snapshot.AppendChampion(ctx, v.champ, tidemill.Champion{
			Model: v.model, Seq: last + 1, Fence: last, Kind: snapshot.ChampionFence, By: v.r.t.cfg.Member.ID, At: time.Now().UTC(),
		})
		if !errors.Is(err, tidemill.ErrExists) {
			v.last = last + 1
			return rec, err
		}
	}
}

// offer makes a version of a snapshot and puts it to the gate.
func (v *validator) offer(ctx context.Context, m *snapshot.Manifest) error {
	cut := m.Cut.OfTopic(m.StreamTopic, m.StreamTopic, m.Origins)
	if len(cut) > v.parts {
		v.committed(m, nil) // again, once more partitions are judged on
		return errGrown
	}
	v.cut, v.all = v.pad(cut), m.Cut.Clone()
	v.prune()
	v.retain(ctx, v.oldest())
	if v.offered[m.Number] || !trained(m) {
		return nil // there is a version of it, or nothing that this job has trained
	}
	b := v.r.t.cfg.Bucket
	prior := make([]float32, v.r.model.Engine.Outputs())
	for k := range prior {
		prior[k] = float32(m.Metrics[priorMetric(k)])
	}
	v.prior = prior
	files, err := snapshot.Export(ctx, b, m)
	if err != nil {
		return fmt.Errorf("snapshot %d cannot be made a version: %w", m.Number, err)
	}
	files.Version.Number = v.next
	files.Version.Parent = v.book.Champion().Version
	files.Version.Created = time.Now().UTC()
	if err := v.probe(ctx, files); err != nil {
		return err
	}
	err = again(ctx, v.log, "write a version", func() error { return snapshot.WriteVersion(ctx, b, files) })
	if errors.Is(err, tidemill.ErrExists) {
		// An earlier try may have arrived although its answer did not.
		was, rerr := snapshot.ReadVersionRecord(ctx, b, v.model, files.Version.Number)
		if rerr != nil || was.Lineage != files.Version.Lineage || was.Snapshot != m.Number || was.Digest != files.Version.Digest {
			return fmt.Errorf("version %d of model %s is somebody else's: %w", files.Version.Number, v.model, tidemill.ErrFenced)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	v.next++
	v.offered[m.Number] = true
	if f := v.r.t.cfg.Events.Offered; f != nil {
		f(files.Version)
	}
	// What is judged is what serving will read.
	stored, err := snapshot.ReadVersion(ctx, b, v.model, files.Version.Number)
	if err != nil {
		_, e := v.decide(ctx, gate.Offer{Version: files.Version.Number, Cut: v.judged(files), Mechanics: gate.Mechanics{Integrity: gate.FindingOf(err)}})
		return e
	}
	return v.present(ctx, stored)
}

// probeRows is how many rows a version carries with its answers to them.
const probeRows = 16

// probe gives a version its probe rows, the first ones of the stream, and its answers.
func (v *validator) probe(ctx context.Context, files *snapshot.VersionFiles) error {
	if v.probes == nil {
		topic, err := source.OpenSpec(ctx, v.r.t.cfg.Source, &v.r.spec.Stream)
		if err != nil {
			return err
		}
		defer topic.Close()
		start, cut := v.r.start(), v.judged(files)
		for p := range cut {
			from := int64(0)
			if p < len(start) {
				from = start[p]
			}
			if cut[p] <= from {
				continue
			}
			reader, err := topic.Reader(ctx, p, from)
			if err != nil {
				return err
			}
			batch, err := firstRows(ctx, reader, cut[p])
			reader.Close()
			if err != nil {
				return err
			}
			if batch.Rows == nil {
				continue
			}
			good := batch.Rows
			if bad := v.r.model.Plan.Check(batch.Rows, false); len(bad) > 0 {
				good = feature.Drop(batch.Rows, bad)
				batch.Rows.Release()
			}
			if good.NumRows() > 0 {
				v.probes, err = predict.EncodeRows(good)
			}
			good.Release()
			if err != nil {
				return err
			}
			break
		}
	}
	if v.probes == nil {
		return nil
	}
	m, err := predict.LoadIn(files, v.r.t.cfg.Isolator)
	if err != nil {
		return nil // the gate will find the same
	}
	defer m.Close()
	rows, err := predict.DecodeRows(v.probes)
	if err != nil {
		return err
	}
	defer rows.Release()
	want, err := m.NewScorer().Predict(nil, rows)
	if err != nil {
		return nil
	}
	files.Probes = snapshot.Probes{Rows: v.probes, Expected: want}
	return nil
}

// firstRows returns the first rows before offset next that the reader has; Rows is nil when
// there are none.
func firstRows(ctx context.Context, reader source.Reader, next int64) (tidemill.Batch, error) {
	for reader.Position() < next {
		b, err := reader.Next(ctx, probeRows)
		if err != nil || b.Rows.NumRows() > 0 {
			return b, err
		}
		b.Rows.Release()
	}
	return tidemill.Batch{}, nil
}

// present loads a version as serving does and offers it to the Book.
func (v *validator) present(ctx context.Context, files *snapshot.VersionFiles) error {
	n := files.Version.Number
	mech, m := examine(files, v.r.t.cfg.Isolator)
	if m != nil {
		v.scoreWith(n, m)
	}
	v.of(files)
	_, err := v.decide(ctx, gate.Offer{Version: n, Cut: v.judged(files), Mechanics: mech})
	return err
}

// examine makes the mechanical checks of a version that was read back from the store.
func examine(files *snapshot.VersionFiles, isolator engine.Isolator) (gate.Mechanics, *predict.Model) {
	mech := gate.Mechanics{Integrity: gate.FindingOf(nil)}
	m, err := predict.LoadIn(files, isolator)
	if err == nil {
		if err = m.Warm(); err != nil {
			m.Close()
		}
	}
	mech.Loads = gate.FindingOf(err)
	if err != nil {
		return mech, nil
	}
	mech.Finite = gate.FindingOf(m.Finite())
	rows, diff, err := m.Parity()
	mech.ParityRows, mech.ParityDiff = rows, diff
	if err != nil {
		mech.Loads = gate.FindingOf(err)
	}
	return mech, m
}

// scoreWith makes m what a version is scored with.
func (v *validator) scoreWith(version int64, m *predict.Model) {
	if old := v.scorers[version]; old != nil {
		old.Model().Close()
	}
	v.scorers[version] = m.NewScorer()
}

// close frees the models.
func (v *validator) close() {
	for _, s := range v.scorers {
		s.Model().Close()
	}
	clear(v.scorers)
}

// of notes which snapshot a version is of, if it is this job's.
func (v *validator) of(files *snapshot.VersionFiles) {
	if files.Version.Job == v.r.job {
		v.snapshots[files.Version.Number] = files.Version.Snapshot
	}
}

// apply steps the Book, where the event itself is not expected to be refused.
func (v *validator) apply(ctx context.Context, e gate.Event) error {
	_, err := v.decide(ctx, e)
	return err
}

// decide steps the Book and stores what it decides: the decision with its evidence first, then
// the champion record, which alone makes it true.
func (v *validator) decide(ctx context.Context, e gate.Event) ([]gate.Outcome, error) {
	outs, err := v.book.Step(e)
	for _, o := range outs {
		o.Decision.At = time.Now().UTC()
		err := again(ctx, v.log, "store a decision", func() error {
			_, err := snapshot.WriteDecision(ctx, v.r.t.cfg.Bucket, o.Decision)
			return err
		})
		if err != nil {
			return outs, err
		}
		if o.Champion != nil {
			if err := v.crown(ctx, o.Champion); err != nil {
				return outs, err
			}
		}
		if f := v.r.t.cfg.Events.Decided; f != nil {
			f(o.Decision)
		}
	}
	v.forgetModels()
	return outs, err
}

// crown appends a champion record, whose number and time it fills in. The number follows the
// last one that this validator knows, and never one that it has just looked up: whoever has
// appended another since has fenced it.
func (v *validator) crown(ctx context.Context, rec *tidemill.Champion) error {
	rec.Seq, rec.At = v.last+1, time.Now().UTC()
	err := again(ctx, v.log, "append a champion record", func() error { return snapshot.AppendChampion(ctx, v.champ, *rec) })
	if errors.Is(err, tidemill.ErrExists) {
		was, rerr := snapshot.ReadChampion(ctx, v.champ, rec.Seq)
		if rerr == nil && was.Version == rec.Version && was.At.Equal(rec.At) {
			err = nil // an earlier try had arrived
		} else {
			err = fmt.Errorf("somebody else publishes model %s: %w", v.model, tidemill.ErrFenced)
		}
	}
	if err == nil {
		v.last = rec.Seq
		if f := v.r.t.cfg.Events.Champion; f != nil {
			f(*rec)
		}
	}
	return err
}

// forgetModels frees the models that nobody is going to score again, and the snapshots that
// they are of.
func (v *validator) forgetModels() {
	need := map[int64]bool{v.book.Champion().Version: true, v.book.Anchor().Version: true}
	for _, s := range v.book.Standings() {
		need[s.Version] = true
	}
	for n, s := range v.scorers {
		if !need[n] {
			s.Model().Close()
			delete(v.scorers, n)
		}
	}
	tested := map[int64]bool{}
	for n, of := range v.snapshots {
		if need[n] {
			tested[of] = true
		} else {
			delete(v.snapshots, n)
		}
	}
	v.r.keep.tests(tested)
}

// history returns all decisions on a version and the newest record that made it serve.
func (t *Trainer) history(ctx context.Context, model string, version int64) ([]tidemill.Decision, *tidemill.Champion, error) {
	ds, err := snapshot.ReadDecisions(ctx, t.cfg.Bucket, model, version)
	if err != nil {
		return nil, nil, err
	}
	chain, err := snapshot.Champions(t.cfg.Bucket, model)
	if err != nil {
		return ds, nil, err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return ds, nil, err
	}
	for _, n := range slices.Backward(numbers) {
		c, err := snapshot.ReadChampion(ctx, chain, n)
		if err != nil {
			return ds, nil, err
		}
		if c.Version == version {
			return ds, &c, nil
		}
	}
	return ds, nil, nil
}

// predecessor returns the champion before the one that serves.
func (t *Trainer) predecessor(ctx context.Context, model string) (int64, error) {
	chain, err := snapshot.Champions(t.cfg.Bucket, model)
	if err != nil {
		return 0, err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return 0, err
	}
	var now int64
	for _, n := range slices.Backward(numbers) {
		c, err := snapshot.ReadChampion(ctx, chain, n)
		if err != nil {
			return 0, err
		}
		switch {
		case c.Version == 0:
		case now == 0:
			now = c.Version
		case c.Version != now:
			return c.Version, nil
		}
	}
	return 0, fmt.Errorf("model %q has no earlier champion to go back to: %w", model, tidemill.ErrNotFound)
}

// byHand makes a version serve because somebody says so.
func (v *validator) byHand(ctx context.Context, kind string, version int64, by, why string) (tidemill.Champion, error) {
	b := v.r.t.cfg.Bucket
	if err := snapshot.HoldVersion(ctx, b, v.model, version, by, time.Now()); err != nil {
		return tidemill.Champion{}, err
	}
	files, err := snapshot.ReadVersion(ctx, b, v.model, version)
	if err != nil {
		return tidemill.Champion{}, err
	}
	mech, m := examine(files, v.r.t.cfg.Isolator)
	if m != nil {
		v.scoreWith(version, m)
	}
	v.of(files)
	outs, err := v.decide(ctx, gate.ByHand{Version: version, Cut: v.judged(files), Kind: kind, By: by, Why: why, Mechanics: mech})
	if err != nil {
		return tidemill.Champion{}, err
	}
	for _, o := range outs {
		if o.Champion != nil {
			return *o.Champion, nil
		}
		if o.Decision.Version == version {
			return tidemill.Champion{}, tidemill.Invalid("version %d was not made champion: %s", "", version, o.Decision.Reason)
		}
	}
	return tidemill.Champion{}, tidemill.Invalid("version %d was not made champion", "", version)
}
