package rebuild

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
)

// Outcomes of a rebuild.
const (
	Same       = "same"
	Different  = "different"
	Impossible = "impossible" // Why says what is missing
)

// Nearest, as Config.Since, starts from the nearest snapshot before the version.
const Nearest = int64(-1)

// Config of Run. Store, Source and Scratch belong to the caller.
type Config struct {
	Store   *blob.Bucket
	Source  source.Stream
	Scratch *blob.Bucket // empty; holds the snapshot, and what is made of it
	Model   string
	Version int64
	// Since is the number of the snapshot to start from, 0 for the job's beginning, or Nearest.
	Since  int64
	Slots  int // batches computed at the same time; at least 1
	Logger *slog.Logger
	// Progress, when given, is called with the rows trained again so far, of all.
	Progress func(done, all int64)
}

// Result is what a rebuild found.
type Result struct {
	Model    string `json:"model"`
	Version  int64  `json:"version"`
	Outcome  string `json:"outcome"`
	Why      string `json:"why,omitempty"`
	Job      string `json:"job"`
	Lineage  string `json:"lineage"`
	Snapshot int64  `json:"snapshot"` // that the version was made of
	// Since is the snapshot that training started from again; 0: from the beginning.
	Since     int64    `json:"since"`
	Rounds    int64    `json:"rounds"`
	Rows      int64    `json:"rows"` // read again
	Examples  int64    `json:"examples"`
	Profile   string   `json:"profile"`
	Digest    string   `json:"digest"`            // of the version
	Rebuilt   string   `json:"rebuilt,omitempty"` // digest of what was made
	Files     []File   `json:"files,omitempty"`
	Seconds   float64  `json:"seconds"`
	Here      []string `json:"profiles_here"` // numeric profiles that this process offers
	RowsPerS  float64  `json:"rows_per_second"`
	Snapshots int      `json:"snapshots"` // manifests whose schedules were gone through
}

// File is one file of the version.
type File struct {
	Kind    string `json:"kind"`
	Table   string `json:"table,omitempty"`
	SHA256  string `json:"sha256"` // of the version's; "" if it has none such
	Rebuilt string `json:"rebuilt"`
	Same    bool   `json:"same"`
	// Note says in what sense a file is the same whose bytes differ.
	Note string `json:"note,omitempty"`
}

// impossible is why a version cannot be rebuilt.
type impossible struct{ why string }

func (e *impossible) Error() string { return e.why }

func cannot(format string, args ...any) error { return &impossible{fmt.Sprintf(format, args...)} }

// Run rebuilds a version and compares. The error is of doing so, and tidemill.ErrNotFound for a
// version that does not exist; that a version cannot be rebuilt, or differs, is a Result.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	v, err := snapshot.ReadVersionRecord(ctx, cfg.Store, cfg.Model, cfg.Version)
	if err != nil {
		return nil, err
	}
	r := &Result{
		Model: v.Model, Version: v.Number, Job: v.Job, Lineage: v.Lineage, Snapshot: v.Snapshot, Since: cfg.Since,
		Examples: v.Examples, Profile: v.Profile, Digest: v.Digest,
	}
	begin := time.Now()
	err = r.run(ctx, &cfg, v)
	r.Seconds = time.Since(begin).Seconds()
	if no := (*impossible)(nil); errors.As(err, &no) {
		r.Outcome, r.Why = Impossible, no.why
		return r, nil
	}
	return r, err
}

func (r *Result) run(ctx context.Context, cfg *Config, v tidemill.Version) error {
	last, err := lastOf(ctx, cfg.Store, v)
	if err != nil {
		return err
	}
	schema, err := model.DecodeSchema(last.Schema)
	if err != nil {
		return err
	}
	r.Here = model.Profiles()
	if !slices.Contains(r.Here, last.Profile) {
		return cannot("the numeric profile differs: the version was trained with %s, and this process offers %s; rebuild where that profile is offered", last.Profile, strings.Join(r.Here, ", "))
	}
	if _, err := model.CompileIn(ctx, cfg.Store, &last.Spec, schema, engine.Options{Profile: last.Profile}); err != nil {
		return err
	}
	path, err := findPath(ctx, cfg.Store, last, cfg.Since)
	if err != nil {
		return err
	}
	r.Snapshots = len(path.manifests)
	r.Since = 0
	if path.base != nil {
		r.Since = path.base.Number
	}
	if err := checkStream(ctx, cfg.Source, path); err != nil {
		return err
	}
	r.Rounds, r.Rows = path.size()
	if path.base != nil {
		if err := copySnapshot(ctx, cfg, path.base); err != nil {
			return err
		}
	}
	begin := time.Now()
	made, err := replay(ctx, cfg, path)
	if err != nil {
		return err
	}
	if s := time.Since(begin).Seconds(); s > 0 {
		r.RowsPerS = math.Round(float64(r.Rows) / s)
	}
	return r.compare(ctx, cfg, v, made)
}

// lastOf returns the manifest that a version was made of.
func lastOf(ctx context.Context, b *blob.Bucket, v tidemill.Version) (*snapshot.Manifest, error) {
	m, err := manifest(ctx, b, v.Job, v.Snapshot, v.Lineage)
	if err != nil {
		return nil, err
	}
	if m.Digest.String() != v.Digest {
		return nil, cannot("snapshot %d of job %s has digest %s, and the version says that it was made of %s", m.Number, m.Job, m.Digest, v.Digest)
	}
	if m.Spec.Train.Staleness != 0 {
		return nil, cannot("the job trained with staleness %d: its bits depend on timing, and only staleness 0 can be repeated", m.Spec.Train.Staleness)
	}
	return m, nil
}

// manifest reads one of a lineage.
func manifest(ctx context.Context, b *blob.Bucket, job string, n int64, lineage string) (*snapshot.Manifest, error) {
	chain, err := snapshot.Snapshots(b, job)
	if err != nil {
		return nil, err
	}
	m, err := snapshot.ReadManifest(ctx, chain, n)
	switch {
	case errors.Is(err, tidemill.ErrNotFound):
		return nil, cannot("the manifest of snapshot %d of job %s was collected, and with it the schedule of its rounds; a savepoint before it would have kept them", n, job)
	case errors.Is(err, tidemill.ErrCorrupt):
		return nil, cannot("the manifest of snapshot %d of job %s is damaged: %v", n, job, err)
	case err != nil:
		return nil, err
	case m.Fence != nil || m.Lineage != lineage:
		return nil, cannot("snapshot %d of job %s is of another lineage than the version's, %s", n, job, lineage)
	}
	return m, nil
}

// path leads from a state to the version's: what is restored, and the manifests whose schedules
// follow, oldest first. base is nil for the initial state.
type path struct {
	base      *snapshot.Manifest
	manifests []*snapshot.Manifest
}

func (p *path) last() *snapshot.Manifest { return p.manifests[len(p.manifests)-1] }

// findPath goes back from the version's snapshot to the nearest one that is whole, or to since.
func findPath(ctx context.Context, b *blob.Bucket, last *snapshot.Manifest, since int64) (*path, error) {
	if since >= last.Number {
		return nil, cannot("snapshot %d does not lie before the version's, %d", since, last.Number)
	}
	p := &path{}
	for m := last; ; {
		if m.Profile != last.Profile {
			return nil, cannot("the numeric profile changed on the way: snapshot %d was trained with %s, and the version with %s; start from a later snapshot", m.Number, m.Profile, last.Profile)
		}
		p.manifests = slices.Insert(p.manifests, 0, m)
		if m.Parent == 0 {
			if m.Ancestor != nil {
				return nil, cannot("the version is of the snapshot that its job began from: it was converted, not trained")
			}
			if since > 0 {
				return nil, cannot("snapshot %d is not one that the version continues", since)
			}
			return p, nil
		}
		parent, err := manifest(ctx, b, last.Job, m.Parent, last.Lineage)
		if err != nil {
			return nil, err
		}
		converted := parent.Parent == 0 && parent.Ancestor != nil // the job's beginning
		switch {
		case since > parent.Number:
			return nil, cannot("snapshot %d is not one that the version continues", since)
		case since == parent.Number || since == Nearest || converted:
			ok, missing, err := whole(ctx, b, parent)
			if err != nil {
				return nil, err
			}
			if ok {
				p.base = parent
				return p, nil
			}
			if since == parent.Number || converted {
				return nil, cannot("snapshot %d is not whole any more: %s was collected", parent.Number, missing)
			}
		}
		m = parent
	}
}

// whole reports whether all blobs of a snapshot are there, or names one that is not. Their bytes
// are verified when they are read.
func whole(ctx context.Context, b *blob.Bucket, m *snapshot.Manifest) (ok bool, missing string, err error) {
	if err := snapshot.CheckKept(ctx, b, m.Job, m.Number); errors.Is(err, tidemill.ErrNotFound) {
		return false, "its state", nil
	} else if err != nil {
		return false, "", err
	}
	for _, part := range m.Parts {
		for _, info := range part.Blobs {
			ok, err := b.Exists(ctx, info.Name)
			if err != nil {
				return false, "", fmt.Errorf("look for blob %s: %w: %w", info.Name, tidemill.ErrUnavailable, err)
			}
			if !ok {
				return false, info.Name, nil
			}
		}
	}
	return true, "", nil
}

// checkStream makes sure that the streams hold all that is to be read again.
func checkStream(ctx context.Context, s source.Stream, p *path) error {
	last := p.last()
	from, err := p.start()
	if err != nil {
		return err
	}
	topics := map[string]source.Info{}
	for i, at := range from {
		o := tidemill.Origin{Topic: last.StreamTopic, Partition: i}
		if i < len(last.Origins) && last.Origins[i].Topic != "" {
			o = last.Origins[i]
		}
		info, known := topics[o.Topic]
		if !known {
			if info, err = describe(ctx, s, &last.Spec.Stream, o.Topic); err != nil {
				return err
			}
			topics[o.Topic] = info
		}
		identity := o.Identity
		if o.Topic == last.StreamTopic {
			identity = last.StreamIdentity
		}
		switch q := o.Partition; {
		case info.Identity != identity:
			return cannot("topic %q was made again since: its rows are others", o.Topic)
		case q >= info.Partitions:
			return cannot("the job read partition %d of topic %q, which has %d", q, o.Topic, info.Partitions)
		case at == last.Cut[i]: // nothing of it is read
		case at < info.First[q]:
			return cannot("the stream no longer holds the rows: those of partition %d at offsets %d to %d were dropped", i, at, min(info.First[q], last.Cut[i])-1)
		case last.Cut[i] > info.Next[q]:
			return cannot("partition %d ends at offset %d, before the version's %d: rows were lost", i, info.Next[q], last.Cut[i])
		}
	}
	return nil
}

func describe(ctx context.Context, s source.Stream, spec *tidemill.StreamSpec, name string) (source.Info, error) {
	topic, err := source.OpenLog(ctx, s, spec, name)
	if errors.Is(err, tidemill.ErrNotFound) {
		return source.Info{}, cannot("topic %q does not exist any more", name)
	}
	if err != nil {
		return source.Info{}, err
	}
	defer topic.Close()
	return topic.Info(ctx)
}

// start returns the cut to read from, as long as the last one. The schedule must lead from it to
// the last cut without a gap.
func (p *path) start() (tidemill.Cut, error) {
	last := p.last()
	var from tidemill.Cut
	round := int64(0)
	if p.base != nil {
		from, round = p.base.Cut.Clone(), p.base.Round
	} else {
		from = tidemill.Cut(last.Spec.Stream.Offsets).Clone()
	}
	at := from.Clone()
	for _, m := range p.manifests {
		for _, run := range m.Schedule {
			if run.Round != round+1 {
				return nil, cannot("the schedule of snapshot %d goes on with round %d after round %d", m.Number, run.Round, round)
			}
			round += run.Rounds
			for _, s := range run.Steps {
				for s.Partition >= len(at) { // it joined meanwhile, and begins with its first step
					from, at = append(from, s.First), append(at, s.First)
				}
				if s.First != at[s.Partition] || s.Next-s.First != s.Rows*run.Rounds {
					return nil, cannot("the schedule of snapshot %d takes partition %d from offset %d on, after %d", m.Number, s.Partition, s.First, at[s.Partition])
				}
				at[s.Partition] = s.Next
			}
		}
		if round != m.Round {
			return nil, cannot("the schedule of snapshot %d ends with round %d, and the snapshot is of round %d", m.Number, round, m.Round)
		}
	}
	for i := len(at); i < len(last.Cut); i++ {
		from, at = append(from, last.Cut[i]), append(at, last.Cut[i])
	}
	if !slices.Equal(at, last.Cut) {
		return nil, cannot("the schedule leads to %v, and the version's cut is %v", []int64(at), []int64(last.Cut))
	}
	return from, nil
}

// size returns how much there is to train again.
func (p *path) size() (rounds, rows int64) {
	for _, m := range p.manifests {
		for _, run := range m.Schedule {
			rounds += run.Rounds
			for _, s := range run.Steps {
				rows += s.Rows * run.Rounds
			}
		}
	}
	return rounds, rows
}

// copySnapshot copies a snapshot to the scratch bucket. A savepoint holds it meanwhile, unless
// this process may only read.
func copySnapshot(ctx context.Context, cfg *Config, m *snapshot.Manifest) error {
	var nonce [4]byte
	_, _ = rand.Read(nonce[:])
	s, err := snapshot.NewSavepoint(ctx, cfg.Store, m, "rebuild-"+hex.EncodeToString(nonce[:]), "rebuild", fmt.Sprintf("version %d of %s is being rebuilt", cfg.Version, cfg.Model), time.Now())
	switch {
	case errors.Is(err, tidemill.ErrDenied):
	case errors.Is(err, tidemill.ErrNotFound):
		return cannot("%v", err)
	case err != nil:
		return err
	default:
		defer func() {
			if err := snapshot.DeleteSavepoint(context.WithoutCancel(ctx), cfg.Store, s.Job, s.Name); err != nil {
				cfg.Logger.Warn("a savepoint of our own is left", "job", s.Job, "savepoint", s.Name, "err", err)
			}
		}()
	}
	chain, err := snapshot.Snapshots(cfg.Store, m.Job)
	if err != nil {
		return err
	}
	names := []string{chain.Name(m.Number)}
	for _, part := range m.Parts {
		for _, info := range part.Blobs {
			names = append(names, info.Name)
		}
	}
	for _, name := range names {
		if err := snapshot.Copy(ctx, cfg.Scratch, cfg.Store, name); err != nil {
			if errors.Is(err, tidemill.ErrNotFound) {
				return cannot("%s was collected meanwhile", name)
			}
			return err
		}
	}
	if err := snapshot.Verify(ctx, cfg.Scratch, m); errors.Is(err, tidemill.ErrCorrupt) {
		return cannot("snapshot %d is damaged, start from an earlier one: %v", m.Number, err)
	} else if err != nil {
		return err
	}
	return nil
}

// compare makes the version's files of what was made, and compares.
func (r *Result) compare(ctx context.Context, cfg *Config, v tidemill.Version, made *snapshot.Manifest) error {
	r.Rebuilt = made.Digest.String()
	stored, err := snapshot.ReadVersion(ctx, cfg.Store, v.Model, v.Number)
	if errors.Is(err, tidemill.ErrCorrupt) {
		r.Outcome, r.Why = Different, fmt.Sprintf("the version's own files are damaged: %v", err)
		return nil
	}
	if errors.Is(err, tidemill.ErrNotFound) {
		what := "the same digest"
		if r.Rebuilt != r.Digest {
			what = "another digest"
		}
		return cannot("the files of the version were collected, so that they cannot be compared; what was trained again has %s", what)
	}
	if err != nil {
		return err
	}
	files, err := snapshot.Export(ctx, cfg.Scratch, made)
	if err != nil {
		return err
	}
	files.Version = stored.Version
	if len(stored.Probes.Rows) > 0 {
		files.Probes.Rows = stored.Probes.Rows
		if files.Probes.Expected, err = answers(files); err != nil {
			return err
		}
	}
	if err := snapshot.WriteVersion(ctx, cfg.Scratch, files); err != nil {
		return err
	}
	want, err := snapshot.VersionBlobs(ctx, cfg.Store, v.Model, v.Number)
	if err != nil {
		return err
	}
	got, err := snapshot.VersionBlobs(ctx, cfg.Scratch, v.Model, v.Number)
	if err != nil {
		return err
	}
	same := r.Rebuilt == r.Digest
	for _, w := range want {
		f := File{Kind: w.Kind, Table: w.Table, SHA256: w.SHA256}
		if i := slices.IndexFunc(got, func(g snapshot.Blob) bool { return g.Kind == w.Kind && g.Table == w.Table }); i >= 0 {
			f.Rebuilt = got[i].SHA256
			got = slices.Delete(got, i, i+1)
		}
		f.Same = f.SHA256 == f.Rebuilt
		if !f.Same && f.Kind == snapshot.KindExpected && near(stored.Probes.Expected, files.Probes.Expected) {
			// They are no part of what was trained: the trainer that offered the version computed
			// them with whatever level its own machine had.
			f.Same, f.Note = true, fmt.Sprintf("answers to the probe rows agree within %g", tolerance)
		}
		same = same && f.Same
		r.Files = append(r.Files, f)
	}
	for _, g := range got {
		r.Files = append(r.Files, File{Kind: g.Kind, Table: g.Table, Rebuilt: g.SHA256})
		same = false
	}
	r.Outcome = Same
	if !same {
		r.Outcome = Different
		r.Why = "the digest differs"
		if r.Rebuilt == r.Digest {
			r.Why = "the state is the same, and the exported files differ"
		}
	}
	return nil
}

// tolerance is how far answers of two instruction levels may lie apart: what serving allows.
const tolerance = 1e-5

func near(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Abs(float64(x)-float64(y)) <= tolerance })
}

// answers returns what a version predicts for its probe rows.
func answers(files *snapshot.VersionFiles) ([]float32, error) {
	m, err := predict.Load(files)
	if err != nil {
		return nil, err
	}
	rows, err := predict.DecodeRows(files.Probes.Rows)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	return m.NewScorer().Predict(nil, rows)
}
