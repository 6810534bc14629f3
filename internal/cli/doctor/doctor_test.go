package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

func examine(t *testing.T, dir string, now func() time.Time) map[string]Finding {
	t.Helper()
	dial := func(string) (*grpc.ClientConn, error) { return nil, errors.New("nobody is dialled here") }
	out := map[string]Finding{}
	for _, f := range Examine(context.Background(), Config{DataDir: dir, Dial: dial, Now: now}) {
		if f.Status != OK && f.Remedy == "" {
			t.Errorf("%s is %s without a remedy", f.Check, f.Status)
		}
		if strings.Contains(f.Detail, dir) {
			t.Errorf("%s names the directory: %s", f.Check, f.Detail)
		}
		out[f.Check] = f
	}
	return out
}

// TestDirectory: what is wrong with a data directory is found, and nothing is left in it.
func TestDirectory(t *testing.T) {
	base := t.TempDir()
	made := func(name string, files map[string]string) string {
		dir := filepath.Join(base, name)
		for f, content := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	file := filepath.Join(made("a", map[string]string{"file": "x"}), "file")
	for _, c := range []struct {
		name, dir string
		want      Status
		detail    string
	}{
		{"not there yet", filepath.Join(base, "none", "yet"), OK, "first start makes it"},
		{"below a file", filepath.Join(file, "d"), Fail, ""},
		{"a file", file, Fail, "it is a file"},
		{"good", made("good", map[string]string{"store/FORMAT": "1\n"}), OK, "not in use"},
		{"newer", made("newer", map[string]string{"store/FORMAT": "99\n"}), Fail, "format 99"},
		{"garbled", made("garbled", map[string]string{"store/FORMAT": "x"}), Fail, "cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := os.ReadDir(c.dir)
			got := examine(t, c.dir, nil)["data directory"]
			if got.Status != c.want || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("found %+v, want %s with %q", got, c.want, c.detail)
			}
			if after, _ := os.ReadDir(c.dir); len(after) != len(before) {
				t.Errorf("%d entries before, %d after", len(before), len(after))
			}
		})
	}
}

// TestInUse: a directory that a process holds is in use.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	unlock, err := fileblob.LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := examine(t, dir, nil)["data directory"]; got.Status != OK || got.Detail != "in use by a process" {
		t.Errorf("found %+v", got)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if got := examine(t, dir, nil)["data directory"]; !strings.Contains(got.Detail, "not in use") {
		t.Errorf("found %+v", got)
	}
}

func TestClock(t *testing.T) {
	long := func() time.Time { return time.Unix(0, 0) }
	if got := examine(t, t.TempDir(), long)["clock"]; got.Status != Fail {
		t.Errorf("found %+v", got)
	}
	if got := examine(t, t.TempDir(), nil)["clock"]; got.Status != OK {
		t.Errorf("found %+v", got)
	}
}

func TestNoNode(t *testing.T) {
	if got := examine(t, t.TempDir(), nil)["node"]; got.Status != Warn {
		t.Errorf("found %+v", got)
	}
}
