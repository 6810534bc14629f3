package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/internal/wire"
)

// SnapshotsConfig says what Snapshots measures. Dir is required, on the disk that is measured.
type SnapshotsConfig struct {
	Dir     string
	Seed    uint64
	Rows    int64   // of 16 floats and Adagrad's state; default 1,000,000
	Touched float64 // share of the rows that change before an incremental one; default 0.01
	Runs    int     // default 3
	Events  func(Event)
}

// Snapshots measures full and incremental snapshots of a parameter server that is being trained
// on, and beside each full one what the disk does with as many bytes.
func Snapshots(ctx context.Context, cfg SnapshotsConfig) (*report.Report, error) {
	or(&cfg.Rows, 1_000_000)
	or(&cfg.Touched, 0.01)
	cfg.Runs = orRuns(cfg.Runs)
	if cfg.Rows < 1000 || cfg.Touched < 0 || cfg.Touched > 1 {
		return nil, tidemill.Invalid("%d rows of which a share of %v changes", "give at least 1000, and 0 to 1", cfg.Rows, cfg.Touched)
	}
	const dim = 16
	r := report.New("snapshot", fmt.Sprintf("Snapshots of %d rows of %d floats with Adagrad's state, while training goes on; dd writes and flushes as many bytes to one file.", cfg.Rows, dim))
	began := time.Now()
	for run := range cfg.Runs {
		if err := cfg.run(ctx, r, dim, run); err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
		if cfg.Events != nil {
			cfg.Events(Event{time.Since(began), fmt.Sprintf("snapshot: full %.0f MB/s, dd %.0f MB/s", r.Median("kind=full", "MB/s"), r.Median("kind=dd", "MB/s"))})
		}
	}
	r.Plots = append(r.Plots, report.Plot{
		Title: "To disk, flushed", YLabel: "MB/s", Categories: []string{"full", "incremental", "dd"},
		Series: []report.Series{medians(r, "", []string{"kind=full", "kind=incremental", "kind=dd"}, nil, "MB/s")},
	})
	r.Note("stall-ms is from asking for the snapshot, everything before its cut being applied, until training may go on. peak-heap is the most heap while one is written, by the heap before.")
	return r.Done(), nil
}

func (cfg *SnapshotsConfig) run(ctx context.Context, r *report.Report, dim, run int) error {
	dir, err := os.MkdirTemp(cfg.Dir, "snapshot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const trainers = 1 // beside the one who fills
	t, err := newPSTable(ctx, dir, dim, trainers, false)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.fill(ctx, uint64(cfg.Rows)); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, uint64(run)))
	w := t.worker(0, 256, rng)
	all := zipf{uint64(cfg.Rows), 0}
	seen := map[uint64]struct{}{}
	touch := func() error {
		all.distinct(rng, w.ids[0], seen)
		return w.push(ctx)
	}
	before := heap()
	number := int64(0)
	one := func(kind string, base int64) (int64, error) {
		number++
		var stall time.Duration
		var applied []float64
		var written wire.Written
		// Training goes on once the state is captured, and is watched.
		marked, done := make(chan struct{}), make(chan struct{})
		var trained sync.WaitGroup
		var touched error
		peak := before
		trained.Go(func() {
			select {
			case <-marked:
			case <-done:
				return
			}
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				at := time.Now()
				if touched = touch(); touched != nil {
					return
				}
				applied = append(applied, time.Since(at).Seconds())
				if n%50 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc)
				}
			}
		})
		start := time.Now()
		var once sync.Once
		c, err := timed(func() (err error) {
			written, err = t.snapshot(ctx, number, base, func() {
				once.Do(func() {
					stall = time.Since(start)
					close(marked)
				})
			})
			return err
		})
		close(done)
		trained.Wait()
		if err == nil {
			err = touched
		}
		if err != nil {
			return 0, err
		}
		var bytes int64
		for _, b := range written.Part.Blobs {
			bytes += b.Bytes
		}
		m := c.metrics(1, "snapshots")
		delete(m, "snapshots/s")
		r.Add("kind="+kind, 1, merge(m, map[string]float64{
			"MB/s": float64(bytes) / 1e6 / c.seconds, "MB": float64(bytes) / 1e6, "stall-ms": 1e3 * stall.Seconds(), "peak-heap": float64(peak) / float64(before),
		}, latencies(applied, "push-")))
		return bytes, nil
	}
	bytes, err := one("full", 0)
	if err != nil {
		return err
	}
	c, err := timed(func() error { return writeFlushed(filepath.Join(dir, "dd"), bytes) })
	if err != nil {
		return err
	}
	r.Add("kind=dd", 1, map[string]float64{"MB/s": float64(bytes) / 1e6 / c.seconds, "ns/op": 1e9 * c.seconds, "MB": float64(bytes) / 1e6})
	// What was trained beside the full one goes into one that is not measured.
	settle := number
	number++
	if _, err := t.snapshot(ctx, number, settle, func() {}); err != nil {
		return err
	}
	for left := int(cfg.Touched * float64(cfg.Rows)); left > 0; left -= len(w.ids[0]) {
		if err := touch(); err != nil {
			return err
		}
	}
	_, err = one("incremental", number)
	return err
}

// writeFlushed writes n bytes to a file in pieces of a megabyte and flushes it, as dd with
// conv=fsync does.
func writeFlushed(name string, n int64) error {
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := n; left > 0; left -= int64(len(piece)) {
		if _, err := f.Write(piece[:min(left, int64(len(piece)))]); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
