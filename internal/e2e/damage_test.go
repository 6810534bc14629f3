package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
)

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 4
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A bit of the newest snapshot flips while nobody looks. The job that comes back does not train
// on it: it fails, names the newest intact snapshot, and the command that it gives goes on from
// there to the digest of a job that nothing happened to.
func TestDamagedSnapshotIsNotTrainedOn(t *testing.T) {
	yaml, csv := power(t, powerRows)
	job := func(model string, bounded bool) *spec.Document {
		return parse(t, yaml, func(sp *tidemill.Spec) {
			sp.Model, sp.Train.UntilEnd = model, bounded
			sp.Train.Snapshot.Rows = 300
		})
	}
	dir := t.TempDir()
	s := start(t, dir, node.Config{Slots: 2})
	s.produce("power", 2, csv)
	s.submit(job("whole", true))
	want := s.finish("whole")
	s.submit(job("hurt", false))
	s.until("the job has some snapshots", func() bool { return s.status("hurt").Snapshot >= 4 })
	s.stop()

	newest, number := "", ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/jobs/hurt/snapshot/") || strings.HasSuffix(path, "manifest.json") || strings.HasSuffix(path, ".lock") {
			return err
		}
		// Numbers are padded with zeros: the greatest name is of the newest.
		n := regexp.MustCompile(`snapshot/(\d+)/`).FindStringSubmatch(path)
		if _, err := os.Stat(path[:strings.Index(path, "/snapshot/")] + "/snapshot/" + n[1] + "/manifest.json"); err == nil && n[1] >= number {
			newest, number = path, n[1]
		}
		return nil
	})
	if err != nil || newest == "" {
		t.Fatalf("no blob of a snapshot is found: %v", err)
	}
	flip(t, newest)

	s = start(t, dir, node.Config{Slots: 2})
	var reason string
	s.until("the job fails", func() bool { st := s.status("hurt"); reason = st.Reason; return st.State == tidemill.JobFailed })
	advice := regexp.MustCompile(`tidemill submit JOB\.yaml --from (hurt/\d+)`).FindStringSubmatch(reason)
	if advice == nil {
		t.Fatalf("the job failed without advice: %s", reason)
	}
	t.Log(reason)
	if strings.Contains(reason, dir) {
		t.Errorf("the reason names a place of this machine: %s", reason)
	}
	if _, err := s.submitFrom(job("again", true), advice[1], false); err != nil {
		t.Fatal(err)
	}
	if st := s.finish("again"); st.Digest != want.Digest || st.Examples != want.Examples {
		t.Errorf("from %s: digest %s of %d examples, undamaged %s of %d", advice[1], st.Digest, st.Examples, want.Digest, want.Examples)
	}
}
