package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench"
	"github.com/tidemill/tidemill/bench/report"
)

func newBenchPeers(a *app) *cobra.Command {
	var (
		f   suiteFlags
		cfg bench.PeersConfig
	)
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Compare speed and quality with Vowpal Wabbit, TensorFlow, PyTorch and OpenBLAS on the same rows",
		Long: `Make a Python environment with the other systems at pinned versions, write the same rows for all of them, and run
Tidemill and each of them in turns, every run a process of its own: one pass, predict then learn. Printed are
the ratios of their speeds, pair by pair (least, median, most), and both sides' quality, memory and processor
time; with --json a list of objects. A peer that cannot be had is named with the reason.

pip takes packages from where it is configured to. PyTorch is large: about 2.5 GB to fetch, 5 GB on disk;
--only leaves it out.`,
		Example: `  tidemill bench peers
  tidemill bench peers --models logistic --only vw --pairs 9 --json
  tidemill bench peers --models deepfm --batch 512,2048,8192 --html peers.html`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Binary, err = os.Executable(); err != nil {
				return fmt.Errorf("the program does not find itself: %w", pathless(err))
			}
			if cfg.Venv == "" {
				cache, err := os.UserCacheDir()
				if err != nil {
					return tidemill.Invalid("this user has no cache directory", "give --venv DIR")
				}
				cfg.Venv = filepath.Join(cache, "tidemill", "peers")
			}
			var results []bench.PeerResult
			var failed error
			plain := *a
			plain.json, plain.out = false, io.Discard // results are printed below, in a form of their own
			err = plain.suite(&f, func(dir string) (*report.Report, error) {
				cfg.Dir, cfg.Seed, cfg.Events = dir, f.seed, a.event
				var r *report.Report
				results, r, failed = bench.Peers(cmd.Context(), cfg)
				if r == nil {
					return nil, failed
				}
				return r, nil
			})
			if err != nil {
				return err
			}
			if failed != nil && a.json {
				// The list stands for the failure.
				if err := a.line(results); err != nil {
					return err
				}
				a.say("tidemill: %s", failed)
				return errReported
			}
			if failed != nil {
				printPeers(a.out, results)
				return failed
			}
			return a.result(results, func(w io.Writer) { printPeers(w, results) })
		},
	}
	f.add(cmd)
	_ = cmd.Flags().MarkHidden("runs")
	fl := cmd.Flags()
	fl.StringSliceVar(&cfg.Models, "models", bench.PeerModels(), "what to compare")
	fl.Int64Var(&cfg.Rows, "rows", 1_000_000, "rows of the pass")
	fl.IntVar(&cfg.Pairs, "pairs", 5, "turns")
	fl.IntSliceVar(&cfg.Batches, "batch", []int{512, 2048}, "rows of DeepFM's batches")
	fl.StringSliceVar(&cfg.Only, "only", bench.PeerNames(), "peers to run")
	fl.StringVar(&cfg.Venv, "venv", "", "Python environment of the peers, which is kept (default tidemill/peers in the user's cache directory)")
	fl.StringVar(&cfg.Python, "python", "", "the Python that makes it (default the first of 3.11 to 3.13)")
	_ = cmd.MarkFlagDirname("venv")
	return cmd
}

// printPeers writes a comparison for people.
func printPeers(w io.Writer, results []bench.PeerResult) {
	last := ""
	for _, r := range results {
		if group, _, _ := strings.Cut(r.Workload, "/op="); group != last {
			last = group
			fmt.Fprintf(w, "\n%s, %s; ratio of Tidemill's to the peer's: median (least to most)\n", group, r.Metric)
		}
		_, op, _ := strings.Cut(r.Workload, "/op=")
		name := strings.TrimSpace(r.PeerName + " " + op)
		if r.RatioMedian == nil {
			fmt.Fprintf(w, "  %-36s NOT MEASURED: %s\n", name, r.Error)
			continue
		}
		fmt.Fprintf(w, "  %-36s %5.2f (%.2f to %.2f, %d pairs)  %s against %s", name, *r.RatioMedian, *r.RatioMin, *r.RatioMax, r.Pairs, amount(r.Tidemill), amount(r.Peer))
		if r.TidemillQuality != nil && r.PeerQuality != nil {
			fmt.Fprintf(w, "; AUC %.4f against %.4f; %.0f against %.0f MB; processor %.2f against %.2f s",
				*r.TidemillQuality, *r.PeerQuality, mega(r.TidemillRSS), mega(r.PeerRSS), zero(r.TidemillCPU), zero(r.PeerCPU))
		}
		fmt.Fprintln(w)
		if r.Error != "" {
			fmt.Fprintf(w, "  %-36s then failed: %s\n", "", r.Error)
		}
	}
}

// amount writes a speed.
func amount(v *float64) string {
	if v == nil {
		return "–"
	}
	if *v < 1000 {
		return fmt.Sprintf("%.1f", *v)
	}
	return count(int64(*v))
}

func zero(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}

func mega(v *float64) float64 { return zero(v) / 1e6 }
