package natskv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/lease/leasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs a server on a loopback port (-1: any) until the test ends or stop is called.
func startServer(t testing.TB, dir string, port int) (srv *server.Server, stop func()) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 256 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server did not start")
	}
	stop = func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	t.Cleanup(stop)
	return srv, stop
}

func connect(t testing.TB, srv *server.Server) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

func open(t testing.TB, nc *nats.Conn, bucket string, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), nc, bucket, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for _, memory := range []bool{true, false} {
		t.Run(fmt.Sprintf("memory=%v", memory), func(t *testing.T) {
			t.Parallel()
			srv, _ := startServer(t, t.TempDir(), -1)
			nc := connect(t, srv)
			var n atomic.Int64
			leasetest.Run(t, func(t *testing.T, o lease.Options) lease.Store {
				return open(t, nc, fmt.Sprint("b", n.Add(1)), Options{TTL: o.TTL, Memory: memory})
			}, nil)
		})
	}
}

func TestSessionHandsOver(t *testing.T) {
	t.Parallel()
	srv, _ := startServer(t, t.TempDir(), -1)
	a := open(t, connect(t, srv), "sessions", Options{TTL: time.Second, Memory: true})
	b := open(t, connect(t, srv), "sessions", Options{TTL: time.Second, Memory: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, firstDone := runSession(t, ctx, a)
	<-first.Acquired()
	ctx2, cancel2 := context.WithCancel(t.Context())
	defer cancel2()
	second, secondDone := runSession(t, ctx2, b)
	w, err := b.Watch(ctx2, "leader")
	if err != nil {
		t.Fatal(err)
	}
	// Renewals are seen, and do not change the epoch.
	epoch := first.Epoch()
	for e := leasetest.Next(t, w); e.Revision <= epoch; e = leasetest.Next(t, w) {
	}
	if first.Epoch() != epoch || !first.Valid() || second.Valid() {
		t.Fatalf("epoch %d → %d, valid %v and %v", epoch, first.Epoch(), first.Valid(), second.Valid())
	}
	cancel()
	if err := <-firstDone; err != nil {
		t.Fatal(err)
	}
	<-second.Acquired()
	if first.Valid() || second.Epoch() <= epoch {
		t.Fatalf("epoch %d after %d", second.Epoch(), epoch)
	}
	cancel2()
	if err := <-secondDone; err != nil {
		t.Fatal(err)
	}
}

func runSession(t *testing.T, ctx context.Context, store lease.Store) (*lease.Session, <-chan error) {
	t.Helper()
	s, err := lease.NewSession(store, "leader", []byte("me"), lease.SessionConfig{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, done
}

// TestRestart: a server comes back on the same port. Records are still there, and the watch
// delivers what it missed; a memory bucket is empty, another incarnation, and its revisions
// go on above the old ones.
func TestRestart(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	srv, stop := startServer(t, dir, -1)
	nc := connect(t, srv)
	records := open(t, nc, "records", Options{})
	sessions := open(t, nc, "sessions", Options{Memory: true})
	stores := []*Store{records, sessions}
	watches := make([]<-chan lease.Entry, len(stores))
	var names []string
	last := make([]uint64, len(stores))
	for i, s := range stores {
		for _, key := range []string{"gone", "kept"} {
			rev, err := s.Create(ctx, key, nil)
			if err != nil {
				t.Fatal(err)
			}
			last[i] = rev
		}
		w, err := s.Watch(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			leasetest.Next(t, w)
		}
		watches[i] = w
		name, err := s.Incarnation(ctx)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}

	addr := srv.Addr().(*net.TCPAddr)
	stop()
	again, _ := startServer(t, dir, addr.Port)
	// Written over a connection of its own, before or after the old one is back.
	other := open(t, connect(t, again), "records", Options{})
	gone, err := other.Get(ctx, "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Delete(ctx, "gone", gone.Revision); err != nil {
		t.Fatal(err)
	}
	if e := leasetest.Next(t, watches[0]); e.Key != "gone" || !e.Deleted {
		t.Fatalf("the records' watch delivered %+v, want the deletion", e)
	}
	lost := map[string]bool{}
	for range 2 {
		e := leasetest.Next(t, watches[1])
		if !e.Deleted {
			t.Fatalf("the sessions' watch delivered %+v, want what was lost", e)
		}
		lost[e.Key] = true
	}
	if len(lost) != 2 {
		t.Fatalf("lost are %v, want both", lost)
	}
	for i, s := range stores {
		name, err := s.Incarnation(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if (name == names[i]) != (s == records) {
			t.Errorf("bucket %s: incarnation %q, before %q", s.bucket, name, names[i])
		}
		rev, err := s.Create(ctx, "new", nil)
		if err != nil {
			t.Fatal(err)
		}
		if rev <= last[i] {
			t.Errorf("bucket %s: revision %d is not above %d", s.bucket, rev, last[i])
		}
		if e := leasetest.Next(t, watches[i]); e.Key != "new" || e.Revision != rev {
			t.Errorf("bucket %s: the watch delivered %+v, want new", s.bucket, e)
		}
	}
}

// TestReplaced: the bucket is deleted and made anew under a live connection.
func TestReplaced(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	srv, _ := startServer(t, t.TempDir(), -1)
	nc := connect(t, srv)
	s := open(t, nc, "sessions", Options{Memory: true})
	rev, err := s.Create(ctx, "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.js.DeleteStream(ctx, "KV_sessions"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(ctx, "a", nil, rev); !errors.Is(err, tidemill.ErrConflict) {
		t.Fatalf("an update of a lost entry: %v", err)
	}
	next, err := s.Create(ctx, "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if next <= rev || before == after {
		t.Fatalf("revision %d after %d, incarnation %q after %q", next, rev, after, before)
	}
}

// TestLostAnswer: a write whose answer never came is found to have happened.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	srv, _ := startServer(t, t.TempDir(), -1)
	s := open(t, connect(t, srv), "records", Options{})
	m := s.message("a", []byte("1"), 0)
	if _, err := s.js.PublishMsg(ctx, clone(m)); err != nil {
		t.Fatal(err)
	}
	// The same message again is what a repeat sends. It conflicts with itself, and only a write
	// that had an unclear attempt before may take that for success.
	if _, err := s.write(ctx, m); !errors.Is(err, tidemill.ErrConflict) {
		t.Fatalf("a repeat without an unclear attempt: %v", err)
	}
	rev, err := s.settle(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Get(ctx, "a")
	if err != nil || e.Revision != rev {
		t.Fatalf("settled at %d, stored %+v, %v", rev, e, err)
	}
	if _, err := s.settle(ctx, s.message("a", []byte("2"), 0)); !errors.Is(err, tidemill.ErrConflict) {
		t.Fatalf("another's write settled as ours: %v", err)
	}
}

func TestDisagreement(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	srv, stop := startServer(t, t.TempDir(), -1)
	nc := connect(t, srv)
	open(t, nc, "b", Options{TTL: time.Second, Memory: true})
	for _, o := range []Options{{}, {Memory: true}, {TTL: 2 * time.Second, Memory: true}, {TTL: 1500 * time.Millisecond}} {
		if _, err := Open(ctx, nc, "b", o); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("opened with %+v: %v", o, err)
		}
	}
	for _, name := range []string{"", "a.b", "a b", "*"} {
		if _, err := Open(ctx, nc, name, Options{}); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("opened the bucket %q: %v", name, err)
		}
	}
	s := open(t, nc, "c", Options{})
	stop()
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := s.Create(ctx, "a", nil); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("created without a server: %v", err)
	}
	if _, err := s.Get(ctx, "a"); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("read without a server: %v", err)
	}
}

// TestReadable: what the bucket holds is an ordinary key-value bucket for other tools.
func TestReadable(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	srv, _ := startServer(t, t.TempDir(), -1)
	s := open(t, connect(t, srv), "records", Options{})
	rev, err := s.Create(ctx, "jobs/a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := s.js.KeyValue(ctx, "records")
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(ctx, "jobs/a")
	if err != nil || string(e.Value()) != "1" || e.Revision() != rev {
		t.Fatalf("the client library reads %v, %v", e, err)
	}
	if err := s.Delete(ctx, "jobs/a", rev); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(ctx, "jobs/a"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Fatalf("the client library reads a deleted key: %v", err)
	}
}
