package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/tidemill/tidemill"
)

// Process is a running program. It is safe for concurrent use.
type Process struct {
	name string
	cmd  *exec.Cmd
	out  *firstLine
	logs *tail
	done chan struct{}
	err  error // of the end; after done
}

// Start starts the program at path. name is how errors call it; logs, when given, receives its
// standard error besides what Logs keeps.
func Start(name string, logs io.Writer, path string, args ...string) (*Process, error) {
	p := &Process{
		name: name, cmd: exec.Command(path, args...), done: make(chan struct{}),
		out: &firstLine{there: make(chan struct{})}, logs: &tail{most: 1 << 18, also: logs},
	}
	p.cmd.SysProcAttr = dieWithParent()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.logs
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s cannot be started: %w: %w", name, tidemill.ErrInvalid, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// Run runs a command to its end, or until ctx ends, and returns its standard output. The
// error of one that failed has its standard error and unwraps to *exec.ExitError.
func Run(ctx context.Context, path string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = dieWithParent()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), errors.Join(ctx.Err(), err), bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), err
}

// PID returns the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the process ended: nil when it exited with 0. Call it after Done.
func (p *Process) Err() error { return p.err }

// Output returns the first line of standard output as far as it is there.
func (p *Process) Output() []byte { return p.out.line() }

// Ready waits for the first line of standard output, which says in JSON that the process is
// ready, and decodes it into v. tidemill.ErrUnavailable: the process ended before, or ctx did.
func (p *Process) Ready(ctx context.Context, v any) error {
	select {
	case <-p.out.there:
	case <-p.done:
		return fmt.Errorf("%s ended before it was ready: %w (%v)", p.name, tidemill.ErrUnavailable, p.err)
	case <-ctx.Done():
		return fmt.Errorf("%s is not ready: %w: %w", p.name, tidemill.ErrUnavailable, ctx.Err())
	}
	if err := json.Unmarshal(p.out.line(), v); err != nil {
		return fmt.Errorf("%s is ready and says %q: %w", p.name, p.out.line(), err)
	}
	return nil
}

// Kill ends the process as a crash does, with SIGKILL, and returns when it is gone. One that
// has ended is left alone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Stop asks the process to end, with SIGTERM, and waits; when ctx ends first it is killed and
// that is the error. Otherwise the error is how the process ended.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("%s did not stop: %w", p.name, ctx.Err())
	}
}

// Logs returns the end of what the process wrote to standard error.
func (p *Process) Logs() string { return p.Tail(1 << 20) }

// Tail returns the last n lines of it.
func (p *Process) Tail(n int) string { return p.logs.lines(n) }

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

// tail is a writer that keeps the last bytes, at most twice most, and passes all on.
type tail struct {
	most int
	also io.Writer
	mu   sync.Mutex
	buf  []byte
}

func (w *tail) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.also != nil {
		_, _ = w.also.Write(b) // a log that cannot be written must not stop the process
	}
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
