package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// TrainConfig says what Train trains.
type TrainConfig struct {
	// Dir keeps the stream, which is made once for each seed, drift, number of rows and of
	// partitions, and what the runs write. It is made when missing and left to the caller; one
	// Train at a time uses it.
	Dir  string
	Rows int64 // of the stream; at least 1
	Seed uint64
	// Drift is workload.Clicks'.
	Drift      float64
	Partitions int // of the topic; at least 1
	Slots      int // batches computed at the same time; at least 1
	// Job is the job's YAML. Its model gets another name in each run, and its topic, its end
	// and its gate are Train's own. ClicksJob makes one.
	Job []byte
	// Snapshot is how often one is taken; 0: as the job says.
	Snapshot time.Duration
	// MemoryLimit, in bytes, is what the runtime tries to stay below while the job is trained, by
	// collecting garbage more often; 0: as it is set.
	MemoryLimit int64
	// Profile, when given, receives a CPU profile of the training, Memory one of what was
	// allocated since the program began.
	Profile, Memory io.Writer
	// Producing is called now and then while rows are made and appended.
	Producing func(rows int64)
}

// TrainResult is one pass over the stream, from its submission to its end, by one process in all
// roles, with the stream on disk and every snapshot written.
type TrainResult struct {
	Architecture  string  `json:"architecture"`
	Optimizer     string  `json:"optimizer"` // of the sparse tables
	Batch         int     `json:"batch"`
	Staleness     int     `json:"staleness"`
	Partitions    int     `json:"partitions"`
	Slots         int     `json:"slots"`
	Profile       string  `json:"profile"` // numeric
	Rows          int64   `json:"rows"`    // trained
	Seconds       float64 `json:"seconds"`
	RowsPerSecond float64 `json:"rows_per_second"`
	// CPUSeconds is of the whole process, in user and system mode; 0 where it is not known.
	CPUSeconds       float64 `json:"cpu_seconds"`
	CPUSecondsPerMil float64 `json:"cpu_seconds_per_million_rows"`
	GCCPUShare       float64 `json:"gc_cpu_share"` // of CPUSeconds
	// Loss is progressive, over all rows. AUC is exact, over the predictions of the last tenth of
	// every partition, made before their labels were used; BestAUC is what the probabilities that
	// the labels were drawn from reach there.
	Loss    float64 `json:"loss"`
	AUC     float64 `json:"auc_last_tenth"`
	BestAUC float64 `json:"best_auc_last_tenth"`
	// PeakBytes is the most memory that the process had resident while it trained, the stream's
	// server included; 0 where it is not known.
	PeakBytes       int64   `json:"peak_rss_bytes"`
	MemoryLimit     int64   `json:"memory_limit_bytes"` // as in TrainConfig
	AllocsPerBatch  float64 `json:"allocations_per_batch"`
	AllocatedPerRow float64 `json:"allocated_bytes_per_row"`
	Snapshots       int64   `json:"snapshots"`
	Digest          string  `json:"digest"`
}

// topicName is the topic that Train makes.
const topicName = "clicks"

// appendRows is how many rows one append has.
const appendRows = 2048

// Train makes the stream of clicks unless it is there already, trains a job over it once, and
// measures that.
func Train(ctx context.Context, cfg TrainConfig) (*TrainResult, error) {
	if cfg.Rows < 1 {
		return nil, tidemill.Invalid("%d rows", "give at least 1", cfg.Rows)
	}
	if cfg.Drift < 0 || cfg.Drift > 1 {
		return nil, tidemill.Invalid("a drift of %v", "give 0 to 1", cfg.Drift)
	}
	cfg.Partitions, cfg.Slots = max(1, cfg.Partitions), max(1, cfg.Slots)
	doc, err := spec.Parse(cfg.Job, "job")
	if err != nil {
		return nil, err
	}
	clicks := &workload.Clicks{Seed: cfg.Seed, Drift: cfg.Drift}
	dir := filepath.Join(cfg.Dir, fmt.Sprintf("clicks-%d-%g-%d-%d", cfg.Seed, cfg.Drift, cfg.Rows, cfg.Partitions))
	if err := produceClicks(ctx, &cfg, clicks, dir); err != nil {
		return nil, err
	}
	s := doc.Spec
	driver, err := model.Driver(s)
	if err != nil {
		return nil, err
	}
	s.Model = fmt.Sprintf("run-%d", time.Now().UnixNano())
	s.Stream = tidemill.StreamSpec{Topic: topicName, From: "earliest"}
	s.Train.UntilEnd, s.Gate.Mode = true, tidemill.GateOff
	if cfg.Snapshot > 0 {
		s.Train.Snapshot = tidemill.Interval{Time: cfg.Snapshot, Keep: max(1, s.Train.Snapshot.Keep)}
	}
	tail := newTail(&cfg)
	runtime.GC()
	debug.FreeOSMemory()
	res := &TrainResult{
		Architecture: s.Architecture.Kind, Optimizer: s.Optimizer.Sparse.Kind, Batch: s.Train.Batch, Staleness: s.Train.Staleness,
		Partitions: cfg.Partitions, Slots: cfg.Slots, Profile: driver.Profiles[0],
	}
	over := make(chan end, 1)
	err = withNode(ctx, node.Config{
		Trainer: trainer.Events{State: func(_, state, reason string) {
			select {
			case over <- end{state, reason, time.Now()}:
			default:
			}
		}},
		DataDir: dir, Roles: []string{node.RoleStream, node.RoleTrainer, node.RolePS, node.RoleWorker}, Slots: cfg.Slots, RecordPS: tail.record,
	}, func(ctx context.Context, n *node.Node) error {
		return measure(ctx, &cfg, n, doc, over, res)
	})
	if err != nil {
		return nil, err
	}
	res.AUC, res.BestAUC = tail.auc(clicks)
	// The runs' snapshots; nobody reads them again.
	if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
		return nil, fmt.Errorf("what the run wrote is left behind: %w", err)
	}
	return res, nil
}

// withNode runs a node on free loopback ports for as long as f takes.
func withNode(ctx context.Context, cfg node.Config, f func(ctx context.Context, n *node.Node) error) error {
	cfg.RPC, cfg.HTTP, cfg.Gossip, cfg.Stream = "127.0.0.1:0", "-", "-", "-"
	if slices.Contains(cfg.Roles, node.RoleServing) {
		cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	done := false
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
		if err := f(gctx, n); err != nil {
			return err
		}
		done = true
		return nil
	})
	if err := g.Wait(); err != nil && !(done && errors.Is(err, context.Canceled)) {
		return err
	}
	return nil
}

// measure submits the job and fills in res.
func measure(ctx context.Context, cfg *TrainConfig, n *node.Node, doc *spec.Document, over <-chan end, res *TrainResult) error {
	if cfg.Profile != nil {
		if err := pprof.StartCPUProfile(cfg.Profile); err != nil {
			return fmt.Errorf("profile: %w: %w", tidemill.ErrConflict, err)
		}
	}
	if cfg.MemoryLimit > 0 {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(cfg.MemoryLimit))
	}
	resetPeak()
	before := readUsage()
	run, err := finish(ctx, n, doc, over)
	after := readUsage()
	if cfg.Profile != nil {
		pprof.StopCPUProfile()
	}
	if err != nil {
		return err
	}
	if cfg.Memory != nil {
		if err := pprof.Lookup("allocs").WriteTo(cfg.Memory, 0); err != nil {
			return fmt.Errorf("profile of memory: %w", err)
		}
	}
	st := run.status
	rows := float64(st.Examples)
	res.Rows, res.Seconds, res.RowsPerSecond = st.Examples, run.seconds, rows/run.seconds
	res.CPUSeconds = after.cpu - before.cpu
	res.CPUSecondsPerMil = res.CPUSeconds / rows * 1e6
	if res.CPUSeconds > 0 {
		res.GCCPUShare = (after.gc - before.gc) / res.CPUSeconds
	}
	res.PeakBytes, res.MemoryLimit = peakRSS(), cfg.MemoryLimit
	res.Loss, res.Digest, res.Snapshots = st.Progress.Loss, st.Digest, st.Snapshot
	batches := rows / float64(res.Batch)
	res.AllocsPerBatch = float64(after.mallocs-before.mallocs) / batches
	res.AllocatedPerRow = float64(after.allocated-before.allocated) / rows
	return nil
}

// produceClicks fills the stream in dir. What is there already is not added again.
func produceClicks(ctx context.Context, cfg *TrainConfig, clicks *workload.Clicks, dir string) error {
	full := filepath.Join(dir, "full")
	if _, err := os.Stat(full); err == nil {
		return nil
	}
	err := withNode(ctx, node.Config{DataDir: dir, Roles: []string{node.RoleStream}}, func(ctx context.Context, n *node.Node) error {
		topic, err := n.Stream().Create(ctx, topicName, cfg.Partitions, clicks.Schema())
		if err != nil {
			return err
		}
		defer topic.Close()
		for k, first := 0, int64(0); first < cfg.Rows; k, first = k+1, first+appendRows {
			rec := clicks.Batch(first, int(min(appendRows, cfg.Rows-first)))
			_, err := topic.Append(ctx, k%cfg.Partitions, rec, fmt.Sprintf("bench/%d", k+1))
			rec.Release()
			if err != nil {
				return err
			}
			if cfg.Producing != nil {
				cfg.Producing(min(cfg.Rows, first+appendRows))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return os.WriteFile(full, nil, 0o644)
}
