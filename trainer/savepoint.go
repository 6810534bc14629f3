package trainer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// SavepointStatus answers VerbSavepoint: how the job stands, and what is kept.
type SavepointStatus struct {
	JobStatus
	Savepoint snapshot.Savepoint `json:"savepoint"`
}

// savepoint takes a cut that holds all that is trained by now and keeps it under label ("":
// "snapshot-N"). A job that is over has its last snapshot kept.
func (t *Trainer) savepoint(ctx context.Context, job, label, by, why string) (SavepointStatus, error) {
	var out SavepointStatus
	a, err := t.record(ctx, job)
	if err != nil {
		return out, err
	}
	if label != "" {
		switch _, err := snapshot.ReadSavepoint(ctx, t.cfg.Bucket, job, label); {
		case err == nil:
			return out, fmt.Errorf("job %q has a savepoint %q already: %w", job, label, tidemill.ErrExists)
		case !errors.Is(err, tidemill.ErrNotFound):
			return out, err
		}
	}
	if out.JobStatus, err = t.cutNow(ctx, job); err != nil {
		return out, err
	}
	if out.JobStatus.Snapshot == 0 {
		return out, tidemill.Invalid("job %q has trained nothing that could be kept", "wait until it has examples", job)
	}
	out.Savepoint, err = t.keep(ctx, a, label, by, why)
	return out, err
}

// cutNow waits until everything that is trained now is in a committed snapshot, and asks for
// one as long as that is not so.
func (t *Trainer) cutNow(ctx context.Context, job string) (JobStatus, error) {
	before, err := t.Status(ctx, job)
	if err != nil {
		return before, err
	}
	st := before
	for tries := 0; ; tries++ {
		if st.SnapshotExamples >= before.Examples || isTerminal(st.State) {
			return st, nil
		}
		if tries%20 == 0 { // a rewind forgets that a cut was asked for
			r, err := t.run(job)
			if err != nil {
				return st, err
			}
			r.post(Event{Kind: Due})
		}
		sleep(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return st, fmt.Errorf("job %q has not taken a snapshot yet: %w", job, tidemill.ErrUnavailable)
		}
		if st, err = t.Status(ctx, job); err != nil {
			return st, err
		}
	}
}

// keep names the newest snapshot of a job. While the job runs here that is done between two
// commits, so that the snapshot is still the newest when its savepoint exists.
func (t *Trainer) keep(ctx context.Context, a tidemill.Assignment, label, by, why string) (snapshot.Savepoint, error) {
	r, err := t.run(a.Job)
	if err != nil {
		return t.keepNewest(ctx, a, label, by, why)
	}
	type answer struct {
		s   snapshot.Savepoint
		err error
	}
	done := make(chan answer, 1)
	select {
	case r.stores <- func(context.Context) {
		s, err := t.keepNewest(ctx, a, label, by, why)
		done <- answer{s, err}
	}:
	case <-r.done:
		return t.keepNewest(ctx, a, label, by, why)
	case <-ctx.Done():
		return snapshot.Savepoint{}, fmt.Errorf("savepoint of job %q: %w: %w", a.Job, tidemill.ErrUnavailable, ctx.Err())
	}
	select {
	case a := <-done:
		return a.s, a.err
	case <-r.done:
	case <-ctx.Done():
	}
	select { // it may have been the last that was done
	case a := <-done:
		return a.s, a.err
	default:
		return snapshot.Savepoint{}, fmt.Errorf("savepoint of job %q: it may exist or not, list them: %w", a.Job, tidemill.ErrUnavailable)
	}
}

func (t *Trainer) keepNewest(ctx context.Context, a tidemill.Assignment, label, by, why string) (snapshot.Savepoint, error) {
	chain, err := snapshot.Snapshots(t.cfg.Bucket, a.Job)
	if err != nil {
		return snapshot.Savepoint{}, err
	}
	for tries := 0; ; tries++ {
		_, m, err := snapshot.Latest(ctx, chain)
		if err != nil {
			return snapshot.Savepoint{}, err
		}
		if m == nil || m.Lineage != a.Lineage {
			return snapshot.Savepoint{}, tidemill.Invalid("job %q has no snapshot yet", "wait until it has examples", a.Job)
		}
		name := label
		if name == "" {
			name = fmt.Sprintf("snapshot-%d", m.Number)
		}
		s, err := snapshot.NewSavepoint(ctx, t.cfg.Bucket, m, name, by, why, time.Now())
		if errors.Is(err, tidemill.ErrNotFound) && tries < 10 {
			continue // newer ones were committed meanwhile, and this one collected
		}
		if errors.Is(err, tidemill.ErrExists) && label == "" {
			return snapshot.ReadSavepoint(ctx, t.cfg.Bucket, a.Job, name)
		}
		if err != nil {
			return s, err
		}
		_, now, err := snapshot.Latest(ctx, chain)
		if err == nil && now.Number != m.Number && tries < 10 {
			// A collector that did not see the savepoint may be removing what it holds.
			err = snapshot.DeleteSavepoint(ctx, t.cfg.Bucket, a.Job, name)
			if err == nil {
				continue
			}
		}
		return s, err
	}
}

// Savepoints lists what is kept of a job by name, oldest snapshot first.
func (t *Trainer) Savepoints(ctx context.Context, job string) ([]snapshot.Savepoint, error) {
	all, err := snapshot.ListSavepoints(ctx, t.cfg.Bucket, job)
	if err == nil && len(all) == 0 { // a name without a job is an error, not an empty list
		_, err = t.record(ctx, job)
	}
	return all, err
}

// deleteSavepoint lets go what a savepoint held, and returns the savepoint.
func (t *Trainer) deleteSavepoint(ctx context.Context, job, label string) (snapshot.Savepoint, error) {
	s, err := snapshot.ReadSavepoint(ctx, t.cfg.Bucket, job, label)
	if err != nil {
		return s, err
	}
	return s, snapshot.DeleteSavepoint(ctx, t.cfg.Bucket, job, label)
}
