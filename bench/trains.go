package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
)

// TrainsConfig says what Trains measures. Dir is required.
type TrainsConfig struct {
	Dir    string
	Seed   uint64
	Rows   int64 // default 1,000,000
	Runs   int   // default 3
	Events func(Event)
}

// Trains measures Train with the jobs that matter most: logistic regression by both optimizers, and
// DeepFM by batch.
func Trains(ctx context.Context, cfg TrainsConfig) (*report.Report, error) {
	or(&cfg.Rows, 1_000_000)
	cfg.Runs = orRuns(cfg.Runs)
	r := report.New("train", fmt.Sprintf("One pass over %d rows of clicks in one process: durable stream, transforms, parameter server, every row counted once, snapshots.", cfg.Rows))
	jobs := []ClicksJobConfig{
		{Model: tidemill.Logistic, Optimizer: tidemill.FTRL, Batch: 512}, {Model: tidemill.Logistic, Optimizer: tidemill.Adagrad, Batch: 512},
		{Model: tidemill.DeepFM, Optimizer: tidemill.Adagrad, Batch: 512}, {Model: tidemill.DeepFM, Optimizer: tidemill.Adagrad, Batch: 2048},
	}
	var names, labels []string
	for _, j := range jobs {
		names = append(names, fmt.Sprintf("model=%s/optimizer=%s/batch=%d", j.Model, j.Optimizer, j.Batch))
		labels = append(labels, fmt.Sprintf("%s %s %d", j.Model, j.Optimizer, j.Batch))
	}
	for range cfg.Runs {
		for i, j := range jobs {
			job, err := ClicksJob(j)
			if err != nil {
				return nil, err
			}
			res, err := Train(ctx, TrainConfig{Dir: cfg.Dir, Rows: cfg.Rows, Seed: cfg.Seed, Partitions: 2, Slots: r.Machine.Cores, Job: job})
			if err != nil {
				return nil, fmt.Errorf("train %s: %w", names[i], err)
			}
			r.Add(names[i], res.Rows, map[string]float64{
				"ns/op": 1e9 * res.Seconds / float64(res.Rows), "rows/s": res.RowsPerSecond, "cpu-s/Mrow": res.CPUSecondsPerMil, "AUC": res.AUC, "best-AUC": res.BestAUC,
				"loss": res.Loss, "peak-MB": float64(res.PeakBytes) / 1e6, "gc-cpu-share": res.GCCPUShare, "allocs/batch": res.AllocsPerBatch,
			})
			if cfg.Events != nil {
				cfg.Events(Event{time.Since(r.Began), fmt.Sprintf("train %s: %.0f rows/s, AUC %.4f", names[i], res.RowsPerSecond, res.AUC)})
			}
		}
	}
	r.Plots = append(r.Plots,
		report.Plot{Title: "Rows a second", YLabel: "rows/s", Categories: labels, Series: []report.Series{medians(r, "", names, nil, "rows/s")}},
		report.Plot{Title: "AUC over the last tenth, predicted before learned", YLabel: "AUC", Categories: labels, Series: []report.Series{medians(r, "", names, nil, "AUC")}})
	return r.Done(), nil
}
