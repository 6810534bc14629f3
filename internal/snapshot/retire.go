package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// Names beside a version's manifest, of create-only records.
const (
	heldName    = "held.json"    // it is not to be retired
	retiredName = "retired.json" // its files are going, or gone; manifest and decisions stay
)

// versionNote is what stands in such a record.
type versionNote struct {
	Model   string    `json:"model"`
	Version int64     `json:"version"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

func noteVersion(ctx context.Context, b *blob.Bucket, model string, n int64, name, by string, at time.Time) error {
	dir, err := versionPrefix(model, n)
	if err != nil {
		return err
	}
	record, err := Seal(&versionNote{model, n, by, at.Round(0).UTC()})
	if err != nil {
		return err
	}
	if err := create(ctx, b, dir+name, record); !errors.Is(err, tidemill.ErrExists) {
		return err
	}
	return nil // somebody has said so already
}

func versionNoted(ctx context.Context, b *blob.Bucket, model string, n int64, name string) (bool, error) {
	dir, err := versionPrefix(model, n)
	if err != nil {
		return false, err
	}
	ok, err := b.Exists(ctx, dir+name)
	if err != nil {
		return false, storeError("look for", dir+name, err)
	}
	return ok, nil
}

func checkNotRetired(ctx context.Context, b *blob.Bucket, model string, n int64) error {
	retired, err := versionNoted(ctx, b, model, n, retiredName)
	if err == nil && retired {
		err = fmt.Errorf("version %d of model %s is retired: its record and its decisions are kept, its files are not: %w", n, model, tidemill.ErrNotFound)
	}
	return err
}

// HoldVersion keeps a version's files for good, as somebody who makes it serve by hand has to
// before he does. tidemill.ErrNotFound: it is retired.
//
// It writes first and looks then, and RetireVersion does the same: one of them sees the other.
func HoldVersion(ctx context.Context, b *blob.Bucket, model string, n int64, by string, at time.Time) error {
	if _, err := ReadVersionRecord(ctx, b, model, n); err != nil {
		return err
	}
	if err := noteVersion(ctx, b, model, n, heldName, by, at); err != nil {
		return err
	}
	return checkNotRetired(ctx, b, model, n)
}

// RetireVersion removes a version's files; its manifest stays, and so do the decisions on it.
// A version that is held keeps what it has. It can be repeated after a failure.
func RetireVersion(ctx context.Context, b *blob.Bucket, model string, n int64, by string, at time.Time) error {
	if err := noteVersion(ctx, b, model, n, retiredName, by, at); err != nil {
		return err
	}
	held, err := versionNoted(ctx, b, model, n, heldName)
	if err != nil || held {
		return err
	}
	dir, err := versionPrefix(model, n)
	if err != nil {
		return err
	}
	var names []string
	if err := list(ctx, b, dir, func(key string) error { names = append(names, key); return nil }); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".json") {
			continue
		}
		if err := b.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
			return storeError("delete", name, err)
		}
	}
	return nil
}

// VersionFolders lists a model's versions, ascending, with what is noted beside them; Over is
// left for the caller to fill in. Retired ones have Gone set once none of their files is left.
func VersionFolders(ctx context.Context, b *blob.Bucket, model string) ([]VersionRecord, error) {
	if err := CheckName("model", model); err != nil {
		return nil, err
	}
	prefix := "models/" + model + "/version/"
	var out []VersionRecord
	exists, files := map[int64]bool{}, map[int64]bool{}
	err := list(ctx, b, prefix, func(key string) error {
		digits, file, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		n, ok := parseNumber(digits)
		if !ok {
			return nil
		}
		if len(out) == 0 || out[len(out)-1].Number != n {
			out = append(out, VersionRecord{Number: n})
		}
		switch v := &out[len(out)-1]; file {
		case "manifest.json":
			exists[n] = true
		case heldName:
			v.Held = true
		case retiredName:
			v.Gone = true
		default:
			files[n] = true
		}
		return nil
	})
	kept := out[:0]
	for _, v := range out {
		v.Gone = v.Gone && !files[v.Number]
		if exists[v.Number] {
			kept = append(kept, v)
		}
	}
	return kept, err
}
