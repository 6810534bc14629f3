package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/faultnet"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/process"
)

// fleet is a cluster of processes of one program on this machine. Each has a data directory
// and fixed addresses of its own, so that one that is started again is found again.
type fleet struct {
	binary string
	dir    string
	net    *faultnet.Network // between the processes; nil where there can be none
	seats  []*seat           // in the order of starting; the first has the stream
	disk   *disk             // of the seat with the stream; nil: the same as everybody's
}

// seat is a place in the cluster: at most one process at a time sits in it.
type seat struct {
	name string
	role string
	rpc, gossip,
	stream, grpc faultnet.Port

	mu   sync.Mutex
	proc *process.Process // nil when nobody sits
	info node.Info        // of the last that was ready
	up   bool             // it was ready, and nobody has ended it since
	logs *os.File
}

// newFleet makes the places of a cluster: one stream, and as many of the other roles as given.
// Nothing is started. With broken, and where the system has what it takes, a network that can be
// broken lies between the processes. The caller closes the fleet.
func newFleet(binary, dir string, seed uint64, counts map[string]int, broken bool) (*fleet, error) {
	f := &fleet{binary: binary, dir: dir}
	var err error
	if broken && faultnet.Available() {
		if f.net, err = faultnet.New(seed); err != nil {
			return nil, err
		}
	}
	if err = os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		f.close()
		return nil, fmt.Errorf("the directory of the run cannot be made: %w", err)
	}
	for _, role := range []string{node.RoleStream, node.RoleTrainer, node.RolePS, node.RoleWorker, node.RoleServing} {
		n := counts[role]
		for i := range n {
			s := &seat{name: role, role: role}
			if n > 1 {
				s.name = fmt.Sprintf("%s%d", role, i+1)
			}
			if err := f.furnish(s); err != nil {
				f.close()
				return nil, err
			}
			f.seats = append(f.seats, s)
		}
	}
	return f, nil
}

// furnish gives a seat its addresses and its log.
func (f *fleet) furnish(s *seat) error {
	for _, p := range []struct {
		port *faultnet.Port
		udp  bool
		has  bool
	}{{&s.rpc, false, true}, {&s.gossip, true, true}, {&s.stream, false, s.role == node.RoleStream}, {&s.grpc, false, s.role == node.RoleServing}} {
		if !p.has {
			continue
		}
		var err error
		if f.net != nil {
			*p.port, err = f.net.Listen(s.name, p.udp)
		} else {
			*p.port, err = freePort()
		}
		if err != nil {
			return err
		}
	}
	var err error
	s.logs, err = os.OpenFile(f.logName(s.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	return err
}

func (f *fleet) logName(name string) string { return filepath.Join(f.dir, "logs", name+".log") }

func freePort() (faultnet.Port, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return faultnet.Port{}, fmt.Errorf("no free port: %w: %w", tidemill.ErrUnavailable, err)
	}
	addr := l.Addr().String()
	return faultnet.Port{Inside: addr, Outside: addr}, l.Close()
}

func (f *fleet) dataDir(name string) string { return filepath.Join(f.dir, "data", name) }

// start launches the process of a seat, which nobody may sit in, and waits until it is ready.
func (f *fleet) start(ctx context.Context, s *seat) error {
	if err := f.launch(s); err != nil {
		return err
	}
	return f.ready(ctx, s)
}

func (f *fleet) launch(s *seat) error {
	args := []string{
		"start", "--json", "--data-dir", f.dataDir(s.name), "--listen", "127.0.0.1:0", "--id", s.name, "--role", s.role,
		"--rpc", s.rpc.Inside, "--advertise-rpc", s.rpc.Outside, "--gossip", s.gossip.Inside, "--advertise", s.gossip.Outside,
	}
	switch s.role {
	case node.RoleStream:
		args = append(args, "--stream-listen", s.stream.Inside, "--advertise-stream", s.stream.Outside)
	case node.RoleServing:
		args = append(args, "--grpc", s.grpc.Inside)
	}
	if s.role != node.RoleStream {
		args = append(args, "--join", f.seats[0].gossip.Outside)
	}
	command := append([]string{f.binary}, args...)
	if s.role == node.RoleStream && f.disk != nil {
		command = append(f.disk.enter(), command...)
	}
	p, err := process.Start(s.name, s.logs, command[0], command[1:]...)
	if err != nil {
		return err
	}
	if f.net != nil {
		f.net.Host(s.name, p.PID())
	}
	s.mu.Lock()
	s.proc, s.up = p, false
	s.mu.Unlock()
	return nil
}

// ready waits until the process of a seat says that it is.
func (f *fleet) ready(ctx context.Context, s *seat) error {
	s.mu.Lock()
	p := s.proc
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("nobody runs as %s: %w", s.name, tidemill.ErrNotReady)
	}
	var info node.Info
	if err := p.Ready(ctx, &info); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == p {
		s.info, s.up = info, true
	}
	return nil
}

// process returns who sits in the seat, and whether it is up.
func (s *seat) process() (*process.Process, node.Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc, s.info, s.up
}

// vacate notes that the seat's process is being ended, and returns it.
func (s *seat) vacate() *process.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proc
	s.proc, s.up = nil, false
	return p
}

// kill ends the process of a seat as a crash does.
func (s *seat) kill() {
	if p := s.vacate(); p != nil {
		p.Kill()
	}
}

// stop asks the process of a seat to end.
func (s *seat) stop(ctx context.Context) error {
	if p := s.vacate(); p != nil {
		return p.Stop(ctx)
	}
	return nil
}

// signal sends a signal to the process of a seat.
func (s *seat) signal(sig syscall.Signal) {
	if p, _, _ := s.process(); p != nil {
		p.Signal(sig)
	}
}

// streamURL is where this process reaches the stream.
func (f *fleet) streamURL() string { return "nats://" + f.seats[0].stream.Inside }

// server is the address that commands talk to.
func (f *fleet) server() string {
	for _, s := range f.seats {
		if _, _, up := s.process(); up && s.role == node.RoleTrainer {
			return s.rpc.Inside
		}
	}
	return f.seats[0].rpc.Inside
}

// of returns the seats of a role.
func (f *fleet) of(role string) []*seat {
	var out []*seat
	for _, s := range f.seats {
		if s.role == role {
			out = append(out, s)
		}
	}
	return out
}

// startAll starts whoever does not run, the stream first, the others at the same time.
func (f *fleet) startAll(ctx context.Context) error {
	var begun []*seat
	for _, s := range f.seats {
		if p, _, up := s.process(); p == nil {
			if err := f.launch(s); err != nil {
				return err
			}
		} else if up {
			continue
		}
		begun = append(begun, s)
	}
	for _, s := range begun {
		if err := f.ready(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// stopAll asks all processes to end, the stream last.
func (f *fleet) stopAll(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, len(f.seats))
	for i, s := range f.seats[1:] {
		all.Go(func() { errs[i+1] = s.stop(ctx) })
	}
	all.Wait()
	errs[0] = f.seats[0].stop(ctx)
	return errors.Join(errs...)
}

// run runs a command of the program and returns what it printed.
func (f *fleet) run(ctx context.Context, args ...string) ([]byte, error) {
	return process.Run(ctx, f.binary, append(args, "--json")...)
}

// close kills whoever is left.
func (f *fleet) close() {
	for _, s := range f.seats {
		s.kill()
		if s.logs != nil {
			_ = s.logs.Close()
		}
	}
	if f.net != nil {
		f.net.Close()
	}
	if f.disk != nil {
		f.disk.close()
	}
}

// storeDir is where this process finds the object store's files.
func (f *fleet) storeDir() string {
	dir := f.dataDir(f.seats[0].name)
	if f.disk != nil {
		dir = f.disk.outside()
	}
	return filepath.Join(dir, "store")
}
