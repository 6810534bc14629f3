package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench"
)

// logisticLimit is the soft limit of memory, in MiB, of the logistic model over a few million rows.
const logisticLimit = 300

func newBenchTrain(a *app) *cobra.Command {
	var (
		cfg             bench.TrainConfig
		job             bench.ClicksJobConfig
		dir, file       string
		profile, memory string
		runs, limit     int
	)
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train over a stream of clicks in one process and measure speed, quality and memory",
		Long: `Fill a stream with clicks in the shape of Criteo's, once, then train a job over it in one process
that plays all roles: from the durable stream through transforms and parameter server, with every row
counted once and a snapshot every 10 s. Measured are rows per second from submission to end, processor
time, the AUC of the predictions that were made for the last tenth before their labels were used,
and the most memory the process had.`,
		Example: `  tidemill bench train
  tidemill bench train --optimizer ftrl --dir bench-data --runs 5 --json
  tidemill bench train --model deepfm --batch 2048 --cpu-profile deepfm.prof`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if runs < 1 || cfg.Rows < 1 || cfg.Partitions < 1 || cfg.Slots < 1 || job.Batch < 1 {
				return tidemill.Invalid("--rows, --runs, --partitions, --slots and --batch are at least 1", "leave them out for their defaults")
			}
			if file != "" {
				cfg.Job, err = os.ReadFile(file)
				err = pathless(err)
			} else {
				cfg.Job, err = bench.ClicksJob(job)
			}
			if err != nil {
				return err
			}
			if cfg.Dir = dir; dir == "" {
				if cfg.Dir, err = benchDir("", "train"); err != nil {
					return err
				}
				defer os.RemoveAll(cfg.Dir)
			}
			if profile != "" || memory != "" {
				if runs > 1 {
					return tidemill.Invalid("profiles of %d runs", "profile one run", runs)
				}
				for name, w := range map[string]*io.Writer{profile: &cfg.Profile, memory: &cfg.Memory} {
					if name == "" {
						continue
					}
					f, err := os.Create(name)
					if err != nil {
						return pathless(err)
					}
					defer f.Close()
					*w = f
				}
			}
			switch {
			case limit >= 0:
				cfg.MemoryLimit = int64(limit) << 20
			case file == "" && job.Model == tidemill.Logistic && os.Getenv("GOMEMLIMIT") == "":
				// Its tables are small: what would be resident beside them is garbage.
				cfg.MemoryLimit = logisticLimit << 20
			}
			b := newBar(a.err)
			cfg.Producing = func(rows int64) {
				b.show(float64(rows)/float64(cfg.Rows), fmt.Sprintf("%s of %s rows made", count(rows), count(cfg.Rows)))
			}
			for range runs {
				res, err := bench.Train(cmd.Context(), cfg)
				b.done()
				if err != nil {
					return err
				}
				if a.json {
					err = a.line(res)
				} else {
					printTrain(a.out, res)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&job.Engine, "engine", "", "what computes: native (default) or tensorflow")
	f.StringVar(&job.Model, "model", tidemill.Logistic, "what is trained: "+strings.Join(bench.ClicksModels(), " or "))
	f.StringVar(&job.Optimizer, "optimizer", tidemill.Adagrad, "of the sparse tables: ftrl or adagrad")
	f.StringVar(&job.Precision, "precision", tidemill.Float32, "of deepfm's layers: float32 or bfloat16")
	f.IntVar(&job.Batch, "batch", 512, "rows per batch")
	f.IntVar(&job.Staleness, "staleness", 0, "as train.staleness")
	f.IntVar(&job.Buckets, "buckets", 0, "ids that each category is hashed to (default all 64 bits)")
	f.StringVar(&file, "job", "", "train this job's YAML over the topic instead")
	f.Int64Var(&cfg.Rows, "rows", 1_000_000, "rows of the stream")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of the stream")
	f.Float64Var(&cfg.Drift, "drift", 0, "share of the effects that turn with time, 0 to 1")
	f.IntVar(&cfg.Partitions, "partitions", 2, "partitions of the topic")
	f.IntVar(&cfg.Slots, "slots", 2, "batches computed at the same time")
	f.DurationVar(&cfg.Snapshot, "snapshot", 0, "time between snapshots (default as the job says)")
	f.IntVar(&runs, "runs", 1, "passes, each a new job")
	f.IntVar(&limit, "memory-limit", -1, fmt.Sprintf("MiB that the runtime tries to stay below, 0 for no limit (default %d for the logistic model, none for others)", logisticLimit))
	f.StringVar(&dir, "dir", "", "directory that keeps the stream for the next time (default a temporary one)")
	f.StringVar(&profile, "cpu-profile", "", "write a CPU profile of the training to this file")
	f.StringVar(&memory, "memory-profile", "", "write a profile of allocations to this file")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.MarkFlagFilename("job", "yaml", "yml")
	return cmd
}

func printTrain(w io.Writer, r *bench.TrainResult) {
	fmt.Fprintf(w, "%s by %s, batches of %d, staleness %d, %d partitions, %d slots, %s\n", r.Architecture, r.Optimizer, r.Batch, r.Staleness, r.Partitions, r.Slots, r.Profile)
	fmt.Fprintf(w, "  speed    %s rows/s: %s rows in %.2f s\n", count(int64(r.RowsPerSecond)), count(r.Rows), r.Seconds)
	fmt.Fprintf(w, "  CPU      %.2f s per million rows, %.1f %% of it collecting garbage\n", r.CPUSecondsPerMil, 100*r.GCCPUShare)
	fmt.Fprintf(w, "  quality  AUC %.4f over the last tenth (best possible %.4f), loss %.4f\n", r.AUC, r.BestAUC, r.Loss)
	fmt.Fprintf(w, "  memory   %.0f MB at most, %.0f allocations a batch, %.0f bytes a row\n", float64(r.PeakBytes)/1e6, r.AllocsPerBatch, r.AllocatedPerRow)
	fmt.Fprintf(w, "  state    %d snapshots, digest %s\n", r.Snapshots, r.Digest)
}
