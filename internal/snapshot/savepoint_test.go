package snapshot

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
)

func TestSavepoints(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(3)
	chain, err := Snapshots(b, "job")
	must(t, err)
	var all []*Manifest
	for n := int64(1); n <= 3; n++ {
		m := s.manifest(n, s.write(t, b, n, 1, nil))
		must(t, Commit(ctx, chain, m))
		all = append(all, m)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	late, err := NewSavepoint(ctx, b, all[2], "a-late", "ann", "", at)
	must(t, err)
	early, err := NewSavepoint(ctx, b, all[0], "before-holidays", "ann", "agreed", at)
	must(t, err)
	if early.Snapshot != 1 || early.Digest != all[0].Digest || early.Lineage != all[0].Lineage || !early.Created.Equal(at) {
		t.Errorf("savepoint %+v", early)
	}
	if _, err := NewSavepoint(ctx, b, all[1], "a-late", "bob", "", at); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("a taken name: %v", err)
	}
	got, err := ListSavepoints(ctx, b, "job")
	must(t, err)
	if !reflect.DeepEqual(got, []Savepoint{early, late}) {
		t.Errorf("list %+v", got)
	}
	pinned, err := PinnedSnapshots(ctx, b, "job")
	must(t, err)
	if !maps.Equal(pinned, map[int64]bool{1: true, 3: true}) {
		t.Errorf("pinned %v", pinned)
	}
	if _, err := ReadSavepoint(ctx, b, "job", "before-holiday"); !errors.Is(err, tidemill.ErrNotFound) || !strings.Contains(err.Error(), `"before-holidays"`) {
		t.Errorf("a misspelt name: %v", err)
	}
	must(t, DeleteSavepoint(ctx, b, "job", "a-late"))
	must(t, DeleteSavepoint(ctx, b, "job", "a-late"))
	got, err = ListSavepoints(ctx, b, "job")
	must(t, err)
	if len(got) != 1 || got[0].Name != "before-holidays" {
		t.Errorf("after a delete: %+v", got)
	}
	if none, err := ListSavepoints(ctx, b, "other"); err != nil || len(none) != 0 {
		t.Errorf("another job: %v, %v", none, err)
	}
	for _, name := range []string{"", "12", "a/b", "..", strings.Repeat("x", 129)} {
		if _, err := NewSavepoint(ctx, b, all[0], name, "ann", "", at); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := NewSavepoint(ctx, b, &Manifest{Job: "job", Number: 4, Fence: &Fence{}}, "fence", "ann", "", at); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a fence: %v", err)
	}
}

// A collector that was quicker leaves no savepoint behind that promises what is gone.
func TestSavepointOfWhatIsGone(t *testing.T) {
	for _, what := range []string{"blob", "manifest", "another"} {
		b := memblob.OpenBucket(nil)
		defer b.Close()
		s := oneTable(3)
		chain, err := Snapshots(b, "job")
		must(t, err)
		m := s.manifest(1, s.write(t, b, 1, 1, nil))
		must(t, Commit(ctx, chain, m))
		want := tidemill.ErrNotFound
		switch what {
		case "blob":
			must(t, b.Delete(ctx, m.Parts[0].Blobs[0].Name))
		case "manifest":
			must(t, b.Delete(ctx, chain.Name(1)))
		case "another":
			c := *m
			c.Lineage += "x"
			m, want = &c, tidemill.ErrConflict
		}
		if _, err := NewSavepoint(ctx, b, m, "late", "ann", "", time.Now()); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
		if left, err := ListSavepoints(ctx, b, "job"); err != nil || len(left) != 0 {
			t.Errorf("%s: %v, %v", what, left, err)
		}
	}
}

// Whatever bit flips in a savepoint's record, nobody takes it for another one, and nobody
// takes what it holds for free.
func TestDamagedSavepoint(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := oneTable(2)
	chain, err := Snapshots(b, "job")
	must(t, err)
	m := s.manifest(1, s.write(t, b, 1, 1, nil))
	must(t, Commit(ctx, chain, m))
	_, err = NewSavepoint(ctx, b, m, "kept", "ann", "", time.Now())
	must(t, err)
	const key = "jobs/job/savepoint/kept.json"
	record, err := b.ReadAll(ctx, key)
	must(t, err)
	for bit := range 8 * len(record) {
		spoilt := slices.Clone(record)
		spoilt[bit/8] ^= 1 << (bit % 8)
		must(t, b.WriteAll(ctx, key, spoilt, nil))
		if _, err := PinnedSnapshots(ctx, b, "job"); !errors.Is(err, tidemill.ErrCorrupt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	// A record that was moved speaks of another name.
	must(t, b.WriteAll(ctx, "jobs/job/savepoint/moved.json", record, nil))
	if _, err := ReadSavepoint(ctx, b, "job", "moved"); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("a moved record: %v", err)
	}
}

func FuzzDecodeSavepoint(f *testing.F) {
	good, err := Seal(&Savepoint{Format: Format, Job: "job", Name: "kept", Snapshot: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add(good[recordMid+2:], true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // past the checksum
			sealed, err := Seal(json.RawMessage(append([]byte("{"), data...)))
			if err != nil {
				return
			}
			data = sealed
		}
		s, err := decodeSavepoint("key", data, "job", "kept")
		if err == nil && (s.Job != "job" || s.Name != "kept" || s.Snapshot < 1) {
			t.Errorf("took %+v", s)
		}
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}
