package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/trainer/gate"
)

// validator makes versions of committed snapshots and carries out what the gate decides on
// them: what the trainer's validator does around gate.Book, which is the real one, as are the
// files that it writes. Only losses are made up.
type validator struct {
	t     *trainerNode
	book  *gate.Book
	next  int64 // number of the next version
	last  int64 // number of the last champion record that is known
	queue []func(done func())
	busy  bool
	final bool // no snapshot will come any more
	done  bool // and every candidate has its decision

	offered  map[int64]bool  // snapshots that a version was made of
	examples map[int64]int64 // by version
	scoring  bool
}

func newValidator(t *trainerNode) *validator {
	v := &validator{t: t, next: 1, offered: map[int64]bool{}, examples: map[int64]int64{}}
	v.do(v.recover)
	left := t.left
	t.left = nil
	for _, m := range left {
		v.committed(m)
	}
	return v
}

func (v *validator) goes() bool { return v.t.val == v }

// do runs f after all that was asked for before.
func (v *validator) do(f func(done func())) {
	v.queue = append(v.queue, f)
	if !v.busy {
		v.go1()
	}
}

func (v *validator) go1() {
	if len(v.queue) == 0 {
		v.busy = false
		v.score()
		return
	}
	f := v.queue[0]
	v.queue, v.busy = v.queue[1:], true
	f(func() {
		if v.goes() {
			v.go1()
		}
	})
}

func (v *validator) store(f func(ctx context.Context, b *blob.Bucket) error, done func(error)) {
	v.t.w.again(v.t.n, v.goes, v.t.w.do, f, done)
}

// gone begins again: by a new validator, which looks at what is stored.
func (v *validator) gone(err error) {
	v.t.w.say("%s: validation begins again: %v", v.t.n.id(), err)
	final := v.final
	v.t.val = nil
	t := v.t
	t.w.on(t.n, t.n.incarnation, leaseTTL/3, func() {
		if t.val == nil && t.leads && (t.core != nil || final) {
			t.val = newValidator(t)
			if final {
				t.val.inherit()
				t.val.finish()
			}
		}
	})
}

// fence takes the next number of the champion chain, so that a predecessor that wakes up later
// cannot publish any more.
func (v *validator) fence(then func(rec *tidemill.Champion)) {
	var last int64
	var rec *tidemill.Champion
	v.store(func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Champions(b, modelName)
		if err == nil {
			last, rec, err = snapshot.LastChampion(ctx, chain)
		}
		return err
	}, func(err error) {
		if err != nil {
			v.gone(err)
			return
		}
		v.store(func(ctx context.Context, b *blob.Bucket) error {
			chain, err := snapshot.Champions(b, modelName)
			if err != nil {
				return err
			}
			return snapshot.AppendChampion(ctx, chain, tidemill.Champion{
				Model: modelName, Seq: last + 1, Fence: last, Kind: snapshot.ChampionFence, By: v.t.n.id(),
			})
		}, func(err error) {
			switch {
			case errors.Is(err, tidemill.ErrExists):
				v.fence(then)
			case err != nil:
				v.gone(err)
			default:
				v.last = last + 1
				then(rec)
			}
		})
	})
}

// recover rebuilds the Book from what is in the store.
func (v *validator) recover(done func()) {
	v.fence(func(rec *tidemill.Champion) {
		type found struct {
			number  int64
			version tidemill.Version
			decided bool // for good
			known   bool // has a decision
			err     error
		}
		var all []found
		v.store(func(ctx context.Context, b *blob.Bucket) error {
			all = nil
			numbers, err := snapshot.ListVersions(ctx, b, modelName)
			for _, n := range numbers {
				f := found{number: n}
				if files, err := snapshot.ReadVersion(ctx, b, modelName, n); err != nil {
					f.err = err
				} else {
					f.version = files.Version
				}
				d, derr := snapshot.ReadDecision(ctx, b, modelName, n)
				f.known = derr == nil
				f.decided = derr == nil && (d.Decision == tidemill.Rejected || d.Decision == tidemill.Superseded)
				if derr != nil && !errors.Is(derr, tidemill.ErrNotFound) {
					return derr
				}
				all = append(all, f)
			}
			return err
		}, func(err error) {
			if err != nil {
				v.gone(err)
				return
			}
			cfg := gate.Config{Model: modelName, Partitions: v.t.w.cfg.Partitions, Gate: v.t.w.records.asg.Spec.Gate}
			for _, f := range all {
				v.next = max(v.next, f.number+1)
				if f.err != nil {
					continue
				}
				v.examples[f.number] = f.version.Examples
				s := gate.Serving{Version: f.number, Cut: v.head(f.version.Cut)}
				if rec != nil && rec.Version == f.number {
					cfg.Champion = s
				}
				if rec != nil && rec.Anchor == f.number && rec.Anchor != rec.Version {
					cfg.Anchor = s
				}
				v.offered[f.version.Snapshot] = true
			}
			if rec != nil && cfg.Champion.Version == 0 {
				v.gone(fmt.Errorf("version %d serves and is %w", rec.Version, tidemill.ErrCorrupt))
				return
			}
			if v.book, err = gate.NewBook(cfg); err != nil {
				v.t.w.fail("a gate cannot be made: %v", err)
				return
			}
			for _, f := range all {
				if f.err != nil || f.decided || f.number <= cfg.Champion.Version && (f.known || f.number == cfg.Champion.Version) {
					continue
				}
				v.do(func(done func()) { v.present(f.version, nil, done) })
			}
			done()
		})
	})
}

// committed hands over a committed snapshot.
func (v *validator) committed(m *snapshot.Manifest) {
	v.t.left = append(v.t.left, m)
	v.do(func(done func()) {
		v.offer(m, func() {
			v.t.left = slices.DeleteFunc(v.t.left, func(x *snapshot.Manifest) bool { return x == m })
			done()
		})
	})
}

// inherit offers the last snapshot of a job that is over, unless a trainer that died has.
func (v *validator) inherit() {
	v.do(func(done func()) {
		var m *snapshot.Manifest
		v.store(func(ctx context.Context, b *blob.Bucket) error {
			chain, err := snapshot.Snapshots(b, jobName)
			if err == nil {
				_, m, err = snapshot.Latest(ctx, chain)
			}
			return err
		}, func(err error) {
			switch {
			case err != nil:
				v.gone(err)
			case m == nil:
				done()
			default:
				v.offer(m, done)
			}
		})
	})
}

// finish tells that no further snapshot will come.
func (v *validator) finish() {
	v.final = true
	v.do(func(done func()) { done() })
}

// offer makes a version of a snapshot and puts it to the gate.
func (v *validator) offer(m *snapshot.Manifest, done func()) {
	if v.offered[m.Number] || m.Examples == 0 {
		done()
		return
	}
	number, taken := v.next, false
	var read *snapshot.VersionFiles
	var rerr error
	v.store(func(ctx context.Context, b *blob.Bucket) error {
		shards, err := readParts(ctx, b, m.Parts, v.t.w.cfg.Shards, everything)
		if err != nil {
			return err
		}
		files := &snapshot.VersionFiles{
			Version: tidemill.Version{
				Model: modelName, Number: number, Job: jobName, Lineage: m.Lineage, Snapshot: m.Number, Cut: m.Cut,
				Examples: m.Examples, Digest: m.Digest.String(), Parent: v.book.Champion().Version,
			},
			Spec:   m.Spec,
			Tables: []snapshot.Frozen{{TableSpec: tidemill.TableSpec{Name: "counts", Dim: 1}}},
		}
		t := &files.Tables[0]
		for _, s := range shards {
			for id, n := range s.count {
				t.IDs, t.Weights = append(t.IDs, id), append(t.Weights, float32(n))
			}
		}
		err = snapshot.WriteVersion(ctx, b, files)
		if errors.Is(err, tidemill.ErrExists) {
			// An earlier try may have arrived although its answer did not.
			was, rerr := snapshot.ReadVersionRecord(ctx, b, modelName, number)
			if taken = rerr != nil || was.Snapshot != m.Number || was.Digest != m.Digest.String(); taken {
				return nil
			}
			err = nil
		}
		if err == nil {
			read, rerr = snapshot.ReadVersion(ctx, b, modelName, number)
		}
		return err
	}, func(err error) {
		switch {
		case taken:
			v.gone(fmt.Errorf("version %d is somebody else's: %w", number, tidemill.ErrFenced))
		case err != nil:
			v.t.w.say("%s: snapshot %d could not be made a candidate: %v", v.t.n.id(), m.Number, err)
			done()
		default:
			v.next++
			v.offered[m.Number] = true
			version := tidemill.Version{Number: number, Cut: m.Cut, Examples: m.Examples}
			if read != nil {
				version = read.Version
			}
			v.present(version, rerr, done)
		}
	})
}

// head is the part of a cut that the gate looks at: the partitions that the job began with.
func (v *validator) head(cut tidemill.Cut) tidemill.Cut { return cut[:v.t.w.cfg.Partitions] }

// present offers a stored version to the Book.
func (v *validator) present(version tidemill.Version, damage error, done func()) {
	v.examples[version.Number] = version.Examples
	fine := gate.FindingOf(nil)
	mech := gate.Mechanics{Integrity: gate.FindingOf(damage), Loads: fine, Finite: fine, ParityRows: 1}
	v.decide(gate.Offer{Version: version.Number, Cut: v.head(version.Cut), Mechanics: mech}, func([]gate.Outcome, error) { done() })
}

// decide steps the Book and stores what it decides: the decision with its evidence first, then
// the champion record, which alone makes it true.
func (v *validator) decide(e gate.Event, then func([]gate.Outcome, error)) {
	outs, err := v.book.Step(e)
	var next func(i int)
	next = func(i int) {
		if i == len(outs) {
			then(outs, err)
			return
		}
		o := outs[i]
		v.store(func(ctx context.Context, b *blob.Bucket) error {
			_, err := snapshot.WriteDecision(ctx, b, o.Decision)
			return err
		}, func(err error) {
			switch {
			case err != nil:
				v.gone(err)
			case o.Champion != nil:
				v.crown(o.Champion, func() { next(i + 1) })
			default:
				next(i + 1)
			}
		})
	}
	next(0)
}

// crown appends a champion record after the last one that this validator knows: one that
// somebody else appended meanwhile has fenced it.
func (v *validator) crown(rec *tidemill.Champion, then func()) {
	rec.Seq = v.last + 1
	fenced := false
	v.store(func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Champions(b, modelName)
		if err != nil {
			return err
		}
		err = snapshot.AppendChampion(ctx, chain, *rec)
		if errors.Is(err, tidemill.ErrExists) {
			was, rerr := snapshot.ReadChampion(ctx, chain, rec.Seq)
			// The time, which the real records have, is the writer here.
			fenced = rerr != nil || was.Version != rec.Version || v.t.w.checks.champions[rec.Seq] != v.t.n.id()
			return nil
		}
		return err
	}, func(err error) {
		if err == nil && fenced {
			err = fmt.Errorf("somebody else publishes: %w", tidemill.ErrFenced)
		}
		if err != nil {
			v.gone(err)
			return
		}
		v.last = rec.Seq
		then()
	})
}

// promote makes a version serve because somebody says so.
func (v *validator) promote(by, why string, answer func(any, error)) {
	v.do(func(done func()) {
		var version int64
		var files *snapshot.VersionFiles
		v.store(func(ctx context.Context, b *blob.Bucket) error {
			numbers, err := snapshot.ListVersions(ctx, b, modelName)
			if err != nil {
				return err
			}
			if len(numbers) == 0 {
				return fmt.Errorf("no version: %w", tidemill.ErrInvalid)
			}
			version = numbers[len(why)%len(numbers)]
			files, err = snapshot.ReadVersion(ctx, b, modelName, version)
			return err
		}, func(err error) {
			if err != nil {
				answer(nil, err)
				done()
				return
			}
			fine := gate.FindingOf(nil)
			mech := gate.Mechanics{Integrity: fine, Loads: fine, Finite: fine, ParityRows: 1}
			v.examples[version] = files.Version.Examples
			v.decide(gate.ByHand{Version: version, Cut: v.head(files.Version.Cut), Kind: gate.KindPromote, By: by, Why: why, Mechanics: mech},
				func(_ []gate.Outcome, err error) {
					answer(version, err)
					done()
				})
		})
	})
}

// score scores rows that candidates are judged on, some at a time, while there are any.
func (v *validator) score() {
	if v.scoring || !v.goes() || v.book == nil {
		return
	}
	if len(v.book.Wants()) == 0 && !v.final {
		return
	}
	v.scoring = true
	v.t.w.on(v.t.n, v.t.n.incarnation, 5*ms+v.t.w.delay(), func() {
		v.scoring = false
		if !v.goes() || v.busy {
			return
		}
		v.do(func(done func()) { v.scoreSome(done) })
	})
}

func (v *validator) scoreSome(done func()) {
	w := v.t.w
	if w.nodes["log"].up && w.arrives("log", v.t.n.name, "log") {
		for p := range w.cfg.Partitions {
			wants := v.book.Wants()
			from := int64(len(w.log[p]))
			for _, x := range wants {
				from = min(from, x.From[p])
			}
			next := min(int64(len(w.log[p])), from+16)
			if from >= next {
				continue
			}
			e := gate.Rows{Partition: p, Range: tidemill.Range{First: from, Next: next}, Losses: map[int64][]float32{}}
			for o := from; o < next; o++ {
				e.Prior = append(e.Prior, 0.69)
			}
			for _, x := range wants {
				if x.From[p] >= next {
					continue
				}
				for o := from; o < next; o++ {
					e.Losses[x.Version] = append(e.Losses[x.Version], lossOf(v.examples[x.Version], p, o))
				}
			}
			v.decide(e, func(_ []gate.Outcome, err error) {
				if err != nil {
					w.fail("the gate refuses rows: %v", err)
				}
				done()
			})
			return
		}
	} else if !w.closing {
		done()
		return
	}
	if v.final && !v.done {
		v.decide(gate.End{}, func([]gate.Outcome, error) {
			v.done = true
			done()
		})
		return
	}
	v.idle()
}

// idle ends a turn that found nothing to score: not by score, which would come back at once.
func (v *validator) idle() {
	v.busy = false
	if len(v.queue) > 0 {
		v.go1()
		return
	}
	if len(v.book.Wants()) > 0 {
		v.t.w.on(v.t.n, v.t.n.incarnation, watchEvery, func() {
			if v.goes() && !v.busy {
				v.score()
			}
		})
	}
}

// lossOf makes up the loss of a version on a row: more examples, less loss, and noise.
func lossOf(examples int64, partition int, offset int64) float32 {
	noise := float32(tidemill.Mix(uint64(offset)<<8+uint64(partition))%1000) / 1000
	return 0.1 + 0.4/(1+float32(examples)/100) + 0.1*noise
}
