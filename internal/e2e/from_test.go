package e2e

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/carry"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// command carries out a verb and fails the test when it is refused.
func (s *system) command(job, verb string, args map[string]string) {
	s.t.Helper()
	if _, err := s.Trainer().Command(s.ctx, job, verb, args); err != nil {
		s.t.Fatalf("%s %s %v: %v", verb, job, args, err)
	}
}

func (s *system) submitFrom(doc *spec.Document, from string, yes bool) (trainer.SubmitStatus, error) {
	return s.Trainer().SubmitFrom(s.ctx, doc, trainer.From{Name: from, Yes: yes})
}

// pausedWith trains power as doc says until it has a snapshot of so many examples at least, and
// keeps that as a savepoint.
func (s *system) pausedWith(doc *spec.Document, label string) snapshot.Savepoint {
	s.t.Helper()
	s.submit(doc)
	job := doc.Spec.Model
	s.finish(job)
	s.command(job, trainer.VerbSavepoint, map[string]string{"label": label, "by": "ann"})
	kept, err := snapshot.ReadSavepoint(s.ctx, s.Bucket(), job, label)
	if err != nil {
		s.t.Fatal(err)
	}
	return kept
}

// A job that starts from another one's savepoint with the same spec reaches the digest, and the
// metrics, of a job that was never interrupted; with other workers, servers and shards of the
// key space too. Part of that: averages, FTRL's state, learned transforms.
func TestFromSavepointSameDigest(t *testing.T) {
	yaml, csv := power(t, powerRows)
	learned := func(sp *tidemill.Spec) {
		sp.Optimizer.Sparse = tidemill.OptimizerChoice{Kind: tidemill.FTRL}
		sp.Optimizer.Dense = tidemill.OptimizerChoice{Kind: tidemill.Adam}
		sp.Features[3].Standardize = &tidemill.Standardize{}
		sp.Features[0].Bucketize = &tidemill.Bucketize{Quantiles: 10}
		sp.Train.Batch = 3
	}
	for name, change := range map[string]func(*tidemill.Spec){"as it is": func(*tidemill.Spec) {}, "learned": learned} {
		t.Run(name, func(t *testing.T) {
			job := func(end int64, model string, shards int) *spec.Document {
				return parse(t, yaml, func(sp *tidemill.Spec) {
					change(sp)
					sp.Model, sp.Shards = model, shards
					sp.Train.Snapshot.Rows = 300
					sp.Train.End = tidemill.Cut{end, end}
				})
			}
			s := start(t, t.TempDir(), node.Config{Slots: 2})
			s.produce("power", 2, csv)
			s.submit(job(powerRows/2, "whole", 64))
			want := s.finish("whole")
			kept := s.pausedWith(job(600, "half", 64), "middle")
			if kept.Examples != 1200 {
				t.Fatalf("the savepoint holds %d examples", kept.Examples)
			}
			check := func(model string, st trainer.JobStatus) {
				t.Helper()
				if st.Digest != want.Digest || st.Examples != want.Examples || st.Progress != want.Progress {
					t.Errorf("%s: digest %s of %d examples, loss %v; uninterrupted %s of %d, loss %v",
						model, st.Digest, st.Examples, st.Progress.Loss, want.Digest, want.Examples, want.Progress.Loss)
				}
			}
			// Another name; the same name in a new lineage; from a snapshot's number; another V.
			for _, c := range []struct {
				model, from string
				shards      int
			}{{"next", "half/middle", 64}, {"half", "middle", 64}, {"other-v", "half/middle", 7}} {
				st, err := s.submitFrom(job(powerRows/2, c.model, c.shards), c.from, false)
				if err != nil {
					t.Fatal(err)
				}
				if st.From == nil || st.From.Savepoint != "middle" || st.From.Digest != kept.Digest || st.Examples != 1200 {
					t.Errorf("%s: starts from %+v with %d examples", c.model, st.From, st.Examples)
				}
				check(c.model, s.finish(c.model))
				if m := s.manifest(c.model); m.Ancestor == nil || m.Ancestor.Snapshot != kept.Snapshot || m.Lineage == kept.Lineage {
					t.Errorf("%s: the last manifest's ancestor is %+v", c.model, m.Ancestor)
				}
			}
			left, err := snapshot.ListSavepoints(s.ctx, s.Bucket(), "half")
			if err != nil || len(left) != 1 {
				t.Errorf("savepoints %+v, %v", left, err)
			}
		})
	}
}

// A changed spec: what cannot carry over is refused with the reason, what is lost is listed and
// needs agreement, and the job that starts trains on.
func TestFromIntoAChangedSpec(t *testing.T) {
	yaml, csv := power(t, 1000)
	s := start(t, t.TempDir(), node.Config{Slots: 2})
	s.produce("power", 1, csv)
	base := func(sp *tidemill.Spec) {
		sp.Train.Snapshot.Rows = 200
		sp.Train.End = tidemill.Cut{600}
	}
	s.pausedWith(parse(t, yaml, base), "middle")
	changed := func(f func(*tidemill.Spec)) *spec.Document {
		return parse(t, yaml, func(sp *tidemill.Spec) {
			base(sp)
			sp.Model, sp.Train.End = "changed", nil
			f(sp)
		})
	}
	refused := func(what string, from string, yes bool, f func(*tidemill.Spec), want ...string) {
		t.Helper()
		_, err := s.submitFrom(changed(f), from, yes)
		if err == nil {
			t.Fatalf("%s: accepted", what)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q lacks %q", what, err, w)
			}
		}
	}
	refused("edges", "power/middle", true, func(sp *tidemill.Spec) { sp.Features[0].Bucketize.Geometric = []float64{0.01, 0.3, 20} },
		"feature price", "19 bucket edges", "20 bucket edges", "another name")
	refused("offsets", "power/middle", true, func(sp *tidemill.Spec) { sp.Stream.Offsets = []int64{5} }, "position")
	refused("no such savepoint", "power/midle", true, func(*tidemill.Spec) {}, `did you mean "middle"`)
	refused("no such snapshot", "power/99", true, func(*tidemill.Spec) {}, "snapshot 99 of job power")
	refused("without agreement", "power/middle", false, func(sp *tidemill.Spec) { sp.Features = sp.Features[1:] }, "feature price", "--yes")
	if _, err := s.Trainer().Status(s.ctx, "changed"); !errors.Is(err, tidemill.ErrNotFound) {
		t.Fatalf("what was refused left a job behind: %v", err)
	}
	st, err := s.submitFrom(changed(func(sp *tidemill.Spec) {
		// price goes, price2 comes; a number goes; another optimizer; no averages; stale.
		sp.Features[0].Name = "price2"
		sp.Features = append(sp.Features[:4:4], sp.Features[5:]...)
		sp.Optimizer = tidemill.OptimizerSpec{
			Sparse: tidemill.OptimizerChoice{Kind: tidemill.Adagrad, LR: 0.1}, Dense: tidemill.OptimizerChoice{Kind: tidemill.Adagrad, LR: 0.1},
		}
		sp.Train.Staleness, sp.Train.Batch = 2, 4
	}), "power@1", true)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Carried) == 0 || st.Carried[0].Action != carry.Dropped {
		t.Errorf("what is dropped does not come first: %v", st.Carried)
	}
	end := s.finish("changed")
	if end.Examples != 1000 || end.Progress.Examples != 1000 || end.Cut.Rows() != 1000 {
		t.Errorf("%d examples, %d judged, cut %v", end.Examples, end.Progress.Examples, end.Cut)
	}
	if end.Progress.Loss > end.Progress.PriorLoss {
		t.Errorf("loss %v, prior %v", end.Progress.Loss, end.Progress.PriorLoss)
	}
	// What was retired is remembered: price with other edges would find its old rows.
	s.command("changed", trainer.VerbSavepoint, map[string]string{"label": "later", "by": "ann"})
	_, err = s.submitFrom(changed(func(sp *tidemill.Spec) {
		sp.Model = "again"
		sp.Features[0].Bucketize.Geometric = []float64{0.01, 0.3, 20}
	}), "changed/later", true)
	if err == nil || !strings.Contains(err.Error(), "an earlier spec had a feature of this name") {
		t.Errorf("a retired name with another meaning: %v", err)
	}
	// A running job is in nobody's way, and nobody is in its.
	forever := changed(func(sp *tidemill.Spec) { sp.Model = "power"; sp.Train.UntilEnd = false })
	if _, err := s.submitFrom(forever, "middle", true); err != nil {
		t.Fatal(err)
	}
	s.until("the job trains", func() bool { return s.status("power").Examples == 1000 })
	if _, err := s.submitFrom(forever, "middle", true); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	// Another stream: only if the spec says where to begin.
	s.produce("power2", 1, csv)
	_, err = s.submitFrom(parse(t, []byte(strings.Replace(string(yaml), ", from: earliest", "", 1)), func(sp *tidemill.Spec) {
		sp.Model, sp.Stream.Topic = "elsewhere", "power2"
	}), "power/middle", false)
	if err == nil || !strings.Contains(err.Error(), "say with stream.from where to begin") {
		t.Errorf("another stream: %v", err)
	}
	st, err = s.submitFrom(changed(func(sp *tidemill.Spec) { sp.Model, sp.Stream.Topic = "elsewhere", "power2" }), "power/middle", false)
	if err != nil {
		t.Fatal(err)
	}
	if end := s.finish("elsewhere"); end.Examples != 1600 || end.Progress.Examples != 1000 {
		t.Errorf("elsewhere: %d examples, %d judged", end.Examples, end.Progress.Examples)
	}
}
