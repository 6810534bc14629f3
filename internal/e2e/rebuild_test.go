package e2e

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/rebuild"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// rebuild rebuilds a version in a bucket of its own.
func (s *system) rebuild(model string, version, since int64) *rebuild.Result {
	s.t.Helper()
	scratch := memblob.OpenBucket(nil)
	defer scratch.Close()
	r, err := rebuild.Run(s.ctx, rebuild.Config{
		Store: s.Bucket(), Source: s.Stream(), Scratch: scratch, Model: model, Version: version, Since: since, Slots: 2,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatalf("rebuild %s@%d: %v", model, version, err)
	}
	return r
}

func (s *system) chain(job string) *snapshot.Chain {
	s.t.Helper()
	c, err := snapshot.Snapshots(s.Bucket(), job)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// A run that was stopped twice, with every version rebuilt: from the snapshot before it, some
// from the beginning; also with learned transforms, with rows that are admitted, expire and are
// kept in fewer bits, and after a start from a savepoint.
func TestRebuildVersions(t *testing.T) {
	yaml, csv := power(t, 1500)
	dir := t.TempDir()
	doc := parse(t, yaml, func(sp *tidemill.Spec) {
		sp.Train.Snapshot.Rows, sp.Train.Snapshot.Keep, sp.Train.Batch = 200, 1000, 3
		sp.Features[3].Standardize = &tidemill.Standardize{}
		sp.Features[0].Bucketize = &tidemill.Bucketize{Quantiles: 10, LearnRows: 100}
		sp.Optimizer.Sparse = tidemill.OptimizerChoice{Kind: tidemill.FTRL}
		sp.Tables = map[string]tidemill.TableChoice{"weights": {
			Admit: tidemill.Admission{After: 2, Counters: 1 << 14}, Expire: tidemill.Expiry{Every: 1000, Uses: 3}, Values: tidemill.ValuesBFloat16,
		}}
		sp.Gate.Mode = tidemill.GateOff
	})
	stoppedIn(t, dir, 3, csv, "power", doc, 400, 300)
	s := start(t, dir, node.Config{})
	same := func(model string) {
		t.Helper()
		numbers, err := snapshot.ListVersions(s.ctx, s.Bucket(), model)
		if err != nil || len(numbers) < 2 {
			t.Fatalf("versions %v, %v", numbers, err)
		}
		for _, n := range numbers {
			r := s.rebuild(model, n, rebuild.Nearest)
			if r.Outcome != rebuild.Same || r.Digest != r.Rebuilt || len(r.Files) < 4 || r.Snapshots != 1 {
				t.Errorf("%s@%d: %+v", model, n, r)
			}
		}
		last := numbers[len(numbers)-1]
		if r := s.rebuild(model, last, 0); r.Outcome != rebuild.Same || r.Snapshots < len(numbers) {
			t.Errorf("%s@%d from the beginning: %+v", model, last, r)
		}
	}
	same("power")
	s.command("power", "savepoint", map[string]string{"label": "end", "by": "ann"})
	kept, err := snapshot.ListSavepoints(s.ctx, s.Bucket(), "power")
	if err != nil || len(kept) != 1 { // none that rebuild held is left
		t.Fatalf("savepoints %v, %v", kept, err)
	}

	// A job that began from another one's snapshot.
	_, err = s.submitFrom(parse(t, yaml, func(sp *tidemill.Spec) {
		*sp = *doc.Spec
		sp.Model, sp.Stream.Offsets, sp.Train.End = "next", nil, nil
		sp.Optimizer.Sparse = tidemill.OptimizerChoice{Kind: tidemill.Adagrad}
	}), "power@2", true)
	if err != nil {
		t.Fatal(err)
	}
	s.finish("next")
	same("next")
}

// What cannot be rebuilt says why.
func TestRebuildImpossible(t *testing.T) {
	yaml, csv := power(t, 900)
	s := start(t, t.TempDir(), node.Config{})
	s.produce("power", 1, csv)
	s.submit(parse(t, yaml, func(sp *tidemill.Spec) {
		sp.Train.Snapshot.Rows, sp.Train.Snapshot.Keep, sp.Gate.Mode, sp.Train.Batch = 200, 1000, tidemill.GateOff, 4
	}))
	s.finish("power")
	s.submit(parse(t, yaml, func(sp *tidemill.Spec) {
		sp.Model, sp.Train.Snapshot.Rows, sp.Gate.Mode, sp.Train.Staleness, sp.Train.Batch = "stale", 400, tidemill.GateOff, 1, 10
	}))
	s.finish("stale")
	check := func(what, model string, version, since int64, outcome, why string) {
		t.Helper()
		if r := s.rebuild(model, version, since); r.Outcome != outcome || !strings.Contains(r.Why, why) {
			t.Errorf("%s: %s, %q; want %s, %q", what, r.Outcome, r.Why, outcome, why)
		}
	}
	check("staleness", "stale", 1, rebuild.Nearest, rebuild.Impossible, "staleness 1")
	check("no such snapshot", "power", 3, 99, rebuild.Impossible, "does not lie before")

	// A version whose files are not what its snapshot says.
	v, err := snapshot.ReadVersion(s.ctx, s.Bucket(), "power", 3)
	if err != nil {
		t.Fatal(err)
	}
	v.Version.Number = 90
	v.Tables[0].Weights[0]++
	if err := snapshot.WriteVersion(s.ctx, s.Bucket(), v); err != nil {
		t.Fatal(err)
	}
	check("other files", "power", 90, rebuild.Nearest, rebuild.Different, "the exported files differ")

	chain := s.chain("power")
	rewrite := func(n int64, change func(*snapshot.Manifest)) (restore func()) {
		t.Helper()
		was, err := s.Bucket().ReadAll(s.ctx, chain.Name(n))
		if err != nil {
			t.Fatal(err)
		}
		m, err := snapshot.ReadManifest(s.ctx, chain, n)
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		put := func(data []byte) {
			t.Helper()
			_ = s.Bucket().Delete(s.ctx, chain.Name(n))
			if err := s.Bucket().WriteAll(s.ctx, chain.Name(n), data, &blob.WriterOptions{IfNotExist: true}); err != nil {
				t.Fatal(err)
			}
		}
		put(data)
		return func() { put(was) }
	}
	snap := v.Version.Snapshot
	before, err := snapshot.ReadManifest(s.ctx, chain, snap)
	if err != nil {
		t.Fatal(err)
	}
	restore := rewrite(snap, func(m *snapshot.Manifest) { m.Profile = "abacus/wood" })
	check("another profile", "power", 3, rebuild.Nearest, rebuild.Impossible, "the numeric profile differs: the version was trained with abacus/wood")
	restore()
	restore = rewrite(snap, func(m *snapshot.Manifest) { m.StreamIdentity = "another" })
	check("another stream", "power", 3, rebuild.Nearest, rebuild.Impossible, "was made again")
	restore()
	restore = rewrite(snap, func(m *snapshot.Manifest) { m.Schedule = m.Schedule[:0] })
	check("no schedule", "power", 3, rebuild.Nearest, rebuild.Impossible, "schedule")
	restore()
	// A schedule that was another one gives other bits: batches of half the size.
	restore = rewrite(snap, func(m *snapshot.Manifest) {
		r := &m.Schedule[0]
		r.Rounds, r.Steps[0].Rows = r.Rounds*2, r.Steps[0].Rows/2
		m.Round += r.Rounds / 2
	})
	check("another schedule", "power", 3, rebuild.Nearest, rebuild.Different, "the digest differs")
	restore()
	check("all is well again", "power", 3, rebuild.Nearest, rebuild.Same, "")

	// The snapshot before it is gone: the one before that, or the beginning, will do.
	parent, err := snapshot.ReadManifest(s.ctx, chain, before.Parent)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Bucket().Delete(s.ctx, parent.Parts[0].Blobs[len(parent.Parts[0].Blobs)-1].Name)
	if r := s.rebuild("power", 3, rebuild.Nearest); r.Outcome != rebuild.Same || r.Snapshots != 2 {
		t.Errorf("one snapshot further back: %+v", r)
	}
	check("a given one that is gone", "power", 3, before.Parent, rebuild.Impossible, "is not whole any more")
	_ = s.Bucket().Delete(s.ctx, chain.Name(before.Parent))
	check("a manifest gone", "power", 3, rebuild.Nearest, rebuild.Impossible, "was collected, and with it the schedule")
	if err := s.Stream().Delete(s.ctx, "power"); err != nil {
		t.Fatal(err)
	}
	check("no stream", "power", 1, rebuild.Nearest, rebuild.Impossible, "does not exist any more")
}

// Of a job that keeps one snapshot, old versions are rebuilt as far as what is left allows, and
// the rest says what is gone.
func TestRebuildAfterCollection(t *testing.T) {
	yaml, csv := power(t, 1200)
	s := start(t, t.TempDir(), node.Config{})
	s.produce("power", 1, csv)
	s.submit(parse(t, yaml, func(sp *tidemill.Spec) {
		sp.Train.Snapshot.Rows, sp.Train.Snapshot.Keep, sp.Gate.Mode, sp.Train.Batch = 100, 1, tidemill.GateOff, 4
	}))
	s.finish("power")
	collector, err := snapshot.NewCollector(s.Bucket(), "power", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := collector.Run(s.ctx, 1, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r := s.rebuild("power", 3, rebuild.Nearest); r.Outcome != rebuild.Impossible || !strings.Contains(r.Why, "collected") {
		t.Errorf("%+v", r)
	}
}

// A job is pinned to a numeric profile, and rebuilt with the bits of that profile on a machine
// that has faster ones.
func TestRebuildOfAProfile(t *testing.T) {
	yaml, csv := power(t, 600)
	profiles := model.Profiles()
	s := start(t, t.TempDir(), node.Config{Profiles: profiles[len(profiles)-1:]})
	s.produce("power", 1, csv)
	s.submit(parse(t, yaml, func(sp *tidemill.Spec) {
		sp.Train.Snapshot.Rows, sp.Gate.Mode, sp.Train.Batch = 300, tidemill.GateOff, 16
		sp.Architecture = tidemill.Architecture{Kind: tidemill.DeepFM, Dim: 8, Hidden: []int{16}, InitScale: 0.01, Loss: "logistic"}
	}))
	s.finish("power")
	r := s.rebuild("power", 1, rebuild.Nearest)
	if r.Outcome != rebuild.Same || r.Profile != profiles[len(profiles)-1] {
		t.Errorf("%+v", r)
	}
}
