package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/serving"
	"github.com/tidemill/tidemill/trainer"
)

// Config of a run.
type Config struct {
	Workload Workload
	DataDir  string
	Rows     int // replay only the first so many; 0: all
	Rate     int // rows per second; 0: the workload's
	Logger   *slog.Logger
	// Progress is called about twice a second, and once more at the end.
	Progress func(Progress)
	// Decided is called with every decision on a version.
	Decided func(tidemill.Decision)
	// Ended, when given, is called with the node still up and the result; the node stops once
	// it returns.
	Ended func(ctx context.Context, n *node.Node, r *Result) error
}

// Progress is how a run stands.
type Progress struct {
	Elapsed  time.Duration
	Produced int
	Status   trainer.JobStatus
	Live     int64 // version that serves
	Requests int64
	Failed   int64
	Freshest float64 // seconds from the newest included event to its version being live
}

// VersionResult is one version in a Result.
type VersionResult struct {
	Version   int64            `json:"version"`
	Decision  string           `json:"decision"`
	Reason    string           `json:"reason"`
	Cut       tidemill.Cut     `json:"cut"`
	Freshness *float64         `json:"freshness_seconds"` // newest event in it → live; null if it never was
	Evidence  []tidemill.Check `json:"evidence"`
}

// Result is what a run found. Accuracy, log loss and AUC are progressive: of predictions made
// before the label was used.
type Result struct {
	Demo              string          `json:"demo"`
	Examples          int64           `json:"examples"`
	Accuracy          float64         `json:"accuracy"`
	LogLoss           float64         `json:"logloss"`
	AUC               float64         `json:"auc"`
	AccuracyAfter5000 float64         `json:"accuracy_after_5000"`
	PriorLogLoss      float64         `json:"prior_logloss"`
	NoChangeAccuracy  float64         `json:"baseline_no_change_accuracy"`
	ServedAccuracy    float64         `json:"served_accuracy"`
	ServedLogLoss     float64         `json:"served_logloss"`
	RowsPerSecond     float64         `json:"rows_per_second"`
	Seconds           float64         `json:"seconds"`
	Versions          []VersionResult `json:"versions"`
	Published         int             `json:"published"`
	Requests          int64           `json:"requests"`
	RequestsFailed    int64           `json:"requests_failed"`
	FirstError        string          `json:"first_error,omitempty"`
	FreshnessP50      *float64        `json:"freshness_p50_seconds"`
	FreshnessP90      *float64        `json:"freshness_p90_seconds"`
	Digest            string          `json:"digest"`
	Champion          int64           `json:"champion"`
	GRPC              string          `json:"grpc"`
	HTTP              string          `json:"http"`
	RPC               string          `json:"rpc"`

	// Served holds, for each row, the answer it got and the version that gave it (0: none).
	Served []ServedRow `json:"-"`
}

// ServedRow is serving's answer to one row.
type ServedRow struct {
	Version    int64
	Prediction float32
}

// run is the state of one demo.
type run struct {
	cfg   Config
	model string

	mu       sync.Mutex
	appended []stamp // by ascending offset
	live     []liveEvent
	served   []ServedRow
	labels   []float32
	requests int64
	failed   int64
	firstErr string
}

type stamp struct {
	next int64 // offsets below it were acknowledged at at
	at   time.Time
}

type liveEvent struct {
	version int64
	cut     int64
	at      time.Time
}

// Run replays the workload and returns what came of it.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	rows, doc, err := cfg.Workload.read()
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	total := cfg.Workload.Rows
	if cfg.Rows > 0 {
		total = min(total, cfg.Rows)
	}
	if cfg.Rate <= 0 {
		cfg.Rate = cfg.Workload.Rate
	}
	r := &run{cfg: cfg, model: doc.Spec.Model}
	n, err := node.New(node.Config{
		DataDir: cfg.DataDir, Gossip: "-", Stream: "-", Slots: 2, Logger: cfg.Logger, ServePoll: 100 * time.Millisecond,
		Trainer: trainer.Events{Decided: cfg.Decided},
		Serving: serving.Events{OnLive: r.onLive},
	})
	if err != nil {
		return nil, err
	}
	var result *Result
	g, gctx := errgroup.WithContext(ctx)
	nctx, stop := context.WithCancel(gctx)
	defer stop()
	g.Go(func() error { return n.Run(nctx) })
	g.Go(func() error {
		defer stop()
		select {
		case <-n.Ready():
		case <-nctx.Done():
			return nctx.Err()
		}
		topic, err := n.Stream().Create(gctx, doc.Spec.Stream.Topic, 1, rows.Schema())
		if err != nil {
			return err
		}
		defer topic.Close()
		m, err := model.Compile(doc.Spec, rows.Schema())
		if err != nil {
			return err
		}
		doc.Spec.Train.End = tidemill.Cut{int64(total)}
		if err := submit(gctx, n, func(t *trainer.Trainer) error {
			_, err := t.SubmitSpec(gctx, doc)
			return err
		}); err != nil {
			return err
		}
		conn, err := grpc.NewClient(n.Info().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		start := time.Now()
		watch, stopWatch := context.WithCancel(gctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			r.watch(watch, n, start)
		}()
		defer func() { stopWatch(); <-watched }()
		left := total
		err = chunks(rows, chunkRows, func(rec arrow.RecordBatch) error {
			if left <= 0 {
				return nil
			}
			if int64(left) < rec.NumRows() {
				rec = rec.NewSlice(0, int64(left))
				defer rec.Release()
			}
			left -= int(rec.NumRows())
			return r.replay(gctx, n, topic, infer.New(conn), m, rec, start)
		})
		if err != nil {
			return err
		}
		if err := r.finish(gctx, n); err != nil {
			return err
		}
		stopWatch()
		<-watched
		if result, err = r.result(gctx, n, start); err != nil {
			return err
		}
		if cfg.Ended != nil {
			return cfg.Ended(gctx, n, result)
		}
		return nil
	})
	if err := g.Wait(); err != nil && !(errors.Is(err, context.Canceled) && result != nil) {
		return nil, err
	}
	return result, nil
}

// chunkRows is how many rows are asked about and appended at a time.
const chunkRows = 20

// submit retries while no trainer leads yet.
func submit(ctx context.Context, n *node.Node, f func(*trainer.Trainer) error) error {
	for {
		if t := n.Trainer(); t != nil && t.Leads() {
			return f(t)
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (r *run) onLive(_ string, version int64, cut tidemill.Cut, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = append(r.live, liveEvent{version, cut.Rows(), at})
}

// replay asks for predictions of a chunk, then appends it.
func (r *run) replay(ctx context.Context, n *node.Node, topic source.Topic, client *infer.Client, m *model.Model, rec arrow.RecordBatch, start time.Time) error {
	due := start.Add(time.Duration(float64(len(r.served)) / float64(r.cfg.Rate) * float64(time.Second)))
	if d := time.Until(due); d > 0 && !sleep(ctx, d) {
		return ctx.Err()
	}
	var in engine.Inputs
	if err := m.Plan.Labels(&in, rec); err != nil {
		return err
	}
	answers := make([]ServedRow, rec.NumRows())
	var failed error
	asked := n.Serving().Live(r.model) > 0
	if asked {
		var columns []string
		for _, c := range m.Plan.Columns() {
			columns = append(columns, c.Name)
		}
		a, err := client.Predict(ctx, r.model, "", columns, rec)
		if err == nil && len(a.Predictions) != len(answers) {
			err = fmt.Errorf("%d predictions for %d rows", len(a.Predictions), len(answers))
		}
		if err != nil {
			failed = err
		} else {
			for i := range answers {
				answers[i] = ServedRow{a.Version, a.Predictions[i]}
			}
		}
	}
	rng, err := topic.Append(ctx, 0, rec, "")
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.appended = append(r.appended, stamp{rng.Next, time.Now()})
	r.served = append(r.served, answers...)
	r.labels = append(r.labels, in.Labels[:rec.NumRows()]...)
	if asked {
		r.requests++
	}
	if failed != nil {
		r.failed++
		if r.firstErr == "" {
			r.firstErr = failed.Error()
		}
	}
	return nil
}

// watch reports progress until ctx ends.
func (r *run) watch(ctx context.Context, n *node.Node, start time.Time) {
	if r.cfg.Progress == nil {
		return
	}
	for sleep(ctx, 500*time.Millisecond) {
		r.progress(ctx, n, start)
	}
}

func (r *run) progress(ctx context.Context, n *node.Node, start time.Time) {
	t := n.Trainer()
	if t == nil {
		return
	}
	st, err := t.Status(ctx, r.model)
	if err != nil {
		return
	}
	r.mu.Lock()
	p := Progress{
		Elapsed: time.Since(start), Produced: len(r.served), Status: st, Live: n.Serving().Live(r.model),
		Requests: r.requests, Failed: r.failed,
	}
	if k := len(r.live); k > 0 {
		p.Freshest = r.freshness(r.live[k-1])
	}
	r.mu.Unlock()
	r.cfg.Progress(p)
}

// finish waits until everything is trained and every candidate has its decision.
func (r *run) finish(ctx context.Context, n *node.Node) error {
	for {
		t := n.Trainer()
		if t != nil {
			st, err := t.Status(ctx, r.model)
			if err == nil {
				switch st.State {
				case tidemill.JobFailed, tidemill.JobCancelled, tidemill.JobPaused:
					return fmt.Errorf("the job is %s: %s", st.State, st.Reason)
				case tidemill.JobFinished:
					if !t.Busy(r.model) {
						r.settle(ctx, n, st.Champion)
						return nil
					}
				}
			}
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// settle waits until the last champion serves.
func (r *run) settle(ctx context.Context, n *node.Node, champion int64) {
	for n.Serving().Live(r.model) != champion && sleep(ctx, 5*time.Millisecond) {
	}
}

// freshness is the time from the newest event in a version to its being live. mu is held.
func (r *run) freshness(e liveEvent) float64 {
	i, _ := slices.BinarySearchFunc(r.appended, e.cut, func(s stamp, cut int64) int {
		if s.next < cut {
			return -1
		}
		return 1
	})
	if i >= len(r.appended) {
		return 0
	}
	return e.at.Sub(r.appended[i].at).Seconds()
}

func (r *run) result(ctx context.Context, n *node.Node, start time.Time) (*Result, error) {
	elapsed := time.Since(start)
	t := n.Trainer()
	if t == nil {
		return nil, errors.New("the trainer has gone")
	}
	st, err := t.Status(ctx, r.model)
	if err != nil {
		return nil, err
	}
	versions, err := t.Versions(ctx, r.model, true)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := st.Progress
	res := &Result{
		Demo: r.cfg.Workload.Name, Examples: st.Examples, Accuracy: p.Accuracy, LogLoss: p.Loss, AUC: p.AUC,
		PriorLogLoss: p.PriorLoss, NoChangeAccuracy: p.NoChangeAccuracy, Seconds: elapsed.Seconds(),
		RowsPerSecond: float64(st.Examples) / elapsed.Seconds(), Requests: r.requests, RequestsFailed: r.failed,
		FirstError: r.firstErr, Digest: st.Digest, Champion: st.Champion, Served: r.served,
		GRPC: n.Info().GRPC, HTTP: n.Info().HTTP, RPC: n.Info().RPC,
	}
	if st.Validation != nil {
		res.AccuracyAfter5000 = st.Validation.Since(5000).Accuracy
	}
	wentLive := map[int64]float64{}
	for _, e := range r.live {
		wentLive[e.version] = r.freshness(e)
	}
	for _, v := range versions {
		vr := VersionResult{Version: v.Number, Decision: v.Decision, Reason: v.Reason, Cut: v.Cut, Evidence: v.Evidence}
		if f, ok := wentLive[v.Number]; ok {
			vr.Freshness = &f
		}
		if v.Decision == tidemill.Published {
			res.Published++
		}
		res.Versions = append(res.Versions, vr)
	}
	res.judge(r.labels)
	res.FreshnessP50, res.FreshnessP90 = r.quantile(0.5), r.quantile(0.9)
	return res, nil
}

// judge compares what serving answered with the labels. Rows that came before the first
// version count as the prior would have done.
func (res *Result) judge(labels []float32) {
	var loss, right, positive float64
	for _, y := range labels {
		positive += float64(y)
	}
	rate := positive / float64(max(1, len(labels)))
	for i, s := range res.Served {
		y := labels[i] >= 0.5
		p := float64(s.Prediction)
		if s.Version == 0 {
			p = rate
		}
		p = min(max(p, 1e-7), 1-1e-7)
		if (p >= 0.5) == y {
			right++
		}
		if y {
			loss -= math.Log(p)
		} else {
			loss -= math.Log(1 - p)
		}
	}
	n := float64(max(1, len(res.Served)))
	res.ServedLogLoss, res.ServedAccuracy = loss/n, right/n
}

// quantile of freshness over all examples, those never served included; nil when it falls
// among them. mu is held.
func (r *run) quantile(q float64) *float64 {
	if len(r.appended) == 0 {
		return nil
	}
	total := int(r.appended[len(r.appended)-1].next)
	seconds := make([]float64, 0, total)
	first := int64(0)
	for _, s := range r.appended {
		var at time.Time
		covered := int64(0)
		// A chunk is included row by row: a version's cut may lie inside it.
		for off := first; off < s.next; off++ {
			if off >= covered {
				at = time.Time{}
				for _, e := range r.live {
					if e.cut > off {
						at, covered = e.at, e.cut
						break
					}
				}
			}
			if !at.IsZero() {
				seconds = append(seconds, max(0, at.Sub(s.at).Seconds()))
			}
		}
		first = s.next
	}
	slices.Sort(seconds)
	i := int(q * float64(total))
	if i >= len(seconds) {
		return nil
	}
	return &seconds[i]
}
