package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench"
	"github.com/tidemill/tidemill/bench/report"
	generators "github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/kernel"
	"github.com/tidemill/tidemill/internal/source/file/parquet"
)

// suiteFlags are those that every benchmark of the suite has.
type suiteFlags struct {
	dir  string
	html string
	runs int
	seed uint64
}

func (f *suiteFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.dir, "dir", "", "directory on the disk to measure; what is put there is removed again (default the temporary one)")
	fl.StringVar(&f.html, "html", "", "write a report with plots to this file: one page that loads nothing")
	fl.IntVar(&f.runs, "runs", 3, "how often each thing is measured")
	fl.Uint64Var(&f.seed, "seed", 1, "of rows and ids")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.MarkFlagFilename("html", "html")
}

// suite runs one benchmark in a directory of its own and prints what it found: Go benchmark lines,
// or a line of JSON.
func (a *app) suite(f *suiteFlags, run func(dir string) (*report.Report, error)) error {
	return a.suites(f, func(dir string, done func(*report.Report) error) error {
		r, err := run(dir)
		if err != nil {
			return err
		}
		return done(r)
	})
}

// suites is suite for several benchmarks, each of which is handed to done.
func (a *app) suites(f *suiteFlags, run func(dir string, done func(*report.Report) error) error) (err error) {
	if f.runs < 1 {
		return tidemill.Invalid("--runs %d", "give at least 1", f.runs)
	}
	var page *os.File
	if f.html != "" {
		// Before minutes are spent.
		if page, err = os.Create(f.html); err != nil {
			return tidemill.Invalid("--html: the file %q cannot be written: %v", "check the folder and its rights", filepath.Base(f.html), pathless(err))
		}
		defer page.Close()
	}
	if f.dir != "" {
		if err := os.MkdirAll(f.dir, 0o755); err != nil {
			return tidemill.Invalid("--dir: %v", "give a directory that can be written", pathless(err))
		}
	}
	dir, err := os.MkdirTemp(f.dir, "tidemill-bench-")
	if err != nil {
		return fmt.Errorf("no temporary directory can be made; free space or give --dir: %w", pathless(err))
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil && err == nil {
			err = fmt.Errorf("the directory of the run is left behind: %w", pathless(rerr))
		}
	}()
	var all []*report.Report
	err = run(dir, func(r *report.Report) error {
		all = append(all, r)
		if a.json {
			return a.line(r)
		}
		if err := report.GoLines(a.out, r); err != nil {
			return err
		}
		for _, n := range r.Notes {
			if _, err := fmt.Fprintf(a.out, "# %s\n", n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if page != nil {
		if err := report.HTML(page, all...); err != nil {
			return fmt.Errorf("the report: %w", pathless(err))
		}
		return page.Close()
	}
	return nil
}

// event prints what happens in a run.
func (a *app) event(e bench.Event) { a.say("%7.2f s  %s", e.At.Seconds(), e.Text) }

const suiteOutput = `

Prints Go benchmark lines, which benchstat reads; with --json an object, with --html a page with plots.`

func newBenchStream(a *app) *cobra.Command {
	var (
		f         suiteFlags
		cfg       bench.StreamConfig
		data, gen string
		drift     float64
	)
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "Measure rows a second into and out of the embedded stream and from files",
		Long: `Append rows to the durable embedded stream, read them back into Arrow batches, read them from CSV and Arrow
files, and turn them into a model's inputs. Each append is flushed to disk.` + suiteOutput,
		Example: `  tidemill bench stream
  tidemill bench stream --data events.parquet --batch 1,512,4096
  tidemill bench stream --generator ratings --rows 1000000 --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Source, err = generators.Find(gen, f.seed, drift); err != nil {
				return err
			}
			if data != "" {
				if cmd.Flags().Changed("generator") {
					return tidemill.Invalid("--data and --generator at once", "give one or the other")
				}
				opened, err := generators.OpenFile(data, cfg.Rows, parquet.Open)
				if err != nil {
					return err
				}
				defer opened.Close()
				cfg.Source = opened
			}
			return a.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Runs, cfg.Events = dir, f.runs, a.event
				return bench.Stream(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.Int64Var(&cfg.Rows, "rows", 200_000, "rows")
	fl.IntSliceVar(&cfg.Batches, "batch", []int{512, 4096}, "rows of an append and of a read")
	fl.StringVar(&gen, "generator", "clicks", "where rows come from: "+strings.Join(generators.Names(), ", "))
	fl.Float64Var(&drift, "drift", 0, "share of clicks' effects that turns with time, 0 to 1")
	fl.StringVar(&data, "data", "", "rows of this file instead: CSV, TSV, JSONL, libsvm, Arrow or Parquet")
	_ = cmd.MarkFlagFilename("data")
	return cmd
}

func newBenchPS(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.ParamsConfig
	)
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "Measure rows a second pulled from and pushed to a parameter server",
		Long: `Workers pull the rows of a batch of ids and push as many gradients, again and again, on a full table with
Adagrad: in one process and over gRPC on loopback, by the length of a row and the skew of the ids. Memory
for each row is measured beside.` + suiteOutput,
		Example: `  tidemill bench ps
  tidemill bench ps --rows 20000000 --dim 16 --skew 1.05 --transport inproc`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Runs, cfg.Seed, cfg.Events = dir, f.runs, f.seed, a.event
				return bench.Params(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.Int64Var(&cfg.Rows, "rows", 2_000_000, "rows resident")
	fl.IntSliceVar(&cfg.Dims, "dim", []int{1, 16}, "floats of a row")
	fl.Float64SliceVar(&cfg.Skews, "skew", []float64{0, 1.05}, "exponents of Zipf's law; 0: all ids alike")
	fl.StringSliceVar(&cfg.Transports, "transport", []string{"inproc", "grpc"}, "ways to the server")
	fl.IntVar(&cfg.Batch, "batch", 8192, "distinct ids of a request")
	fl.IntVar(&cfg.Workers, "workers", 0, "workers at the same time (default one for each core)")
	fl.DurationVar(&cfg.Least, "least", time.Second, "of each measurement")
	return cmd
}

func newBenchKernel(a *app) *cobra.Command {
	var (
		f      suiteFlags
		cfg    bench.KernelsConfig
		levels []string
		venv   string
	)
	cmd := &cobra.Command{
		Use:   "kernel",
		Short: "Measure GFLOP/s of matrix products, beside OpenBLAS where a Python has it",
		Long: `Multiply float32 matrices of the shapes that models use, on one core, at each instruction level of this
machine. With a Python that has numpy or scipy their OpenBLAS is measured beside, told to take the kernels
of the same instructions.` + suiteOutput,
		Example: `  tidemill bench kernel
  tidemill bench kernel --python python3 --runs 5
  tidemill bench kernel --venv ~/.cache/tidemill/peers`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var offered []string
			for _, l := range kernel.Levels() {
				offered = append(offered, l.String())
			}
			for _, name := range levels {
				l, ok := kernel.ParseLevel(name)
				if !ok || l > kernel.Best() {
					return tidemill.Invalid("--level %q", "this machine has "+strings.Join(offered, ", "), name)
				}
				cfg.Levels = append(cfg.Levels, l)
			}
			if venv != "" {
				cfg.Python = filepath.Join(venv, "bin", "python")
				if _, err := os.Stat(cfg.Python); err != nil {
					return tidemill.Invalid("--venv: there is no Python environment in %q", "make it with `tidemill bench peers --venv DIR`", filepath.Base(venv))
				}
			}
			return a.suite(&f, func(string) (*report.Report, error) {
				cfg.Runs, cfg.Events = f.runs, a.event
				return bench.Kernels(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringSliceVar(&levels, "level", nil, "instruction levels (default all of this machine)")
	fl.DurationVar(&cfg.Least, "least", 100*time.Millisecond, "of each measurement")
	fl.StringVar(&cfg.Python, "python", "", "a Python that has numpy or scipy, for OpenBLAS")
	fl.StringVar(&venv, "venv", "", "the environment that `bench peers` made, for OpenBLAS")
	_ = cmd.MarkFlagDirname("venv")
	return cmd
}

func newBenchSnapshot(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.SnapshotsConfig
	)
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Measure full and incremental snapshots while training goes on",
		Long: `Write full and incremental snapshots of a parameter server that is being trained on: time, stall of
training, most heap. Beside each full one as many bytes are written to one file and flushed, as dd does.` + suiteOutput,
		Example: `  tidemill bench snapshot
  tidemill bench snapshot --rows 10000000 --dir /mnt/data`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Runs, cfg.Seed, cfg.Events = dir, f.runs, f.seed, a.event
				return bench.Snapshots(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.Int64Var(&cfg.Rows, "rows", 1_000_000, "rows of 16 floats with Adagrad's state")
	fl.Float64Var(&cfg.Touched, "touched", 0.01, "share of the rows that change before an incremental one")
	return cmd
}

func newBenchServe(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.ServeConfig
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Measure predictions: requests a second and latency by protocol and rows of a request",
		Long: `Train a model over clicks, serve it, and ask it over gRPC and HTTP from clients that each wait for their
answer. Clients and server share the machine.` + suiteOutput,
		Example: `  tidemill bench serve
  tidemill bench serve --model deepfm --batch 1,64 --clients 8`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Runs, cfg.Seed, cfg.Events = dir, f.runs, f.seed, a.event
				return bench.Serve(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&cfg.Model, "model", tidemill.Logistic, strings.Join(bench.ClicksModels(), " or "))
	fl.Int64Var(&cfg.Rows, "rows", 100_000, "rows that the model is trained on")
	fl.IntSliceVar(&cfg.Batches, "batch", []int{1, 16, 256}, "rows of a request")
	fl.IntVar(&cfg.Clients, "clients", 0, "clients at the same time (default twice the cores)")
	fl.DurationVar(&cfg.Least, "least", 2*time.Second, "of each measurement")
	return cmd
}

func newBenchSwap(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.SwapConfig
	)
	cmd := &cobra.Command{
		Use:   "swap",
		Short: "Measure what requests feel when a version takes over",
		Long: `Train and publish a model again and again while clients ask at a steady rate, and compare the latency of
requests around swaps with that of the others. A request that fails ends the run.` + suiteOutput,
		Example: `  tidemill bench swap
  tidemill bench swap --lasts 1m --every 500ms --asked 1000`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Seed, cfg.Events = dir, f.seed, a.event
				return bench.Swap(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	_ = cmd.Flags().MarkHidden("runs")
	fl := cmd.Flags()
	fl.DurationVar(&cfg.Lasts, "lasts", 15*time.Second, "how long clients ask")
	fl.DurationVar(&cfg.Every, "every", time.Second, "between two versions")
	fl.IntVar(&cfg.Rate, "rate", 2000, "rows appended and trained a second")
	fl.IntVar(&cfg.Asked, "asked", 200, "requests a second")
	fl.DurationVar(&cfg.Near, "near", 100*time.Millisecond, "how close to a swap counts as around it")
	return cmd
}

func newBenchFreshness(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.FreshnessConfig
	)
	cmd := &cobra.Command{
		Use:   "freshness",
		Short: "Measure how soon events are served, and what that is worth on a stream that drifts",
		Long: `First, in real time: how long after an event is appended a version that has learned it has passed the gate
and serves. Then the table: the quality of what is served to clicks that drift, by how often a version is
published, with labels that come at once or late, and with and without kills. Its stream is compressed in
time: --stream-rate rows stand for a second.` + suiteOutput,
		Example: `  tidemill bench freshness
  tidemill bench freshness --interval 1s,30s,5m --label-delay 0s,10m --html freshness.html`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (_ *report.Report, err error) {
				if cfg.Binary, err = os.Executable(); err != nil {
					return nil, fmt.Errorf("the program does not find itself: %w", pathless(err))
				}
				if cfg.Kills == 0 {
					cfg.Binary = ""
				}
				cfg.Dir, cfg.Seed, cfg.Events = dir, f.seed, a.event
				return bench.Freshness(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	_ = cmd.Flags().MarkHidden("runs")
	fl := cmd.Flags()
	fl.Float64Var(&cfg.Drift, "drift", 0.9, "share of the effects that turns, above 0 to 1")
	fl.Int64Var(&cfg.Period, "period", 1_000_000, "rows in which they turn once")
	fl.DurationVar(&cfg.Lasts, "lasts", 20*time.Second, "how long delays are measured")
	fl.IntVar(&cfg.Rate, "rate", 2000, "rows appended a second while they are")
	fl.Int64Var(&cfg.Rows, "rows", 1_200_000, "rows of the table's stream; the first fifth only teaches")
	fl.Int64Var(&cfg.StreamRate, "stream-rate", 1000, "of them that stand for a second")
	fl.DurationSliceVar(&cfg.Intervals, "interval", []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}, "between versions, ascending, each a multiple of the first")
	fl.DurationSliceVar(&cfg.LabelDelays, "label-delay", []time.Duration{0, time.Minute}, "how long after its event a label is there")
	fl.IntVar(&cfg.Kills, "kills", 4, "kills of the process that trains; 0: none")
	fl.DurationVar(&cfg.KillEvery, "kill-every", time.Minute, "of the stream, in the table, comes a kill")
	return cmd
}

func newBenchScale(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.ScaleConfig
	)
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure training by several processes beside one process",
		Long: `Train a job in one process, then with as many workers as parameter servers, each a process of its own, beside
a stream and a trainer. All run on this machine, so this shows what going over gRPC costs.` + suiteOutput,
		Example: `  tidemill bench scale
  tidemill bench scale --workers 2 --model deepfm --batch 2048 --runs 5`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suite(&f, func(dir string) (_ *report.Report, err error) {
				if cfg.Binary, err = os.Executable(); err != nil {
					return nil, fmt.Errorf("the program does not find itself: %w", pathless(err))
				}
				cfg.Dir, cfg.Runs, cfg.Seed, cfg.Events = dir, f.runs, f.seed, a.event
				return bench.Scale(cmd.Context(), cfg)
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&cfg.Model, "model", tidemill.DeepFM, strings.Join(bench.ClicksModels(), " or "))
	fl.IntVar(&cfg.Batch, "batch", 512, "rows per batch")
	fl.Int64Var(&cfg.Rows, "rows", 100_000, "rows of the stream")
	fl.IntSliceVar(&cfg.Workers, "workers", []int{1, 2, 4}, "workers, and as many parameter servers")
	return cmd
}

func newBenchAll(a *app) *cobra.Command {
	var (
		f     suiteFlags
		quick bool
		only  []string
	)
	cmd := &cobra.Command{
		Use:   "all",
		Short: "Run the whole suite",
		Long: `Run every benchmark of the suite but the peers, one after the other. --quick takes sizes so small that only
whether it works is learned, within a minute.` + suiteOutput,
		Example: `  tidemill bench all --html bench.html > new.txt
  benchstat old.txt new.txt
  tidemill bench all --quick --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.suites(&f, func(dir string, done func(*report.Report) error) error {
				binary, err := os.Executable()
				if err != nil {
					return fmt.Errorf("the program does not find itself: %w", pathless(err))
				}
				runs := 0
				if cmd.Flags().Changed("runs") {
					runs = f.runs
				}
				return bench.All(cmd.Context(), bench.AllConfig{Dir: dir, Binary: binary, Seed: f.seed, Runs: runs, Quick: quick, Only: only, Events: a.event, Done: done})
			})
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&quick, "quick", false, "tiny sizes: see that it works, within a minute")
	fl.StringSliceVar(&only, "only", nil, "these alone: "+strings.Join(bench.SuiteNames(), ", "))
	return cmd
}
