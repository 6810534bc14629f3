package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/internal/kernel"
)

// AllConfig says what All runs. Dir and Binary are required.
type AllConfig struct {
	Dir    string
	Binary string // the program, for the benchmarks that run it as processes
	Seed   uint64
	Runs   int      // of each; 0: their default, or 1 when quick
	Quick  bool     // sizes so small that only whether it works is learned
	Only   []string // some of SuiteNames; default all
	Events func(Event)
	Done   func(*report.Report) error // called with each report as it comes; an error ends the run
}

// SuiteNames are the benchmarks that All runs, in its order.
func SuiteNames() []string {
	return []string{"train", "stream", "ps", "kernel", "snapshot", "serve", "swap", "freshness", "scale"}
}

// All runs the suite.
func All(ctx context.Context, cfg AllConfig) error {
	for _, name := range cfg.Only {
		if !slices.Contains(SuiteNames(), name) {
			return tidemill.Invalid("no benchmark is called %q", "use "+strings.Join(SuiteNames(), ", "), name)
		}
	}
	if cfg.Quick && cfg.Runs == 0 {
		cfg.Runs = 1
	}
	for _, name := range SuiteNames() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, name) {
			continue
		}
		r, err := cfg.run(ctx, name)
		if err != nil {
			return err
		}
		if err := cfg.Done(r); err != nil {
			return err
		}
	}
	return nil
}

// run runs one benchmark.
func (cfg *AllConfig) run(ctx context.Context, name string) (*report.Report, error) {
	dir := filepath.Join(cfg.Dir, name)
	quick := cfg.Quick
	switch name {
	case "train":
		c := TrainsConfig{Dir: dir, Seed: cfg.Seed, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows = 20_000
		}
		return Trains(ctx, c)
	case "stream":
		c := StreamConfig{Dir: dir, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows, c.Batches = 5000, []int{512}
		}
		return Stream(ctx, c)
	case "ps":
		c := ParamsConfig{Dir: cfg.Dir, Seed: cfg.Seed, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows, c.Batch, c.Skews, c.Least = 40_000, 2048, []float64{1.05}, 20*time.Millisecond
		}
		return Params(ctx, c)
	case "kernel":
		c := KernelsConfig{Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Least, c.Levels = time.Millisecond, []kernel.Level{kernel.Best()}
		}
		return Kernels(ctx, c)
	case "snapshot":
		c := SnapshotsConfig{Dir: cfg.Dir, Seed: cfg.Seed, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows = 50_000
		}
		return Snapshots(ctx, c)
	case "serve":
		c := ServeConfig{Dir: cfg.Dir, Seed: cfg.Seed, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows, c.Least = 5000, 50*time.Millisecond
		}
		return Serve(ctx, c)
	case "swap":
		c := SwapConfig{Dir: cfg.Dir, Seed: cfg.Seed, Events: cfg.Events}
		if quick {
			c.Lasts, c.Every = 2*time.Second, 500*time.Millisecond
		}
		return Swap(ctx, c)
	case "freshness":
		c := FreshnessConfig{Dir: cfg.Dir, Binary: cfg.Binary, Seed: cfg.Seed, Events: cfg.Events}
		if quick {
			c.Lasts, c.Rows, c.StreamRate, c.Period, c.Kills = 2*time.Second, 20_000, 500, 20_000, 1
		}
		return Freshness(ctx, c)
	case "scale":
		c := ScaleConfig{Dir: dir, Binary: cfg.Binary, Seed: cfg.Seed, Runs: cfg.Runs, Events: cfg.Events}
		if quick {
			c.Rows, c.Workers = 4000, []int{2}
		}
		return Scale(ctx, c)
	}
	return nil, fmt.Errorf("no benchmark is called %q: %w", name, tidemill.ErrNotFound)
}
