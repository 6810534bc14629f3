package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench"
)

func newBench(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Run clusters of this program's processes, or training in one, and measure them",
		Example: `  tidemill bench chaos --seconds 60
  tidemill bench recovery --role ps --json
  tidemill bench staleness
  tidemill bench train`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchAll(a), newBenchStream(a), newBenchPS(a), newBenchKernel(a), newBenchSnapshot(a), newBenchServe(a), newBenchSwap(a), newBenchFreshness(a), newBenchScale(a), newBenchPeers(a))
	cmd.AddCommand(newBenchChaos(a), newBenchRecovery(a), newBenchStaleness(a), newBenchTrain(a))
	return cmd
}

// benchDir makes the directory of a run: the one given, or a new temporary one.
func benchDir(dir, what string) (string, error) {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "tidemill-"+what+"-")
		if err != nil {
			return "", fmt.Errorf("no temporary directory can be made; free space or set TMPDIR: %w", pathless(err))
		}
		return tmp, nil
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return "", tidemill.Invalid("the directory %q is not empty", "give a new one with --dir", filepath.Base(dir))
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func newBenchChaos(a *app) *cobra.Command {
	var (
		seconds, runs, rate int
		seed                uint64
		dir                 string
		kinds               []string
		every               time.Duration
		keep                bool
	)
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break a cluster in every way for a while, and see that each row counted once",
		Long: `Start a cluster of processes on this machine: a stream, two trainers, parameter servers, workers and two
serving replicas. While a producer appends rows, a job counts them and clients ask for predictions,
processes are killed, paused and stopped and their network is cut, slow and lossy, as a seed says.
Then the producer and the job come to their end, and every snapshot is compared, row by row,
with the rows that were acknowledged.

Exits with 1 when a row is lost or counted twice, a request was answered by no replica, or a
process ended that nobody had ended. The logs of all processes are then kept.`,
		Example: `  tidemill bench chaos --seconds 60
  tidemill bench chaos --seconds 90 --runs 30 --json
  tidemill bench chaos --seconds 90 --seed 17`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seconds < 1 || runs < 1 || rate < 1 || every <= 0 {
				return tidemill.Invalid("--seconds, --runs, --rate and --every are above 0", "leave them out for their defaults")
			}
			for _, k := range kinds {
				if !slices.Contains(bench.FaultKinds(), k) {
					return tidemill.Invalid("--faults %q", "use "+strings.Join(bench.FaultKinds(), ", "), k)
				}
			}
			if !cmd.Flags().Changed("seed") {
				var b [8]byte
				_, _ = rand.Read(b[:])
				seed = uint64(binary.LittleEndian.Uint32(b[:])) // short enough to be typed
			}
			failed := 0
			for i := range runs {
				passed, err := a.chaos(cmd.Context(), bench.ChaosConfig{Seed: seed + uint64(i), Kinds: kinds, Every: every, Lasts: time.Duration(seconds) * time.Second, Rate: rate}, dir, keep)
				if err != nil {
					return err
				}
				if !passed {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d runs did wrong: %w", failed, runs, tidemill.ErrCorrupt)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&seconds, "seconds", 60, "how long there are faults")
	fl.IntVar(&runs, "runs", 1, "how many runs, with a seed each")
	fl.IntVar(&rate, "rate", 300, "rows per second")
	fl.DurationVar(&every, "every", 2500*time.Millisecond, "mean time between two faults")
	fl.Uint64Var(&seed, "seed", 0, "of the first run (default a random one, which is printed)")
	fl.StringSliceVar(&kinds, "faults", nil, "only these kinds: "+strings.Join(bench.FaultKinds(), ", ")+" (default all)")
	fl.StringVar(&dir, "dir", "", "new directory for data and logs (default a temporary one)")
	fl.BoolVar(&keep, "keep", false, "keep the directory also of a run that passes")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// chaos carries out one run and prints its result.
func (a *app) chaos(ctx context.Context, cfg bench.ChaosConfig, dir string, keep bool) (passed bool, err error) {
	if dir != "" {
		dir = filepath.Join(dir, fmt.Sprint(cfg.Seed))
	}
	if cfg.Dir, err = benchDir(dir, "chaos"); err != nil {
		return false, err
	}
	if cfg.Binary, err = os.Executable(); err != nil {
		return false, fmt.Errorf("the program does not find itself: %w", pathless(err))
	}
	cfg.Events = func(e bench.Event) { a.say("%7.2f s  %s", e.At.Seconds(), e.Text) }
	a.say("seed %d", cfg.Seed)
	res, err := bench.Chaos(ctx, cfg)
	if err != nil {
		a.say("logs and data are kept in %s", cfg.Dir)
		return false, err
	}
	passed = res.Passed()
	if passed && !keep {
		res.Dir = ""
		if err := os.RemoveAll(cfg.Dir); err != nil {
			return passed, fmt.Errorf("the directory of the run is left behind: %w", pathless(err))
		}
	}
	return passed, a.result(res, func(w io.Writer) { printChaos(w, res) })
}

func printChaos(w io.Writer, r *bench.ChaosResult) {
	fmt.Fprintf(w, "seed %d: %s examples in %d snapshots (%d compared row by row), %d generations, staleness %d, batches of %d\n",
		r.Seed, count(r.Examples), r.Snapshots, r.SnapshotsChecked, r.Generations, r.Staleness, r.Batch)
	var faults []string
	for role, kinds := range r.Kills {
		for kind, n := range kinds {
			faults = append(faults, fmt.Sprintf("%s %s %d", role, kind, n))
		}
	}
	slices.Sort(faults)
	fmt.Fprintf(w, "  faults    %s\n", strings.Join(faults, ", "))
	fmt.Fprintf(w, "  requests  %s, %d answered by the second replica asked, %d failed; %d versions answered\n",
		count(r.Requests), r.RequestsRetried, r.RequestsFailed, r.Versions)
	var roles []string
	for role := range r.RecoverySeconds {
		roles = append(roles, role)
	}
	slices.Sort(roles)
	for _, role := range roles {
		s := r.RecoverySeconds[role]
		fmt.Fprintf(w, "  %s killed: trains again after %.2f s (median of %d, at most %.2f s)\n", role, s.Median, s.Count, s.Max)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  PROBLEM   %s\n", p)
	}
	if r.LedgerExact {
		fmt.Fprintln(w, "  the ledger is exact")
	} else {
		fmt.Fprintln(w, "  THE LEDGER IS NOT EXACT")
	}
	if r.Dir != "" {
		fmt.Fprintf(w, "  logs and data are in %s\n", r.Dir)
	}
}

func newBenchRecovery(a *app) *cobra.Command {
	var cfg bench.RecoveryConfig
	var dir string
	cmd := &cobra.Command{
		Use:   "recovery",
		Short: "Kill each role again and again, and measure when training goes on",
		Long: `Start a cluster of processes on this machine, its stream on a node of its own, fill a model, then kill a
worker, a parameter server, the leading trainer, and everybody but serving, again and again. Measured is
the time from the kill to the first batch that is applied without those who were killed. Clients
ask serving for predictions all the while.`,
		Example: `  tidemill bench recovery
  tidemill bench recovery --role ps --repeat 3 --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Rows < 1 || cfg.Repeat < 1 || cfg.Rate < 1 {
				return tidemill.Invalid("--rows, --repeat and --rate are at least 1", "leave them out for their defaults")
			}
			known := []string{"worker", "ps", "trainer", bench.RoleAll}
			for _, r := range cfg.Roles {
				if !slices.Contains(known, r) {
					return tidemill.Invalid("--role %q", "use "+strings.Join(known, ", "), r)
				}
			}
			if cfg.Dir, err = benchDir(dir, "recovery"); err != nil {
				return err
			}
			if cfg.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("the program does not find itself: %w", pathless(err))
			}
			cfg.Events = func(e bench.Event) { a.say("%7.2f s  %s", e.At.Seconds(), e.Text) }
			res, err := bench.Recovery(cmd.Context(), cfg)
			if err != nil {
				a.say("logs and data are kept in %s", cfg.Dir)
				return err
			}
			if dir == "" && len(res.Problems) == 0 {
				res.Dir = ""
				if err := os.RemoveAll(cfg.Dir); err != nil {
					return fmt.Errorf("the directory of the run is left behind: %w", pathless(err))
				}
			}
			return a.result(res, func(w io.Writer) { printRecovery(w, res, cfg.Roles) })
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&cfg.Roles, "role", []string{"worker", "ps", "trainer", bench.RoleAll}, "who is killed")
	fl.IntVar(&cfg.Repeat, "repeat", 10, "kills of each role")
	fl.IntVar(&cfg.Rows, "rows", 2_000_000, "rows of 16 floats in the model's table")
	fl.IntVar(&cfg.Rate, "rate", 500, "rows appended per second")
	fl.StringVar(&dir, "dir", "", "new directory for data and logs (default a temporary one)")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

func printRecovery(w io.Writer, r *bench.RecoveryResult, roles []string) {
	fmt.Fprintf(w, "time to train again, %s rows of 16 floats\n", count(int64(r.Rows)))
	for _, role := range roles {
		s := r.RecoverySeconds[role]
		fmt.Fprintf(w, "  %-8s median %.2f s of %d, at most %.2f s\n", role, s.Median, s.Count, s.Max)
	}
	fmt.Fprintf(w, "  serving  %s requests, %d asked again, %d failed\n", count(r.Requests), r.RequestsRetried, r.RequestsFailed)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  PROBLEM  %s\n", p)
	}
}
