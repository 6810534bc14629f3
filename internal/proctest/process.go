package proctest

import (
	"context"
	"testing"
	"time"

	"github.com/tidemill/tidemill/internal/process"
)

// Process is a running program of a test. Its methods belong to the test's goroutine, but for
// PID and Done.
type Process struct {
	*process.Process
	t    testing.TB
	name string
}

// Start starts a command. name is how failures call it. When the test ends it is killed, and
// when the test has failed the end of its standard error is logged.
func (b *Binary) Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	in, err := process.Start(name, nil, b.path, args...)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Process: in, t: t, name: name}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the last that %s said:\n%s", name, p.Tail(60))
		}
	})
	return p
}

// Ready waits for the first line of standard output, which says in JSON that the process is
// ready, and decodes it into v. The test fails when the process ends before, or patience does.
func (p *Process) Ready(v any, patience time.Duration) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Process.Ready(ctx, v); err != nil {
		p.t.Fatal(err)
	}
}

// Stop asks the process to end, with SIGTERM, and waits. The test fails when it ends with an
// error or patience is over; then it is killed.
func (p *Process) Stop(patience time.Duration) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Process.Stop(ctx); err != nil {
		p.t.Errorf("%s was asked to stop: %v", p.name, err)
	}
}

// Metrics are a process's metrics at one moment.
type Metrics = process.Metrics

// Scrape reads the metrics at a URL.
func Scrape(ctx context.Context, url string) (Metrics, error) { return process.Scrape(ctx, url) }
