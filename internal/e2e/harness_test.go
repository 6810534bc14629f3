package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/examples"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(settled{m}) }

// settled runs the tests, and gives what they stopped last the time that a loaded machine takes to
// end its goroutines: the embedded server does not wait for all of them.
type settled struct{ *testing.M }

func (m settled) Run() int {
	code := m.M.Run()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); {
		if goleak.Find() == nil { // which waits a little by itself
			break
		}
	}
	return code
}

// system is a node under test.
type system struct {
	*node.Node
	t    *testing.T
	ctx  context.Context
	stop func() // waits until the node has stopped; may be called again
}

// start runs a node with everything on the loopback and waits until it leads. cfg says what
// is not the same for all.
func start(t *testing.T, dir string, cfg node.Config) *system {
	t.Helper()
	s := launch(t, dir, cfg)
	s.until("the node leads", func() bool { tr := s.Trainer(); return tr != nil && tr.Leads() })
	return s
}

// launch is start without waiting for leadership.
func launch(t *testing.T, dir string, cfg node.Config) *system {
	t.Helper()
	cfg.DataDir = dir
	cfg.RPC, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", "-"
	if cfg.Gossip == "" {
		cfg.Gossip = "-"
	}
	if cfg.Stream == "" {
		cfg.Stream = "-"
	}
	cfg.ServePoll = 50 * time.Millisecond
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	s := &system{Node: n, t: t, ctx: ctx}
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	})
	t.Cleanup(s.stop)
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("the node did not start: %v", err)
	}
	return s
}

// patience bounds waiting; no test decides anything by it.
const patience = 2 * time.Minute

// until waits for a condition.
func (s *system) until(what string, f func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// produce fills a topic with text, its rows dealt over partitions in turn.
func (s *system) produce(topic string, partitions int, text []byte) {
	s.t.Helper()
	_, err := produce.Run(s.ctx, s.Stream(), produce.Config{
		Topic: topic, Partitions: partitions, Stdin: bytes.NewReader(text), ID: topic, Read: file.Options{Format: file.CSV},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// parse reads a spec and lets change edit it.
func parse(t *testing.T, yaml []byte, change func(*tidemill.Spec)) *spec.Document {
	t.Helper()
	doc, err := spec.Parse(yaml, "job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc.Spec.Train.UntilEnd = true
	if change != nil {
		change(doc.Spec)
	}
	return doc
}

func (s *system) submit(doc *spec.Document) {
	s.t.Helper()
	if _, err := s.Trainer().SubmitSpec(s.ctx, doc); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) status(job string) trainer.JobStatus {
	s.t.Helper()
	st, err := s.Trainer().Status(s.ctx, job)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// reach waits until a job has a state; with another final one the test fails.
func (s *system) reach(job, state string) trainer.JobStatus {
	s.t.Helper()
	var st trainer.JobStatus
	s.until("job "+job+" is "+state, func() bool {
		st = s.status(job)
		if st.State != state && (st.State == tidemill.JobFailed || st.State == tidemill.JobCancelled || st.State == tidemill.JobFinished || st.State == tidemill.JobPaused) {
			s.t.Fatalf("job %s is %s: %s", job, st.State, st.Reason)
		}
		return st.State == state
	})
	return st
}

// finish waits until a job has ended and every candidate has its decision.
func (s *system) finish(job string) trainer.JobStatus {
	s.t.Helper()
	s.reach(job, tidemill.JobFinished)
	s.until("the last decision on "+job, func() bool { return !s.Trainer().Busy(job) })
	return s.status(job)
}

// manifest returns a job's newest one.
func (s *system) manifest(job string) *snapshot.Manifest {
	s.t.Helper()
	chain, err := snapshot.Snapshots(s.Bucket(), job)
	if err != nil {
		s.t.Fatal(err)
	}
	_, m, err := snapshot.Latest(s.ctx, chain)
	if err != nil || m == nil {
		s.t.Fatalf("no manifest: %v", err)
	}
	return m
}

// letters waits until a job's bad rows are in its dead-letter topic and returns what is there.
func (s *system) letters(job string) []deadletter.Letter {
	s.t.Helper()
	st := s.status(job)
	s.until("the dead letters of "+job, func() bool { st = s.status(job); return st.Bad.Waiting == 0 })
	if st.BadRows == 0 {
		return nil
	}
	var out []deadletter.Letter
	s.read(deadletter.Topic(job), func(rec arrow.RecordBatch) {
		letters, err := deadletter.Read(rec)
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, letters...)
	})
	return out
}

// read calls f with all rows of a topic, partition by partition.
func (s *system) read(name string, f func(rec arrow.RecordBatch)) {
	s.t.Helper()
	topic, err := s.Stream().Open(s.ctx, name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer topic.Close()
	info, err := topic.Info(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for p := range info.Partitions {
		r, err := topic.Reader(s.ctx, p, info.First[p])
		if err != nil {
			s.t.Fatal(err)
		}
		for r.Position() < info.Next[p] {
			b, err := r.Next(s.ctx, 1000)
			if err != nil {
				s.t.Fatal(err)
			}
			f(b.Rows)
			b.Rows.Release()
		}
		r.Close()
	}
}

// power returns the power example's job and the first n rows of its data.
func power(t *testing.T, n int) (yaml, csv []byte) {
	t.Helper()
	yaml, err := examples.FS.ReadFile("power/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := examples.FS.Open("power/elec2.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	for i := 0; i <= n && lines.Scan(); i++ {
		csv = append(append(csv, lines.Bytes()...), '\n')
	}
	return yaml, csv
}
