package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tidemill/tidemill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const checkMethod = "/grpc.health.v1.Health/Check"

func anyone(context.Context, string) error { return nil }

// probe is a service of functions; gRPC's own health service lends its messages.
type probe struct {
	healthpb.UnimplementedHealthServer
	check func(ctx context.Context, service string) error
	watch func(stream healthpb.Health_WatchServer) error
}

func (p *probe) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, p.check(ctx, r.GetService())
}

func (p *probe) Watch(_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	return p.watch(stream)
}

// run serves p until the test ends, or stop is called, and returns a way to reach it.
func run(t *testing.T, p *probe, cfg ServerConfig) (addr string, stop context.CancelFunc, stopped <-chan struct{}) {
	t.Helper()
	lis, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(cfg)
	healthpb.RegisterHealthServer(srv, p)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, srv, lis, 100*time.Millisecond); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return lis.Addr().String(), cancel, done
}

func dial(t *testing.T, addr string, cfg ClientConfig) healthpb.HealthClient {
	t.Helper()
	conn, err := Dial(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func ask(c healthpb.HealthClient, service string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	return err
}

type counts struct {
	mu    sync.Mutex
	calls []string
}

func (c *counts) Call(method string, code codes.Code, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprint(method[strings.LastIndexByte(method, '/')+1:], " ", code, " ", took >= 0))
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.calls, ", ")
}

func TestErrorsAcrossTheWire(t *testing.T) {
	var log bytes.Buffer
	var fail error
	server, client := &counts{}, &counts{}
	addr, stop, stopped := run(t, &probe{
		check: func(context.Context, string) error { return fail },
		watch: func(s healthpb.Health_WatchServer) error {
			if err := s.Send(&healthpb.HealthCheckResponse{}); err != nil {
				return err
			}
			return fail
		},
	}, ServerConfig{Authorize: anyone, Metrics: server, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	c := dial(t, addr, ClientConfig{Metrics: client, WaitForReady: true})
	stream := func() error {
		s, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			t.Fatalf("the first message: %v", err)
		}
		_, err = s.Recv()
		return err
	}
	for _, k := range kinds {
		fail = fmt.Errorf("round 7: %w", k.kind)
		for _, err := range []error{ask(c, ""), stream()} {
			if !errors.Is(err, k.kind) || err.Error() != fail.Error() {
				t.Errorf("%v arrived as %v", fail, err)
			}
		}
	}
	fail = nil
	if err := stream(); err != io.EOF {
		t.Errorf("a finished stream ended with %v", err)
	}
	fail = errors.New("the password is 123")
	if err := ask(c, ""); err == nil || strings.Contains(err.Error(), "123") {
		t.Errorf("an error without a kind arrived as %v", err)
	}
	stop()
	<-stopped
	if !strings.Contains(log.String(), "the password is 123") {
		t.Error("the server's log does not say what went wrong")
	}
	for name, m := range map[string]*counts{"server": server, "client": client} {
		got := m.String()
		for _, want := range []string{"Check FailedPrecondition true", "Watch FailedPrecondition true", "Watch OK true", "Check Internal true"} {
			if !strings.Contains(got, want) {
				t.Errorf("the %s's metrics lack %q: %s", name, want, got)
			}
		}
		if n := strings.Count(got, "Watch"); n != len(kinds)+1 {
			t.Errorf("the %s counted %d streams of %d", name, n, len(kinds)+1)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	var log bytes.Buffer
	addr, stop, stopped := run(t, &probe{
		check: func(context.Context, string) error { panic("at the disco") },
		watch: func(healthpb.Health_WatchServer) error { panic("at the disco") },
	}, ServerConfig{Authorize: anyone, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	c := dial(t, addr, ClientConfig{WaitForReady: true})
	for range 2 { // the server lives on
		var e *Error
		if err := ask(c, ""); !errors.As(err, &e) || e.Code != codes.Internal || strings.Contains(err.Error(), "disco") {
			t.Errorf("a panic arrived as %v", err)
		}
	}
	s, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	var e *Error
	if !errors.As(err, &e) || e.Code != codes.Internal {
		t.Errorf("a panic in a stream arrived as %v", err)
	}
	stop()
	<-stopped
	if !strings.Contains(log.String(), "at the disco") {
		t.Error("the server's log does not show the panic")
	}
}

func TestNobodyUnlessAllowed(t *testing.T) {
	fine := &probe{check: func(context.Context, string) error { return nil }}
	for name, c := range map[string]struct {
		authorize func(context.Context, string) error
		ok        bool
	}{
		"nothing said":       {nil, false},
		"another method":     {Policy{Allow: map[string][]string{"/grpc.health.v1.Health/Watch": {Anyone}}, Plain: true}.Authorize, false},
		"the method":         {Policy{Allow: map[string][]string{checkMethod: {Anyone}}}.Authorize, true},
		"the service":        {Policy{Allow: map[string][]string{"/grpc.health.v1.Health/": {Anyone}}}.Authorize, false},
		"a role, plain":      {Policy{Allow: map[string][]string{checkMethod: {"ps"}}}.Authorize, false},
		"a role, any plain":  {Policy{Allow: map[string][]string{checkMethod: {"ps"}}, Plain: true}.Authorize, true},
		"no role, any plain": {Policy{Allow: map[string][]string{checkMethod: {}}, Plain: true}.Authorize, true},
	} {
		addr, _, _ := run(t, fine, ServerConfig{Authorize: c.authorize})
		err := ask(dial(t, addr, ClientConfig{WaitForReady: true}), "")
		if c.ok && err != nil || !c.ok && !errors.Is(err, tidemill.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	addr, _, _ := run(t, &probe{check: func(context.Context, string) error { return nil }},
		ServerConfig{Authorize: anyone, MaxMessage: 1000})
	c := dial(t, addr, ClientConfig{WaitForReady: true})
	if err := ask(c, strings.Repeat("x", 900)); err != nil {
		t.Error(err)
	}
	if err := ask(c, strings.Repeat("x", 1100)); !errors.Is(err, tidemill.ErrFull) {
		t.Errorf("too large a message: %v", err)
	}
	small := dial(t, addr, ClientConfig{WaitForReady: true, MaxMessage: 100})
	if err := ask(small, strings.Repeat("x", 200)); !errors.Is(err, tidemill.ErrFull) {
		t.Errorf("too large a message to send: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	lis, err := Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	err = ask(dial(t, addr, ClientConfig{}), "")
	if !errors.Is(err, tidemill.ErrUnavailable) || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("without a server: %v", err)
	}
	for _, bad := range []string{"", "host", "a:b:c"} {
		if _, err := Dial(bad, ClientConfig{}); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("Dial(%q): %v", bad, err)
		}
	}
}

// TestServeEnds: a call in progress may finish, one that does not is cut off, and no handler
// runs when Serve has returned.
func TestServeEnds(t *testing.T) {
	entered, release := make(chan struct{}, 2), make(chan struct{})
	var running sync.WaitGroup
	running.Add(1)
	addr, stop, stopped := run(t, &probe{check: func(ctx context.Context, service string) error {
		entered <- struct{}{}
		if service == "quick" {
			<-release
			return nil
		}
		defer running.Done()
		<-ctx.Done()
		return ctx.Err()
	}}, ServerConfig{Authorize: anyone})
	c := dial(t, addr, ClientConfig{WaitForReady: true})
	quick, slow := make(chan error, 1), make(chan error, 1)
	go func() { quick <- ask(c, "quick") }()
	go func() { slow <- ask(c, "slow") }()
	<-entered
	<-entered
	stop()
	close(release)
	if err := <-quick; err != nil {
		t.Errorf("a call in progress: %v", err)
	}
	if err := <-slow; err == nil {
		t.Error("a call that does not end was not cut off")
	}
	<-stopped
	running.Wait()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the listener is still open")
	}
}

// TestInProcess: a connection that never touches the network.
func TestInProcess(t *testing.T) {
	lis := newPipes()
	srv := NewServer(ServerConfig{Authorize: anyone})
	healthpb.RegisterHealthServer(srv, &probe{check: func(context.Context, string) error { return tidemill.ErrNotReady }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, srv, lis, time.Second) }()
	c := dial(t, "self:0", ClientConfig{WaitForReady: true, Dialer: lis.dial})
	if err := ask(c, ""); !errors.Is(err, tidemill.ErrNotReady) {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// pipes is a listener whose connections are net.Pipe.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case p.conns <- b:
		return a, nil
	case <-p.closed:
	case <-ctx.Done():
	}
	return nil, net.ErrClosed
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "self", Net: "pipe"} }
