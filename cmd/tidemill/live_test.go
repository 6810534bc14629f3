package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/examples"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/spec"
)

// liveNode is a node with all roles in this process, listening on free ports.
type liveNode struct {
	*node.Node
	t    *testing.T
	ctx  context.Context
	stop func() // waits until the node has stopped; may be called again
}

// startLive runs a node until the test ends, and waits until its trainer leads.
func startLive(t *testing.T, dir string, cfg node.Config) *liveNode {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	cfg.DataDir, cfg.Gossip, cfg.Stream = dir, "-", "-"
	cfg.RPC, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Version = "test"
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	nd, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- nd.Run(ctx) }()
	n := &liveNode{Node: nd, t: t, ctx: ctx}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	})
	t.Cleanup(n.stop)
	select {
	case <-nd.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("the node did not start: %v", err)
	}
	n.until("the trainer leads", func() bool { tr := n.Trainer(); return tr != nil && tr.Leads() })
	return n
}

// until waits for a condition; no test decides anything by how long that takes.
func (n *liveNode) until(what string, f func() bool) {
	n.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			n.t.Fatalf("waited in vain until %s%s", what, n.standing())
		}
	}
}

// standing tells how the jobs are, for the text of a failure.
func (n *liveNode) standing() string {
	tr := n.Trainer()
	if tr == nil {
		return ""
	}
	jobs, err := tr.Jobs(n.ctx)
	if err != nil {
		return ": " + err.Error()
	}
	text := ""
	for _, job := range jobs {
		st, err := tr.Status(n.ctx, job)
		text += fmt.Sprintf("; job %s: %s %s, %d examples, champion %d, live %d, busy %v, %v", job, st.State, st.Reason, st.Examples,
			st.Champion, n.Serving().Live(job), tr.Busy(job), err)
	}
	return text
}

// produce fills a topic of one partition with csv text.
func (n *liveNode) produce(topic string, csv []byte) {
	n.t.Helper()
	_, err := produce.Run(n.ctx, n.Stream(), produce.Config{
		Topic: topic, Partitions: 1, Stdin: bytes.NewReader(csv), ID: topic, Read: file.Options{Format: file.CSV},
	})
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *liveNode) submit(job *spec.Document) {
	n.t.Helper()
	if _, err := n.Trainer().SubmitSpec(n.ctx, job); err != nil {
		n.t.Fatal(err)
	}
}

// finish waits until a job has ended and its last champion serves, and returns that.
func (n *liveNode) finish(job string) (champion int64) {
	n.t.Helper()
	n.until("job "+job+" has ended and its champion serves", func() bool {
		st, err := n.Trainer().Status(n.ctx, job)
		if err != nil {
			n.t.Fatal(err)
		}
		switch st.State {
		case tidemill.JobFailed, tidemill.JobCancelled, tidemill.JobPaused:
			n.t.Fatalf("job %s is %s: %s", job, st.State, st.Reason)
		}
		champion = st.Champion
		return st.State == tidemill.JobFinished && !n.Trainer().Busy(job) && n.Serving().Live(job) == champion
	})
	return champion
}

// dial returns a connection of its own to the node's predictions.
func (n *liveNode) dial() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient(n.Info().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// exampleJob returns the job of an example and the first rows of its data as csv.
func exampleJob(t *testing.T, name string, rows int) (*spec.Document, []byte) {
	t.Helper()
	job := name + "/job.yaml"
	yaml, err := examples.FS.ReadFile(job)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spec.Parse(yaml, job)
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]string{"intrusion": "intrusion/nsl-kdd-train20.csv.gz", "power": "power/elec2.csv.gz"}[name]
	f, err := examples.FS.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return doc, bytes.Join(lines[:min(rows+1, len(lines))], nil)
}

// openRows reads csv text.
func openRows(t *testing.T, csv []byte) file.Rows {
	t.Helper()
	rows, err := file.OpenRows("rows.csv", bytes.NewReader(csv), file.Options{Format: file.CSV})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	return rows
}

// firstRows returns the first n rows of an example.
func firstRows(t *testing.T, name string, n int) arrow.RecordBatch {
	t.Helper()
	// The types of the columns are found in the first thousand rows, as for the topic.
	_, csv := exampleJob(t, name, 1000)
	c, err := openRows(t, csv).Next(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Rows.Release)
	return c.Rows
}
