package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// Savepoint keeps a snapshot, by name, until somebody deletes the savepoint: it is the record
// jobs/JOB/savepoint/NAME.json, create-only, and names the number of a committed manifest.
//
// What it holds off. As long as the record exists no collector removes that manifest, or any
// blob that a restore of it reads (whatever manifest wrote it). A collector keeps the promise by
// recording what it is about to take before it lists the savepoints, and removing after that
// (Collector); and it never removes the newest manifest of a chain. A savepoint is safe
// against it because NewSavepoint looks in the opposite order: it writes its record first, and
// then makes sure that the snapshot was not taken, and that it is whole.
//
// A process that reads an older snapshot for a while (rebuild, a job that starts from another
// one's snapshot) holds it by a savepoint too, and deletes that when it is done; one that was
// killed leaves a savepoint behind that people see in the list and may delete.
//
// A version is trained again from the nearest snapshot before it and the schedules of all
// manifests after that one, up to its own. So a collector that wants versions to stay
// rebuildable keeps the manifests themselves (not their blobs) from the oldest snapshot that it
// keeps whole on; without them rebuild says which is missing.
type Savepoint struct {
	Format   int          `json:"format"`
	Job      string       `json:"job"`
	Name     string       `json:"name"`
	Snapshot int64        `json:"snapshot"` // number of the manifest
	Lineage  string       `json:"lineage"`
	Model    string       `json:"model"`
	SpecHash string       `json:"spec_hash"`
	Cut      tidemill.Cut `json:"cut"`
	Examples int64        `json:"examples"`
	Digest   Digest       `json:"digest"`
	By       string       `json:"by"`
	Why      string       `json:"why,omitempty"`
	Created  time.Time    `json:"created"`
}

// CheckSavepoint reports whether s can name a savepoint: what CheckName allows, and not a number
// alone, which names a snapshot. The error wraps tidemill.ErrInvalid.
func CheckSavepoint(s string) error {
	if err := CheckName("savepoint", s); err != nil {
		return err
	}
	if strings.Trim(s, "0123456789") == "" {
		return tidemill.Invalid("savepoint name %q", "use at least one letter: a number alone names a snapshot", s)
	}
	return nil
}

func savepointPrefix(job string) (string, error) {
	if err := CheckName("job", job); err != nil {
		return "", err
	}
	return "jobs/" + job + "/savepoint/", nil
}

func savepointName(job, name string) (string, error) {
	prefix, err := savepointPrefix(job)
	if err != nil {
		return "", err
	}
	return prefix + name + ".json", CheckSavepoint(name)
}

// NewSavepoint keeps snapshot m of a job's chain under a name. tidemill.ErrExists: the name is
// taken. tidemill.ErrNotFound: a collector was quicker, and the snapshot is no longer whole.
func NewSavepoint(ctx context.Context, b *blob.Bucket, m *Manifest, name, by, why string, at time.Time) (Savepoint, error) {
	if m.Fence != nil {
		return Savepoint{}, tidemill.Invalid("record %d of job %s is a fence", "keep a snapshot", m.Number, m.Job)
	}
	s := Savepoint{
		Format: Format, Job: m.Job, Name: name, Snapshot: m.Number, Lineage: m.Lineage, Model: m.Model, SpecHash: m.SpecHash,
		Cut: m.Cut.Clone(), Examples: m.Examples, Digest: m.Digest, By: by, Why: why, Created: at.Round(0).UTC(),
	}
	key, err := savepointName(s.Job, s.Name)
	if err != nil {
		return s, err
	}
	record, err := Seal(&s)
	if err != nil {
		return s, err
	}
	if err := create(ctx, b, key, record); err != nil {
		return s, err
	}
	if err := stillWhole(ctx, b, m); err != nil {
		return s, errors.Join(err, DeleteSavepoint(ctx, b, s.Job, s.Name))
	}
	return s, nil
}

// stillWhole reports whether a snapshot is there with all its blobs. Their bytes are compared
// when they are read.
func stillWhole(ctx context.Context, b *blob.Bucket, m *Manifest) error {
	if err := CheckKept(ctx, b, m.Job, m.Number); err != nil {
		return err
	}
	c, err := Snapshots(b, m.Job)
	if err != nil {
		return err
	}
	now, err := ReadManifest(ctx, c, m.Number)
	if err != nil {
		return fmt.Errorf("snapshot %d of job %s is no longer kept: %w", m.Number, m.Job, err)
	}
	if now.Lineage != m.Lineage || now.Digest != m.Digest {
		return fmt.Errorf("snapshot %d of job %s is another one by now: %w", m.Number, m.Job, tidemill.ErrConflict)
	}
	for _, p := range m.Parts {
		for _, info := range p.Blobs {
			ok, err := b.Exists(ctx, info.Name)
			if err != nil {
				return storeError("look for", info.Name, err)
			}
			if !ok {
				return fmt.Errorf("snapshot %d of job %s is no longer kept whole, %s is gone: %w", m.Number, m.Job, info.Name, tidemill.ErrNotFound)
			}
		}
	}
	return nil
}

// ReadSavepoint returns a job's savepoint. tidemill.ErrNotFound names the nearest ones;
// tidemill.ErrCorrupt means that its record is damaged.
func ReadSavepoint(ctx context.Context, b *blob.Bucket, job, name string) (Savepoint, error) {
	key, err := savepointName(job, name)
	if err != nil {
		return Savepoint{}, err
	}
	data, err := readAll(ctx, b, key, maxRecord)
	if errors.Is(err, tidemill.ErrNotFound) {
		hint := ""
		if names, lerr := savepointNames(ctx, b, job); lerr == nil {
			if near := tidemill.Nearest(name, names); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
		}
		return Savepoint{}, fmt.Errorf("job %q has no savepoint %q%s: %w", job, name, hint, tidemill.ErrNotFound)
	}
	if err != nil {
		return Savepoint{}, err
	}
	return decodeSavepoint(key, data, job, name)
}

func decodeSavepoint(key string, data []byte, job, name string) (Savepoint, error) {
	var s Savepoint
	if err := Unseal(data, &s); err != nil {
		return s, fmt.Errorf("blob %s: %w", key, err)
	}
	if s.Format < 1 || s.Format > Format {
		return s, (&Manifest{Format: s.Format}).Validate()
	}
	if s.Job != job || s.Name != name || s.Snapshot < 1 || s.Snapshot > maxNumber {
		return s, corrupt(key, "it says that it is savepoint %q of job %q, snapshot %d", clip(s.Name), clip(s.Job), s.Snapshot)
	}
	return s, nil
}

func savepointNames(ctx context.Context, b *blob.Bucket, job string) ([]string, error) {
	prefix, err := savepointPrefix(job)
	if err != nil {
		return nil, err
	}
	var names []string
	err = list(ctx, b, prefix, func(key string) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(key, prefix), ".json")
		if ok && CheckSavepoint(name) == nil {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// ListSavepoints returns a job's savepoints by ascending snapshot, then name. One that is
// deleted meanwhile is left out; a damaged record is an error, so that nobody takes what it
// holds for free.
func ListSavepoints(ctx context.Context, b *blob.Bucket, job string) ([]Savepoint, error) {
	names, err := savepointNames(ctx, b, job)
	if err != nil {
		return nil, err
	}
	out := []Savepoint{}
	for _, name := range names {
		s, err := ReadSavepoint(ctx, b, job, name)
		if errors.Is(err, tidemill.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Savepoint) int {
		if a.Snapshot != b.Snapshot {
			return int(a.Snapshot - b.Snapshot)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// PinnedSnapshots returns the numbers of the manifests that a job's savepoints hold: what a
// collector must ask after it has listed the chain, and before it removes anything. After an
// error nothing may be removed.
func PinnedSnapshots(ctx context.Context, b *blob.Bucket, job string) (map[int64]bool, error) {
	all, err := ListSavepoints(ctx, b, job)
	if err != nil {
		return nil, err
	}
	pinned := make(map[int64]bool, len(all))
	for _, s := range all {
		pinned[s.Snapshot] = true
	}
	return pinned, nil
}

// DeleteSavepoint lets a snapshot go. One that does not exist is deleted already.
func DeleteSavepoint(ctx context.Context, b *blob.Bucket, job, name string) error {
	key, err := savepointName(job, name)
	if err != nil {
		return err
	}
	if err := b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return storeError("delete", key, err)
	}
	return nil
}
