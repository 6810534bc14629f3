package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/trainer"
)

// sessionStore is a lease store whose leases outlast the test.
func sessionStore(t *testing.T) *lease.Mem {
	t.Helper()
	s, err := lease.NewMem(lease.Options{TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s lease.Store, key string, v any) {
	t.Helper()
	value, err := json.Marshal(v)
	if err == nil {
		_, err = s.Create(t.Context(), key, value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, s lease.Store, key string) bool {
	t.Helper()
	_, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, tidemill.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

// said is a log of which the test reads the watched members.
type said chan struct{}

func (s said) Enabled(context.Context, slog.Level) bool { return true }
func (s said) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s said) WithGroup(string) slog.Handler            { return s }
func (s said) Handle(_ context.Context, r slog.Record) error {
	if r.Message == watches {
		s <- struct{}{}
	}
	return nil
}

// A process whose connection breaks and cannot be made again loses its leases at once; one that
// was never reached, and the leases of others, stay.
func TestVigil(t *testing.T) {
	sessions := sessionStore(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer(rpc.ServerConfig{})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	session := func(id, addr string) tidemill.Member {
		m := tidemill.Member{ID: id, Addr: addr}
		put(t, sessions, trainer.MemberPrefix+id, trainer.Session{Member: m, Roles: []string{RoleTrainer}})
		return m
	}
	dies := session("dies", lis.Addr().String())
	put(t, sessions, trainer.LeaderKey, dies)
	session("unreachable", "127.0.0.1:1")
	session("own", lis.Addr().String())

	stands := make(said, 10)
	v := &vigil{sessions: sessions, own: "own", log: slog.New(stands), dial: func(addr, _ string) (*grpc.ClientConn, error) {
		return rpc.Dial(addr, rpc.ClientConfig{})
	}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.run(ctx) }()
	select {
	case <-stands:
	case <-time.After(patience):
		t.Fatal("no connection to the member")
	}
	srv.Stop()
	<-served
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for has(t, sessions, trainer.MemberPrefix+"dies") || has(t, sessions, trainer.LeaderKey) {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("the leases of a dead process are still held")
		}
	}
	if !has(t, sessions, trainer.MemberPrefix+"unreachable") || !has(t, sessions, trainer.MemberPrefix+"own") {
		t.Error("the leases of others are gone")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A lease is ended at the revision that was read: a holder that renews meanwhile keeps it, and
// another holder's is not touched.
func TestDropLease(t *testing.T) {
	sessions := sessionStore(t)
	put(t, sessions, trainer.LeaderKey, tidemill.Member{ID: "a"})
	if gone, err := dropLease(t.Context(), sessions, trainer.LeaderKey, heldBy("b")); gone || err != nil {
		t.Errorf("another's lease: %v, %v", gone, err)
	}
	renews := func(value []byte) bool {
		e, err := sessions.Get(t.Context(), trainer.LeaderKey)
		if err == nil {
			_, err = sessions.Update(t.Context(), trainer.LeaderKey, value, e.Revision)
		}
		return err == nil
	}
	if gone, err := dropLease(t.Context(), sessions, trainer.LeaderKey, renews); gone || err != nil {
		t.Errorf("a lease that was renewed meanwhile: %v, %v", gone, err)
	}
	if gone, err := dropLease(t.Context(), sessions, trainer.LeaderKey, heldBy("a")); !gone || err != nil || has(t, sessions, trainer.LeaderKey) {
		t.Errorf("a dead holder's lease: %v, %v", gone, err)
	}
	if gone, err := dropLease(t.Context(), sessions, trainer.LeaderKey, heldBy("a")); !gone || err != nil {
		t.Errorf("a lease that is gone: %v, %v", gone, err)
	}
}

// A process ends the leases of the one that had its data directory before, and of nobody else.
func TestSucceed(t *testing.T) {
	sessions := sessionStore(t)
	n := &Node{cfg: Config{DataDir: t.TempDir()}, sessions: sessions, log: slog.New(slog.DiscardHandler)}
	if err := n.succeed(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"node-1", "other"} {
		put(t, sessions, trainer.MemberPrefix+id, trainer.Session{Member: tidemill.Member{ID: id}})
	}
	put(t, sessions, trainer.LeaderKey, tidemill.Member{ID: "node-1"})
	if err := n.succeed(t.Context(), "node-2"); err != nil {
		t.Fatal(err)
	}
	if has(t, sessions, trainer.MemberPrefix+"node-1") || has(t, sessions, trainer.LeaderKey) || !has(t, sessions, trainer.MemberPrefix+"other") {
		t.Error("the wrong leases were ended")
	}
}
