package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench"
	"github.com/tidemill/tidemill/internal/demo"
)

func newBenchStaleness(a *app) *cobra.Command {
	cfg := bench.StalenessConfig{}
	cmd := &cobra.Command{
		Use:   "staleness",
		Short: "Compare speed and loss of synchronous, bounded and asynchronous training on real data",
		Long: `Train the demo's streams with each train.staleness and print rows per second and progressive loss, as a
table in Markdown or a line of JSON each. One process plays all roles; the stream is full from the
start, nothing is served, and a snapshot is taken at the end only, so that training is measured.`,
		Example: `  tidemill bench staleness
  tidemill bench staleness --data power --staleness 0,1,-1 --runs 5 --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, d := range cfg.Data {
				if _, err := demo.Find(d); err != nil {
					return err
				}
			}
			for _, s := range cfg.Staleness {
				if s < -1 {
					return tidemill.Invalid("--staleness %d", "give 0, a number of batches, or -1 for no bound", s)
				}
			}
			if cfg.Partitions < 1 || cfg.Slots < 1 || cfg.Runs < 1 || cfg.Batch < 0 || cfg.Rows < 0 {
				return tidemill.Invalid("--partitions, --slots and --runs are at least 1, --batch and --rows not negative", "leave them out for their defaults")
			}
			dir, err := benchDir("", "staleness")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			cfg.Dir = dir
			failed := error(nil)
			cfg.Done = func(r bench.StalenessResult) {
				if a.json && failed == nil {
					failed = a.line(r)
				}
				if !a.json {
					a.say("%s at staleness %d: %s rows/s", r.Data, r.Staleness, count(int64(r.RowsPerSecond)))
				}
			}
			all, err := bench.Staleness(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if !a.json {
				stalenessTable(a.out, all)
			}
			return failed
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Data, "data", []string{"power", "intrusion"}, "streams of the demo")
	f.IntSliceVar(&cfg.Staleness, "staleness", []int{0, 1, 4, 16, -1}, "what to compare")
	f.IntVar(&cfg.Partitions, "partitions", 4, "partitions of the topic")
	f.IntVar(&cfg.Slots, "slots", 2, "batches computed at the same time")
	f.IntVar(&cfg.Batch, "batch", 0, "rows per batch (default: the example's)")
	f.IntVar(&cfg.Rows, "rows", 0, "only the first so many (default: all)")
	f.IntVar(&cfg.Runs, "runs", 3, "runs of each; that of median speed counts")
	return cmd
}

// stalenessTable writes results as Markdown.
func stalenessTable(w io.Writer, all []bench.StalenessResult) {
	data := ""
	for _, r := range all {
		if r.Data != data {
			data = r.Data
			fmt.Fprintf(w, "\n%s: %s rows, batches of %d, %d partitions, %d slots, median of %d; %d processors, %s\n\n", data, count(r.Rows), r.Batch, r.Partitions, r.Slots, r.Runs,
				runtime.NumCPU(), strings.Join([]string{runtime.GOOS, runtime.GOARCH, runtime.Version()}, " "))
			fmt.Fprint(w, "| staleness | rows/s | slowest to fastest | loss | of the last 5,000 | spread of the loss | accuracy | digests |\n|---:|---:|---:|---:|---:|---:|---:|---:|\n")
		}
		fmt.Fprintf(w, "| %d | %s | %s to %s | %s | %s | %s | %s | %d |\n", r.Staleness, count(int64(r.RowsPerSecond)), count(int64(r.Slowest)), count(int64(r.Fastest)),
			number(r.Loss), number(r.LastLoss), number(r.LossSpread), number(r.Accuracy), r.Digests)
	}
}
