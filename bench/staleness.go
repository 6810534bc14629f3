package bench

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/examples"
	"github.com/tidemill/tidemill/internal/demo"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// StalenessConfig says what Staleness compares.
type StalenessConfig struct {
	Dir        string   // where data go; made, and left to the caller
	Data       []string // names of the demo's streams
	Staleness  []int    // as train.staleness
	Partitions int      // of the topic; at least 1
	Slots      int      // batches computed at the same time; at least 1
	Batch      int      // rows per batch; 0: the example's
	Rows       int      // only the first so many; 0: all
	Runs       int      // of each; at least 1
	// Done, when given, is called with each result as it comes.
	Done func(StalenessResult)
}

// StalenessResult is what one staleness gave on one data set: the run of median speed.
type StalenessResult struct {
	Data       string `json:"data"`
	Staleness  int    `json:"staleness"`
	Batch      int    `json:"batch"`
	Partitions int    `json:"partitions"`
	Slots      int    `json:"slots"`
	Runs       int    `json:"runs"`
	// Rows is how many were trained: all, whatever the staleness.
	Rows          int64   `json:"rows"`
	Seconds       float64 `json:"seconds"` // from submit to the end of the job
	RowsPerSecond float64 `json:"rows_per_second"`
	Slowest       float64 `json:"rows_per_second_slowest"`
	Fastest       float64 `json:"rows_per_second_fastest"`
	// Loss is progressive, over all rows; LastLoss over the last 5000 or so; PriorLoss that of
	// knowing the labels only. LossSpread is the largest Loss of the runs minus the smallest.
	Loss       float64 `json:"loss"`
	LossSpread float64 `json:"loss_spread"`
	LastLoss   float64 `json:"loss_last_5000"`
	Accuracy   float64 `json:"accuracy"`
	PriorLoss  float64 `json:"prior_loss"`
	// Digests is how many different ones the runs ended with.
	Digests int `json:"digests"`
}

// Staleness trains the demo's streams, which are full from the start, with each staleness, in
// one process that plays all roles, and returns a result for each. Only training is measured:
// there is one snapshot, at the end, and no gate.
func Staleness(ctx context.Context, cfg StalenessConfig) ([]StalenessResult, error) {
	cfg.Partitions, cfg.Slots, cfg.Runs = max(1, cfg.Partitions), max(1, cfg.Slots), max(1, cfg.Runs)
	var out []StalenessResult
	for _, name := range cfg.Data {
		w, err := demo.Find(name)
		if err != nil {
			return out, err
		}
		for _, staleness := range cfg.Staleness {
			var runs []staleRun
			for run := range cfg.Runs {
				dir := filepath.Join(cfg.Dir, fmt.Sprintf("%s-%d-%d", w.Name, staleness, run))
				r, err := train(ctx, &cfg, w, staleness, dir)
				if err != nil {
					return out, fmt.Errorf("%s at staleness %d: %w", w.Name, staleness, err)
				}
				_ = os.RemoveAll(dir) // the caller removes what is left
				runs = append(runs, r)
			}
			r := median(runs)
			r.Data, r.Staleness, r.Partitions, r.Slots, r.Runs = w.Name, staleness, cfg.Partitions, cfg.Slots, cfg.Runs
			out = append(out, r)
			if cfg.Done != nil {
				cfg.Done(r)
			}
		}
	}
	return out, nil
}

// staleRun is one run.
type staleRun struct {
	status  trainer.JobStatus
	batch   int
	seconds float64
}

func (r *staleRun) speed() float64 { return float64(r.status.Examples) / r.seconds }

// median returns the run of median speed and what the others say beside it.
func median(runs []staleRun) StalenessResult {
	slices.SortFunc(runs, func(a, b staleRun) int {
		if a.speed() < b.speed() {
			return -1
		}
		return 1
	})
	digests := map[string]bool{}
	least, most := runs[0].status.Progress.Loss, runs[0].status.Progress.Loss
	for _, r := range runs {
		digests[r.status.Digest] = true
		least, most = min(least, r.status.Progress.Loss), max(most, r.status.Progress.Loss)
	}
	m := runs[len(runs)/2]
	p := m.status.Progress
	return StalenessResult{
		Batch: m.batch, Rows: m.status.Examples, Seconds: m.seconds, RowsPerSecond: m.speed(), Slowest: runs[0].speed(), Fastest: runs[len(runs)-1].speed(),
		Loss: p.Loss, LossSpread: most - least, LastLoss: m.status.Recent.Loss, Accuracy: p.Accuracy, PriorLoss: p.PriorLoss, Digests: len(digests),
	}
}

// train runs one job over a full stream.
func train(ctx context.Context, cfg *StalenessConfig, w demo.Workload, staleness int, dir string) (out staleRun, err error) {
	over := make(chan end, 1)
	n, err := node.New(node.Config{
		Trainer: trainer.Events{State: func(_, state, reason string) {
			select {
			case over <- end{state, reason, time.Now()}:
			default:
			}
		}},
		DataDir: dir, Roles: []string{node.RoleStream, node.RoleTrainer, node.RolePS, node.RoleWorker},
		RPC: "127.0.0.1:0", HTTP: "-", Gossip: "-", Stream: "-", Slots: cfg.Slots, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return out, err
	}
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
		doc, err := fill(gctx, cfg, n, w, staleness)
		if err != nil {
			return err
		}
		out, err = finish(gctx, n, doc, over)
		return err
	})
	err = g.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		err = nil
	}
	return out, err
}

// fill produces the rows and returns the job.
func fill(ctx context.Context, cfg *StalenessConfig, n *node.Node, w demo.Workload, staleness int) (*spec.Document, error) {
	yaml, err := examples.FS.ReadFile(w.Job)
	if err != nil {
		return nil, err
	}
	doc, err := spec.Parse(yaml, w.Job)
	if err != nil {
		return nil, err
	}
	s := doc.Spec
	s.Train.Staleness, s.Train.UntilEnd, s.Gate.Mode = staleness, true, tidemill.GateOff
	s.Train.Snapshot = tidemill.Interval{Rows: int64(w.Rows) + 1}
	if cfg.Batch > 0 {
		s.Train.Batch = cfg.Batch
	}
	data, err := examples.FS.ReadFile(w.File)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", w.File, tidemill.ErrCorrupt, err)
	}
	defer z.Close()
	if _, err = produce.Run(ctx, n.Stream(), produce.Config{
		Topic: s.Stream.Topic, Partitions: cfg.Partitions, Stdin: z, ID: w.Name, Read: file.Options{Format: file.CSV},
	}); err != nil {
		return nil, err
	}
	if cfg.Rows > 0 {
		// The rows are dealt out in turn.
		s.Train.End = make(tidemill.Cut, cfg.Partitions)
		for p := range s.Train.End {
			s.Train.End[p] = int64((min(cfg.Rows, w.Rows) + cfg.Partitions - 1 - p) / cfg.Partitions)
		}
	}
	return doc, nil
}

// end is the end of a job.
type end struct {
	state, reason string
	at            time.Time
}

// finish submits the job and measures until it is over.
func finish(ctx context.Context, n *node.Node, doc *spec.Document, over <-chan end) (staleRun, error) {
	out := staleRun{batch: doc.Spec.Train.Batch}
	t := n.Trainer()
	for t == nil || !t.Leads() {
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		t = n.Trainer()
	}
	begin := time.Now()
	if _, err := t.SubmitSpec(ctx, doc); err != nil {
		return out, err
	}
	select {
	case <-ctx.Done():
		return out, ctx.Err()
	case e := <-over:
		if e.state != tidemill.JobFinished {
			return out, fmt.Errorf("the job is %s: %s", e.state, e.reason)
		}
		out.seconds = e.at.Sub(begin).Seconds()
	}
	st, err := t.Status(ctx, doc.Spec.Model)
	out.status = st
	return out, err
}
