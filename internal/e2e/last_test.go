package e2e

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// A trainer that dies between a bounded job's end and the offer of its last snapshot leaves a record
// that says finished, and no version of that snapshot. The next trainer makes it one.
func TestLastSnapshotIsOfferedByTheSuccessor(t *testing.T) {
	yaml, csv := power(t, 1000)
	dir := t.TempDir()
	s := start(t, dir, node.Config{Slots: 2})
	s.produce("power", 2, csv)
	s.submit(parse(t, yaml, func(j *tidemill.Spec) { j.Train.Snapshot.Rows = 300 }))
	s.finish("power")
	last := s.manifest("power").Number
	numbers, err := snapshot.ListVersions(s.ctx, s.Bucket(), "power")
	if err != nil || len(numbers) == 0 {
		t.Fatalf("versions %v, %v", numbers, err)
	}
	n := numbers[len(numbers)-1]
	if v, err := snapshot.ReadVersionRecord(s.ctx, s.Bucket(), "power", n); err != nil || v.Snapshot != last {
		t.Fatalf("the last version is of snapshot %d, not %d: %v", v.Snapshot, last, err)
	}
	// What such a trainer has not come to write.
	removed := 0
	list := s.Bucket().List(nil)
	for {
		o, err := list.Next(s.ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if ofVersion(o, n) {
			removed++
			if err := s.Bucket().Delete(s.ctx, o.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if removed < 2 {
		t.Fatalf("%d objects of version %d were found", removed, n)
	}
	s.stop()

	s = start(t, dir, node.Config{Slots: 2})
	s.until("the last snapshot is a version with a decision", func() bool {
		_, err := snapshot.ReadDecision(s.ctx, s.Bucket(), "power", n)
		return err == nil
	})
	v, err := snapshot.ReadVersionRecord(s.ctx, s.Bucket(), "power", n)
	if err != nil || v.Snapshot != last {
		t.Fatalf("version %d is of snapshot %d, not %d: %v", n, v.Snapshot, last, err)
	}
	s.until("nothing is left to do", func() bool { return !s.Trainer().Busy("power") })
	if st := s.status("power"); st.State != tidemill.JobFinished {
		t.Errorf("the job is %s: %s", st.State, st.Reason)
	}
}

// ofVersion reports whether an object belongs to version n of a model, its decision among them.
func ofVersion(o *blob.ListObject, n int64) bool {
	parts := strings.Split(o.Key, "/")
	if len(parts) < 4 || parts[0] != "models" || parts[2] != "version" && parts[2] != "decision" {
		return false
	}
	number := strings.TrimLeft(strings.TrimSuffix(parts[3], ".json"), "0")
	return number == fmt.Sprint(n)
}
