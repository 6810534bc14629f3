package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// Several nodes that share workers' and parameter servers' work over gRPC give the bits that
// one node gives, also when one of them leaves and another one comes while they train.
func TestSameDigestOnSeveralNodes(t *testing.T) {
	yaml, csv := power(t, powerRows)
	job := func() *spec.Document {
		return parse(t, yaml, func(s *tidemill.Spec) { s.Train.Batch, s.Train.Snapshot.Rows = 8, 240 })
	}
	alone := start(t, t.TempDir(), node.Config{Slots: 2})
	alone.produce("power", 4, csv)
	alone.submit(job())
	want := alone.finish("power")
	alone.stop()

	leave, cancel := context.WithCancel(t.Context())
	defer cancel()
	left := make(chan struct{})
	release := sync.OnceFunc(func() { close(left) })
	defer release()
	first := start(t, t.TempDir(), node.Config{
		Slots: 2, Gossip: "127.0.0.1:0", Stream: "127.0.0.1:0",
		Trainer: trainer.Events{Committed: func(_ string, _ int64, _ tidemill.Cut, examples int64, _, _ time.Duration) {
			if examples >= 700 {
				// Until this returns no further cut is taken, so the job cannot end.
				cancel()
				<-left
			}
		}},
	})
	helper := func() *system {
		return launch(t, t.TempDir(), node.Config{
			Slots: 2, Gossip: "127.0.0.1:0", Join: []string{first.Info().Gossip},
			Roles: []string{node.RoleWorker, node.RolePS},
		})
	}
	second, third := helper(), helper()
	first.produce("power", 4, csv)
	first.submit(job())
	first.until("shards are on three nodes", func() bool { return len(first.status("power").Shards) == 3 })
	first.until("some examples are in a snapshot", func() bool { return leave.Err() != nil })
	second.stop()
	release()
	fourth := helper()
	got := first.finish("power")
	if got.Digest != want.Digest || got.Examples != powerRows || got.Progress != want.Progress {
		t.Errorf("several nodes: digest %s of %d examples, %+v\none node: %s of %d, %+v", got.Digest, got.Examples, got.Progress, want.Digest, want.Examples, want.Progress)
	}
	if got.Generation < 2 {
		t.Errorf("a node left, and the job is still in generation %d", got.Generation)
	}
	third.stop()
	fourth.stop()
}
