package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/worker"
)

// upgradeJob steps one row at a time, so that the job is under way while all nodes are replaced.
const upgradeJob = `
model: upgrade
stream: {topic: upgrade}
label: {column: y, positive: 1}
features:
  - {name: a, column: a, standardize: {}}
  - {name: word, column: word, hash: {}}
architecture: {kind: logistic}
optimizer: {sparse: {ftrl: {alpha: 0.1}}, dense: {adam: {lr: 0.005}}}
train: {batch: 1, linger: 20ms, snapshot: {every: 100 rows}}
gate: {mode: off}
`

// mixed is a cluster in one process whose nodes speak different versions.
type mixed struct {
	slow  atomic.Bool // workers take their time, so that a job outlasts the replacing of a node
	t     *testing.T
	dir   string
	nodes map[string]*seat
}

// seat is one node of a mixed cluster, and how to start it again where it was.
type seat struct {
	*node.Node
	cfg  node.Config
	stop func()
}

// run starts or replaces a node. It keeps its data directory and its addresses.
func (m *mixed) run(name string, p tidemill.Protocols, roles ...string) *seat {
	m.t.Helper()
	s := m.nodes[name]
	if s == nil {
		s = &seat{cfg: node.Config{
			DataDir: filepath.Join(m.dir, name), Roles: roles,
			RPC: "127.0.0.1:0", GRPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", Stream: "127.0.0.1:0", HTTP: "-",
			RecordWorker: m.pace,
			Logger:       slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
		}}
		if first := m.nodes["stream"]; first != nil {
			s.cfg.Join = []string{first.Info().Gossip}
		}
		m.nodes[name] = s
	} else {
		s.stop()
		i := s.Info()
		s.cfg.RPC, s.cfg.Gossip, s.cfg.Stream = i.RPC, i.Gossip, strings.TrimPrefix(i.Stream, "nats://")
	}
	s.cfg.Protocols = p
	n, err := node.New(s.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s.Node = n
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("%s ended with: %v", name, err)
		}
	})
	m.t.Cleanup(s.stop)
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		m.t.Fatalf("%s did not start: %v", name, err)
	case <-time.After(patience):
		m.t.Fatalf("%s did not start in time", name)
	}
	return s
}

// pace is called with every event of a worker's core.
func (m *mixed) pace(string, worker.CoreConfig, *worker.Event, []worker.Effect) {
	if m.slow.Load() {
		<-time.After(10 * time.Millisecond)
	}
}

// refused starts a node that must not come in, and returns why.
func (m *mixed) refused(p tidemill.Protocols) error {
	m.t.Helper()
	n, err := node.New(node.Config{
		DataDir: filepath.Join(m.t.TempDir(), "late"), Roles: []string{node.RoleWorker}, Protocols: p,
		RPC: "127.0.0.1:0", Gossip: "127.0.0.1:0", HTTP: "-", Join: []string{m.nodes["worker1"].Info().Gossip},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	return n.Run(ctx)
}

// A cluster is upgraded node by node while a job runs: each node is stopped and started again
// as one that speaks the next version of the protocol too. The mixture works, and the bits at
// the end are those of one node of the old version that was left alone. Who is two versions
// away is refused when it joins.
func TestRollingUpgrade(t *testing.T) {
	const seed, rows, partitions = 41, 2400, 2
	t.Logf("seed %d", seed)
	old, next := tidemill.Protocols{Min: 1, Max: 1}, tidemill.Protocols{Min: 1, Max: 2}
	csv := learnedData(seed, rows)

	alone := start(t, t.TempDir(), node.Config{Protocols: old})
	alone.produce("upgrade", partitions, csv)
	alone.submit(parse(t, []byte(upgradeJob), nil))
	want := alone.finish("upgrade")
	alone.stop()

	began := time.Now()
	m := &mixed{t: t, dir: t.TempDir(), nodes: map[string]*seat{}}
	order := []string{"worker1", "ps1", "trainer", "serving", "worker2", "stream"}
	m.run("stream", old, node.RoleStream)
	for _, name := range []string{"trainer", "ps1", "worker1", "worker2", "serving"} {
		m.run(name, old, strings.TrimRight(name, "12"))
	}
	// status asks whichever trainer leads; false while none does.
	status := func() (st *systemStatus, ok bool) {
		tr := m.nodes["trainer"].Trainer()
		if tr == nil || !tr.Leads() {
			return nil, false
		}
		now, err := tr.Status(t.Context(), "upgrade")
		if err != nil {
			return nil, false
		}
		return &systemStatus{now.State, now.Reason, now.Examples, now.Digest}, true
	}
	s := &system{Node: m.nodes["trainer"].Node, t: t, ctx: t.Context()}
	s.until("the trainer leads", func() bool { tr := m.nodes["trainer"].Trainer(); return tr != nil && tr.Leads() })
	s.produce("upgrade", partitions, csv)
	s.submit(parse(t, []byte(upgradeJob), nil))
	for i, name := range order {
		least := int64(rows * (i + 1) / (2 * (len(order) + 1)))
		var last *systemStatus
		s.until(fmt.Sprintf("%d examples, to replace %s", least, name), func() bool {
			st, ok := status()
			if ok {
				last = st
			}
			return ok && (st.examples >= least || st.over())
		})
		if last.over() {
			t.Fatalf("the job is %s (%s) with %d examples before all nodes are replaced", last.state, last.reason, last.examples)
		}
		m.slow.Store(true)
		before := time.Now()
		m.run(name, next)
		t.Logf("%v: %s replaced at %d examples, in %v", before.Sub(began).Round(time.Millisecond), name, last.examples, time.Since(before).Round(time.Millisecond))
		if i == len(order)/2 {
			// In the middle: some members speak only version 1.
			err := m.refused(tidemill.Protocols{Min: 2, Max: 3})
			if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "speaks protocol version 1 and this node 2-3") {
				t.Errorf("a node two versions away came in, or was told: %v", err)
			}
		}
		m.slow.Store(false)
	}
	var st *systemStatus
	s.until("the job is finished", func() bool {
		now, ok := status()
		if ok {
			st = now
		}
		return ok && now.over()
	})
	if st.state != tidemill.JobFinished || st.digest != want.Digest || st.examples != want.Examples {
		t.Errorf("upgraded: %+v\nleft alone: %d examples, digest %s", *st, want.Examples, want.Digest)
	}
	// Now the next but one may come.
	m.run("worker3", tidemill.Protocols{Min: 2, Max: 3}, node.RoleWorker)
	if err := m.refused(tidemill.Protocols{Min: 4, Max: 4}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a node two versions away came in, or was told: %v", err)
	}
	for _, name := range append([]string{"worker3"}, order...) {
		if name != "stream" {
			m.nodes[name].stop()
		}
	}
}

// systemStatus is what the test looks at.
type systemStatus struct {
	state, reason string
	examples      int64
	digest        string
}

func (s *systemStatus) over() bool {
	return s.state == tidemill.JobFinished || s.state == tidemill.JobFailed || s.state == tidemill.JobPaused
}
