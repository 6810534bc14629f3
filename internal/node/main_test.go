package node

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/rpc"
)

func TestMain(m *testing.M) {
	// A probe in progress outlives the library's Shutdown by up to eight probe intervals.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// patience bounds waiting; no test decides anything by it.
const patience = 2 * time.Minute

// localConfig is a configuration for free ports of the loopback.
func localConfig(t *testing.T, roles ...string) Config {
	return Config{
		DataDir: filepath.Join(t.TempDir(), "data"), Roles: roles,
		GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Stream: "127.0.0.1:0",
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// secured is the security of a certificate in a directory of MakeCerts.
func secured(dir, name string) rpc.Security {
	return rpc.Security{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem"), CA: filepath.Join(dir, "ca.pem")}
}

// start runs a node until the test ends, or stop is called, and waits until it is ready.
func start(t *testing.T, cfg Config) (n *Node, stop func()) {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("the node did not start: %v", err)
	case <-time.After(patience):
		t.Fatal("the node did not start in time")
	}
	return n, stop
}

// refusal runs a node that must not start, and returns why it did not.
func refusal(t *testing.T, cfg Config) error {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case err = <-done:
	case <-n.Ready():
		cancel()
		<-done
		t.Fatal("the node started")
	}
	if err == nil {
		t.Fatal("the node did not start and did not say why")
	}
	return err
}
