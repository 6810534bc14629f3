package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// JobStatus is a job as the trainer sees it.
type JobStatus struct {
	Job        string       `json:"job"`
	Model      string       `json:"model"`
	Topic      string       `json:"topic"`
	State      string       `json:"state"`
	Reason     string       `json:"reason,omitempty"`
	Generation uint64       `json:"generation"`
	Snapshot   int64        `json:"snapshot"` // newest committed
	Cut        tidemill.Cut `json:"cut"`      // of it
	// Examples trained: so far while the job runs, else up to the last snapshot.
	Examples int64 `json:"examples"`
	// Digest of the newest committed snapshot, which holds SnapshotExamples.
	Digest           string          `json:"digest"`
	SnapshotExamples int64           `json:"snapshot_examples"`
	Champion         int64           `json:"champion"`
	Bad              BadStatus       `json:"bad"`
	BadRows          int64           `json:"bad_rows"` // put aside so far
	Progress         progress.Report `json:"progress"`
	Recent           progress.Report `json:"recent"`               // of the last 5000 examples or so
	Partitions       []string        `json:"partitions,omitempty"` // their workers
	// Origins says what the job's partitions read, where that is not the topic's of the same number.
	Origins []tidemill.Origin `json:"origins,omitempty"`
	Shards  map[string]int    `json:"shards,omitempty"` // number by ps
	// Of a job that is trained, as measured last, by ps and by shard; none until it was.
	PSLoads    []PSLoad    `json:"ps_loads,omitempty"`
	ShardLoads []ShardLoad `json:"shard_loads,omitempty"`
	// State of progressive validation, for callers in this process.
	Validation *progress.State `json:"-"`
}

// Jobs lists the names of all jobs, sorted.
func (t *Trainer) Jobs(ctx context.Context) ([]string, error) {
	entries, err := t.cfg.Records.List(ctx, JobPrefix)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Key, JobPrefix))
	}
	slices.Sort(names)
	return names, nil
}

// record reads a job's record.
func (t *Trainer) record(ctx context.Context, job string) (tidemill.Assignment, error) {
	var a tidemill.Assignment
	e, err := t.cfg.Records.Get(ctx, JobPrefix+job)
	if errors.Is(err, tidemill.ErrNotFound) {
		names, _ := t.Jobs(ctx)
		hint := ""
		if n := tidemill.Nearest(job, names); n != "" {
			hint = fmt.Sprintf("; did you mean %q?", n)
		}
		return a, fmt.Errorf("no job %q%s: %w", job, hint, tidemill.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(e.Value, &a)
	}
	return a, err
}

// Status returns how a job stands.
func (t *Trainer) Status(ctx context.Context, job string) (JobStatus, error) {
	a, err := t.record(ctx, job)
	if err != nil {
		return JobStatus{}, err
	}
	st := JobStatus{
		Job: a.Job, Model: a.Spec.Model, Topic: a.Spec.Stream.Topic, State: a.State, Reason: a.Reason, Generation: a.Generation,
		Shards: map[string]int{}, Origins: a.Origins,
	}
	for _, o := range a.Partitions {
		st.Partitions = append(st.Partitions, o.Member)
	}
	for _, o := range a.Shards {
		st.Shards[o.Member]++
	}
	chain, err := snapshot.Snapshots(t.cfg.Bucket, job)
	if err != nil {
		return st, err
	}
	_, m, err := snapshot.Latest(ctx, chain)
	if err != nil {
		return st, err
	}
	if m != nil && m.Lineage != a.Lineage {
		m = nil // of an earlier job of this name
	}
	if m != nil {
		st.Snapshot, st.Cut, st.Examples, st.SnapshotExamples, st.Digest = m.Number, m.Cut, m.Examples, m.Examples, m.Digest.String()
		st.BadRows, st.Bad.Counts = m.Bad(), m.BadCounts
	}
	champs, err := snapshot.Champions(t.cfg.Bucket, a.Spec.Model)
	if err != nil {
		return st, err
	}
	if _, c, err := snapshot.LastChampion(ctx, champs); err == nil && c != nil {
		st.Champion = c.Version
	}
	if a.State == tidemill.JobRunning || a.State == tidemill.JobPaused {
		if owner := a.Shards; len(owner) > 0 {
			home := a.Members[owner[tidemill.HomeShard(len(owner))].Member]
			if ps, err := t.cfg.PS(ctx, home); err == nil {
				if s, err := ps.Status(ctx, job); err == nil && s.Ready && s.Generation == a.Generation {
					st.Examples = s.Examples
					st.BadRows, st.Bad.Counts = 0, s.BadCounts
					for _, n := range s.BadCounts {
						st.BadRows += n
					}
					if st.Validation, err = progress.Load(s.Progress); err != nil {
						st.Validation = nil
					}
				}
			}
		}
	}
	t.badStatus(ctx, &st, &a)
	t.loads(&st, &a)
	if st.Validation == nil && m != nil {
		if st.Validation, err = validation(ctx, t, m); err != nil {
			return st, err
		}
	}
	if st.Validation != nil {
		st.Progress = st.Validation.Total()
		st.Recent = st.Validation.Recent(5000)
	}
	return st, nil
}

// validation reads the progressive validation that a snapshot holds.
func validation(ctx context.Context, t *Trainer, m *snapshot.Manifest) (*progress.State, error) {
	v := m.Spec.Shards
	sink := &auxSink{}
	home := tidemill.HomeShard(v)
	if err := snapshot.ReadParts(ctx, t.cfg.Bucket, m.Parts, m.Layout, func(s int) bool { return s == home }, sink); err != nil {
		return nil, err
	}
	return sink.progress, nil
}

type auxSink struct{ progress *progress.State }

func (*auxSink) Rows(int, int, []uint64, []float32) error { return nil }
func (*auxSink) Block(int, snapshot.Block) error          { return nil }

func (s *auxSink) Aux(_ int, name string, data []byte) (err error) {
	if name == snapshot.AuxProgress {
		s.progress, err = progress.Load(data)
	}
	return err
}

// VersionStatus is a version with the last decision on it.
type VersionStatus struct {
	tidemill.Version
	Decision string           `json:"decision"` // held while under test
	Reason   string           `json:"reason"`
	By       string           `json:"by,omitempty"`
	Evidence []tidemill.Check `json:"evidence,omitempty"`
	Serves   bool             `json:"serves"`
}

// Versions lists a model's versions, oldest first.
func (t *Trainer) Versions(ctx context.Context, model string, evidence bool) ([]VersionStatus, error) {
	numbers, err := snapshot.ListVersions(ctx, t.cfg.Bucket, model)
	if err != nil {
		return nil, err
	}
	champs, err := snapshot.Champions(t.cfg.Bucket, model)
	if err != nil {
		return nil, err
	}
	_, serves, err := snapshot.LastChampion(ctx, champs)
	if err != nil {
		return nil, err
	}
	var out []VersionStatus
	for _, n := range numbers {
		v, err := snapshot.ReadVersionRecord(ctx, t.cfg.Bucket, model, n)
		if err != nil {
			return nil, err
		}
		s := VersionStatus{Version: v, Decision: tidemill.Held, Reason: "under test", Serves: serves != nil && serves.Version == n}
		switch d, err := snapshot.ReadDecision(ctx, t.cfg.Bucket, model, n); {
		case err == nil:
			s.Decision, s.Reason, s.By = d.Decision, d.Reason, d.By
			if evidence {
				s.Evidence = d.Evidence
			}
		case !errors.Is(err, tidemill.ErrNotFound):
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("model %q has no version: %w", model, tidemill.ErrNotFound)
	}
	return out, nil
}
