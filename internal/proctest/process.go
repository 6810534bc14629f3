package proctest

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running program. Its methods belong to the test's goroutine, but for PID and
// Done.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  *firstLine
	logs *tail
	done chan struct{}
	err  error // of the end; after done
}

// Start starts a command. name is how failures call it. When the test ends it is killed, and
// when the test has failed the end of its standard error is logged.
func (b *Binary) Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	p := &Process{
		t: t, name: name, cmd: exec.Command(b.path, args...), done: make(chan struct{}),
		out: &firstLine{there: make(chan struct{})}, logs: &tail{most: 1 << 18},
	}
	p.cmd.SysProcAttr = dieWithParent()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.logs
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the last that %s said:\n%s", name, p.logs.lines(60))
		}
	})
	return p
}

// PID returns the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ready waits for the first line of standard output, which says in JSON that the process is
// ready, and decodes it into v. The test fails when the process ends before, or patience does.
func (p *Process) Ready(v any, patience time.Duration) {
	p.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.out.there:
	case <-p.done:
		p.t.Fatalf("%s ended before it was ready: %v", p.name, p.err)
	case <-late.C:
		p.t.Fatalf("waited %v for %s to be ready", patience, p.name)
	}
	if err := json.Unmarshal(p.out.line(), v); err != nil {
		p.t.Fatalf("%s is ready and says %q: %v", p.name, p.out.line(), err)
	}
}

// Kill ends the process as a crash does, with SIGKILL, and returns when it is gone. One that
// has ended is left alone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end, with SIGTERM, and waits. The test fails when it ends with an
// error or patience is over; then it is killed.
func (p *Process) Stop(patience time.Duration) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Errorf("%s was asked to stop and ended with: %v", p.name, p.err)
		}
	case <-late.C:
		p.t.Errorf("waited %v for %s to stop", patience, p.name)
		p.Kill()
	}
}

// Logs returns the end of what the process wrote to standard error.
func (p *Process) Logs() string { return p.logs.lines(1 << 20) }

// firstLine is a writer that keeps the first line.
type firstLine struct {
	mu    sync.Mutex
	buf   []byte
	there chan struct{} // closed once it is whole
	whole bool
}

func (w *firstLine) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.whole {
		w.buf = append(w.buf, b...)
		if at := bytes.IndexByte(w.buf, '\n'); at >= 0 {
			w.buf, w.whole = w.buf[:at], true
			close(w.there)
		}
	}
	return len(b), nil
}

func (w *firstLine) line() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf
}

// tail is a writer that keeps the last bytes, at most twice most.
type tail struct {
	most int
	mu   sync.Mutex
	buf  []byte
}

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, b...)
	if len(w.buf) > 2*w.most {
		w.buf = append(w.buf[:0], w.buf[len(w.buf)-w.most:]...)
	}
	return len(b), nil
}

// lines returns the last n lines.
func (w *tail) lines(n int) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Split(strings.TrimRight(string(w.buf), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
