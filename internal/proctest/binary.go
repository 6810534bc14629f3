package proctest

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidemill/tidemill/internal/process"
)

// Binary is a program that was built for a test.
type Binary struct{ path string }

// Build builds a main package, named as for go build, into a directory that goes with t. That
// takes seconds: build once, in the test that all users are subtests of.
func Build(t testing.TB, pkg string) *Binary {
	t.Helper()
	b := &Binary{filepath.Join(t.TempDir(), "program")}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.path, pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return b
}

// Run runs a command to its end, or until ctx ends, and returns its standard output. The
// error of one that failed has its standard error and unwraps to *exec.ExitError.
func (b *Binary) Run(ctx context.Context, args ...string) ([]byte, error) {
	return process.Run(ctx, b.path, args...)
}

// Until polls a condition until it holds. After patience the test fails.
func Until(t testing.TB, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("waited %v for: %s", patience, what)
		case <-t.Context().Done():
			t.Fatalf("the test ended while it waited for: %s", what)
		}
	}
}
