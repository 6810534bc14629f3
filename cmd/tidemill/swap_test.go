package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/source/file"
)

// Rates of TestSwap.
const (
	swapRows     = 400 // rows per second, and per version
	swapChunk    = 20  // rows per append
	swapRequests = 200 // per second
	swapHTTP     = 5   // each fifth request is JSON over HTTP
	swapConns    = 8   // gRPC connections
)

// swaps is what happened in the node, as its events told.
type swaps struct {
	mu        sync.Mutex
	published []int64 // versions, in order
	live      []liveSwap
}

type liveSwap struct {
	version, rows int64
	at            time.Time
}

func (s *swaps) decided(d tidemill.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.Decision == tidemill.Published {
		s.published = append(s.published, d.Version)
	}
}

func (s *swaps) onLive(_ string, version int64, cut tidemill.Cut, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = append(s.live, liveSwap{version, cut.Rows(), at})
}

// rows is how many rows the version that serves has seen; 0 without one.
func (s *swaps) rows() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) == 0 {
		return 0
	}
	return s.live[len(s.live)-1].rows
}

// reply is one answered, or failed, request.
type reply struct {
	question    int // index of what was asked
	http        bool
	due         time.Time // when the request was to be sent
	sent        time.Time // when it was
	done        time.Time
	version     int64
	predictions []float32
	err         error
}

// While a version is published each second, a steady stream of requests meets no failure, and
// each answer is, bit for bit, what its version's files give.
func TestSwap(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds, and -short is given")
	}
	seconds := 12
	if os.Getenv("TIDEMILL_TEST_LONG") == "1" {
		seconds = 60
	}
	var s swaps
	var cfg node.Config
	cfg.Trainer.Decided, cfg.Serving.OnLive = s.decided, s.onLive
	dir := t.TempDir()
	n := startLive(t, dir, cfg)
	job, csv := exampleJob(t, "intrusion", math.MaxInt-1)
	job.Spec.Gate.Mode = tidemill.GateOff
	job.Spec.Train.Snapshot = tidemill.Interval{Rows: swapRows, Keep: 1000}
	name := job.Spec.Model
	rows := openRows(t, csv)
	if _, err := n.Stream().Create(n.ctx, job.Spec.Stream.Topic, 1, rows.Schema()); err != nil {
		t.Fatal(err)
	}
	n.submit(job)

	feeding, stopFeeding := context.WithCancel(n.ctx)
	defer stopFeeding()
	fed := make(chan error, 1)
	go func() { fed <- n.feed(feeding, job.Spec.Stream.Topic, rows, &s) }()
	n.until("a version serves", func() bool { return n.Serving().Live(name) > 0 })

	l := newLoad(n, name)
	replies := l.run(swapRequests / 2) // connections are made, and what grows with use has grown
	goroutines := runtime.NumGoroutine()
	start := time.Now()
	replies = append(replies, l.run(seconds*swapRequests)...)
	elapsed, after := time.Since(start), runtime.NumGoroutine()
	s.mu.Lock()
	published, live := slices.Clone(s.published), slices.Clone(s.live)
	s.mu.Unlock()
	stopFeeding()
	if err := <-fed; err != nil {
		t.Fatal(err)
	}
	n.until("the last version serves", func() bool {
		st, err := n.Trainer().Status(n.ctx, name)
		return err == nil && n.Serving().Live(name) == st.Champion
	})
	n.stop()

	failed := 0
	answered := map[int64]bool{}
	for _, r := range replies {
		if r.err != nil {
			if failed++; failed <= 5 {
				t.Errorf("a request failed (HTTP %v): %v", r.http, r.err)
			}
			continue
		}
		answered[r.version] = true
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, len(replies))
	}
	if len(answered) < len(published)-2 {
		t.Errorf("%d versions were published and %d answered", len(published), len(answered))
	}
	// Up to swapConns idle HTTP connections, with three goroutines each, may have come.
	if after > goroutines+3*swapConns+20 {
		t.Errorf("%d goroutines before the load, %d after it", goroutines, after)
	}
	neverBack(t, replies)
	l.compare(filepath.Join(dir, "store"), replies)

	t.Logf("%d requests in %v, %d failed; %d versions published, %d answered; goroutines %d before, %d after", len(replies),
		elapsed.Round(time.Millisecond), failed, len(published), len(answered), goroutines, after)
	logLatencies(t, replies, live)
}

// feed appends rows at a steady pace until ctx ends. It holds back the rows that would make
// the next version while the one before does not serve yet, so that none is passed over.
func (n *liveNode) feed(ctx context.Context, name string, rows file.Rows, s *swaps) error {
	topic, err := n.Stream().Open(ctx, name)
	if err != nil {
		return err
	}
	defer topic.Close()
	tick := time.NewTicker(time.Second * swapChunk / swapRows)
	defer tick.Stop()
	for appended := int64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if appended+swapChunk >= s.rows()+2*swapRows {
			continue
		}
		c, err := rows.Next(swapChunk)
		if err != nil {
			return fmt.Errorf("the example's rows: %w", err)
		}
		_, err = topic.Append(ctx, 0, c.Rows, "")
		appended += c.Rows.NumRows()
		c.Rows.Release()
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// load sends requests at a steady rate, whether or not earlier ones are answered.
type load struct {
	n         *liveNode
	model     string
	columns   []string
	questions []arrow.RecordBatch
	bodies    [][]byte // of questions in JSON
	grpc      []*infer.Client
	http      *http.Client
	url       string
}

// newLoad prepares questions of 1 to 16 rows.
func newLoad(n *liveNode, name string) *load {
	n.t.Helper()
	l := &load{n: n, model: name, url: "http://" + n.Info().HTTP + "/v2/models/" + name + "/infer"}
	for range swapConns {
		l.grpc = append(l.grpc, infer.New(n.dial()))
	}
	transport := &http.Transport{MaxIdleConnsPerHost: swapConns}
	n.t.Cleanup(transport.CloseIdleConnections)
	l.http = &http.Client{Transport: transport}
	inputs, err := l.grpc[0].Inputs(n.ctx, name, "")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, in := range inputs {
		l.columns = append(l.columns, in.Name)
	}
	all := firstRows(n.t, name, 1000)
	for i, from := 0, int64(0); i < 64; i++ {
		rows := int64(1 + i%16)
		q := all.NewSlice(from, from+rows)
		n.t.Cleanup(q.Release)
		from += rows
		var tensors []any
		for _, in := range inputs {
			tensors = append(tensors, map[string]any{
				"name": in.Name, "datatype": in.Datatype, "shape": []int64{rows}, "data": columnValues(n.t, q.Column(q.Schema().FieldIndices(in.Name)[0])),
			})
		}
		body, err := json.Marshal(map[string]any{"inputs": tensors})
		if err != nil {
			n.t.Fatal(err)
		}
		l.questions, l.bodies = append(l.questions, q), append(l.bodies, body)
	}
	return l
}

// run sends count requests at the rate and returns all replies.
func (l *load) run(count int) []reply {
	replies := make([]reply, count)
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var wg sync.WaitGroup
	for i := range replies {
		r := &replies[i]
		r.question, r.http = i%len(l.questions), i%swapHTTP == 0
		r.due = start.Add(time.Duration(i) * time.Second / swapRequests)
		timer.Reset(time.Until(r.due))
		<-timer.C
		wg.Go(func() {
			r.sent = time.Now()
			ctx, cancel := context.WithTimeout(l.n.ctx, time.Minute)
			defer cancel()
			if r.http {
				r.version, r.predictions, r.err = l.post(ctx, l.bodies[r.question])
			} else {
				var a infer.Answer
				a, r.err = l.grpc[i%len(l.grpc)].Predict(ctx, l.model, "", l.columns, l.questions[r.question])
				r.version, r.predictions = a.Version, a.Predictions
			}
			r.done = time.Now()
		})
	}
	wg.Wait()
	return replies
}

// post asks over HTTP in JSON.
func (l *load) post(ctx context.Context, body []byte) (version int64, predictions []float32, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	var out struct {
		Version string `json:"model_version"`
		Outputs []struct{ Data []float32 }
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return 0, nil, err
	}
	if len(out.Outputs) != 1 {
		return 0, nil, fmt.Errorf("%d outputs", len(out.Outputs))
	}
	version, err = strconv.ParseInt(out.Version, 10, 64)
	return version, out.Outputs[0].Data, err
}

// neverBack checks that a request sent after another was answered got no older version.
func neverBack(t *testing.T, replies []reply) {
	t.Helper()
	byDone := make([]*reply, 0, len(replies))
	for i := range replies {
		if replies[i].err == nil {
			byDone = append(byDone, &replies[i])
		}
	}
	slices.SortFunc(byDone, func(a, b *reply) int { return a.done.Compare(b.done) })
	newest, next := int64(0), 0
	for i := range replies { // by ascending due, and none is sent before it is due
		for next < len(byDone) && byDone[next].done.Before(replies[i].due) {
			newest = max(newest, byDone[next].version)
			next++
		}
		if replies[i].err == nil && replies[i].version < newest {
			t.Errorf("request %d was answered by version %d after version %d had answered", i, replies[i].version, newest)
		}
	}
}

// compare checks each answer against what the files of its version give, read from a store
// that nobody serves any more.
func (l *load) compare(store string, replies []reply) {
	t := l.n.t
	t.Helper()
	bucket, err := fileblob.Open(store, fileblob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	type key struct {
		version  int64
		question int
	}
	want := map[key][]float32{}
	scorers := map[int64]*predict.Scorer{}
	wrong := 0
	for i, r := range replies {
		if r.err != nil {
			continue
		}
		k := key{r.version, r.question}
		if want[k] == nil {
			sc := scorers[r.version]
			if sc == nil {
				files, err := snapshot.ReadVersion(t.Context(), bucket, l.model, r.version)
				if err != nil {
					t.Fatal(err)
				}
				m, err := predict.Load(files)
				if err != nil {
					t.Fatal(err)
				}
				sc = m.NewScorer()
				scorers[r.version] = sc
			}
			if want[k], err = sc.Predict(nil, l.questions[r.question]); err != nil {
				t.Fatal(err)
			}
		}
		same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
		if !slices.EqualFunc(r.predictions, want[k], same) {
			if wrong++; wrong <= 5 {
				t.Errorf("request %d (HTTP %v) to version %d: %v, its files give %v", i, r.http, r.version, r.predictions, want[k])
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d answers differ from what their versions' files give", wrong)
	}
}

// logLatencies tells how long requests took from when they were due, around swaps and apart
// from them, and how late they were sent: that part is not the server's, but this process
// waiting for a processor.
func logLatencies(t *testing.T, replies []reply, live []liveSwap) {
	t.Helper()
	const window = 100 * time.Millisecond
	groups := map[string][]time.Duration{}
	for _, r := range replies {
		took := r.done.Sub(r.due)
		where := "apart from swaps"
		if slices.ContainsFunc(live, func(s liveSwap) bool { return s.at.Sub(r.due).Abs() <= window }) {
			where = "within 100ms of a swap"
		}
		protocol := "gRPC"
		if r.http {
			protocol = "HTTP JSON"
		}
		for _, g := range []string{"all", where, protocol} {
			groups[g] = append(groups[g], took)
		}
		groups["sent late by"] = append(groups["sent late by"], r.sent.Sub(r.due))
	}
	for _, g := range []string{"all", "gRPC", "HTTP JSON", "within 100ms of a swap", "apart from swaps", "sent late by"} {
		l := groups[g]
		if len(l) == 0 {
			continue
		}
		slices.Sort(l)
		q := func(p float64) time.Duration { return l[int(p*float64(len(l)-1))].Round(10 * time.Microsecond) }
		t.Logf("%-22s %6d requests: p50 %v, p90 %v, p99 %v, max %v", g, len(l), q(0.5), q(0.9), q(0.99), q(1))
	}
}
