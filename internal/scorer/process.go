//go:build unix

package scorer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// firstLane is the descriptor that a child has its first lane at.
const firstLane = 3

// process is one child.
type process struct {
	cmd   *exec.Cmd
	lanes chan *lane // those that nobody uses
	all   []*lane
	ended chan struct{} // closed when the process is gone
	state string        // how it ended; written before ended is closed
	last  *tail

	mu   sync.Mutex // guards sent
	sent map[uint64]bool
}

// lane is one end of a pair of sockets.
type lane struct {
	conn net.Conn
	r    *reader
	w    *writer
}

// start starts a child with n lanes.
func start(command []string, env []string, n int, memory int64, log *slog.Logger) (*process, error) {
	args := append(command[1:len(command):len(command)], "--lanes", strconv.Itoa(n), "--memory", strconv.FormatInt(memory, 10))
	p := &process{
		cmd: exec.Command(command[0], args...), lanes: make(chan *lane, n), ended: make(chan struct{}),
		sent: map[uint64]bool{}, last: &tail{log: log},
	}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.last
	// A signal to this process's group, such as an interrupt from a terminal, is not the child's.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that keeps the standard error open must not keep Wait.
	p.cmd.WaitDelay = time.Second
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	for range n {
		own, other, err := pair()
		if err != nil {
			p.hangUp()
			return nil, fmt.Errorf("connect to a scoring process: %w", err)
		}
		l := &lane{conn: own, r: &reader{r: bufio.NewReaderSize(own, 1<<16)}, w: &writer{w: bufio.NewWriterSize(own, 1<<16)}}
		p.all = append(p.all, l)
		p.lanes <- l
		theirs = append(theirs, other)
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, other)
	}
	if err := p.cmd.Start(); err != nil {
		p.hangUp()
		return nil, fmt.Errorf("start a scoring process: %w", err)
	}
	go func() {
		err := p.cmd.Wait()
		p.state = "exit status 0"
		if err != nil {
			p.state = err.Error()
		}
		p.hangUp()
		close(p.ended)
	}()
	return p, nil
}

// pair makes two connected sockets, the second to be inherited.
func pair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, err
	}
	mine, other := os.NewFile(uintptr(fds[0]), "lane"), os.NewFile(uintptr(fds[1]), "lane")
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		other.Close()
		return nil, nil, err
	}
	return conn, other, nil
}

func (p *process) hangUp() {
	for _, l := range p.all {
		l.conn.Close()
	}
}

// kill ends the process and what it started, and waits until it is gone.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// close lets the process end by itself: its lanes are closed. One that does not is killed.
func (p *process) close() {
	p.hangUp()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		p.kill()
	}
}

// why says how a process ended, once it has.
func (p *process) why() string {
	<-p.ended
	if t := p.last.text(); t != "" {
		return p.state + "; it last said: " + t
	}
	return p.state
}

// tail keeps the end of what a child says, and logs it.
type tail struct {
	log *slog.Logger

	mu  sync.Mutex
	end []byte
}

const tailLen = 2 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, b[max(0, len(b)-tailLen):]...)
	t.end = t.end[max(0, len(t.end)-tailLen):]
	t.mu.Unlock()
	t.log.Debug("a scoring process says", "text", string(b[:min(len(b), tailLen)]))
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}

// Lanes returns the lanes that a child was started with.
func Lanes(n int) ([]io.ReadWriteCloser, error) {
	var lanes []io.ReadWriteCloser
	for i := range n {
		f := os.NewFile(uintptr(firstLane+i), "lane")
		if f == nil {
			return nil, errors.New("a lane is missing: this command is started by others")
		}
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("lane %d is no socket; this command is started by others: %w", i, err)
		}
		lanes = append(lanes, conn)
	}
	return lanes, nil
}
