package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
)

// ParamsConfig says what Params measures. Dir is required.
type ParamsConfig struct {
	Dir        string
	Seed       uint64
	Rows       int64         // resident; default 2,000,000
	Dims       []int         // floats of a row beside as many of Adagrad's state; default 1, 16
	Skews      []float64     // exponents of Zipf's law, 0 for all ids alike; default 0, 1.05
	Transports []string      // default all: inproc, grpc
	Batch      int           // distinct ids of a request; default 8192
	Workers    int           // at the same time; default one for each core
	Least      time.Duration // of each measurement; default 1 s
	Runs       int           // default 3
	Events     func(Event)
}

// Params measures how many rows a second a parameter server gives out and takes gradients for:
// workers pull a batch's rows and push as many, again and again, on a table that is full.
func Params(ctx context.Context, cfg ParamsConfig) (*report.Report, error) {
	or(&cfg.Rows, 2_000_000)
	or(&cfg.Batch, 8192)
	or(&cfg.Workers, runtime.GOMAXPROCS(0))
	or(&cfg.Least, time.Second)
	cfg.Runs = orRuns(cfg.Runs)
	if len(cfg.Dims) == 0 {
		cfg.Dims = []int{1, 16}
	}
	if cfg.Skews == nil {
		cfg.Skews = []float64{0, 1.05}
	}
	if len(cfg.Transports) == 0 {
		cfg.Transports = transports
	}
	if err := checkTransports(cfg.Transports); err != nil {
		return nil, err
	}
	if cfg.Batch < 1 || cfg.Rows < 4*int64(cfg.Batch) {
		return nil, tidemill.Invalid("batches of %d distinct ids of %d rows", "give at least four times as many rows as a batch has", cfg.Batch, cfg.Rows)
	}
	for _, d := range cfg.Dims {
		if d < 1 || d > 1024 {
			return nil, tidemill.Invalid("rows of %d floats", "give 1 to 1024", d)
		}
	}
	for _, s := range cfg.Skews {
		if s < 0 || s > 3 {
			return nil, tidemill.Invalid("a skew of %v", "give 0 to 3", s)
		}
	}
	r := report.New("ps", fmt.Sprintf("Rows pulled and pushed a second: %d workers, %d distinct ids a request, Adagrad, %d rows resident.", cfg.Workers, cfg.Batch, cfg.Rows))
	began := time.Now()
	for _, dim := range cfg.Dims {
		for _, transport := range cfg.Transports {
			if err := cfg.table(ctx, r, dim, transport, began); err != nil {
				return nil, err
			}
		}
	}
	p := report.Plot{Title: "Rows a second, pulled plus pushed", YLabel: "rows/s"}
	for _, dim := range cfg.Dims {
		for _, s := range cfg.Skews {
			p.Categories = append(p.Categories, fmt.Sprintf("dim %d, skew %v", dim, s))
		}
	}
	for _, transport := range cfg.Transports {
		var names []string
		for _, dim := range cfg.Dims {
			for _, s := range cfg.Skews {
				names = append(names, paramsName(transport, dim, s))
			}
		}
		p.Series = append(p.Series, medians(r, transport, names, nil, "rows/s"))
	}
	r.Plots = append(r.Plots, p)
	r.Note("rows/s counts a row that is pulled and pushed twice; pull-rows/s and push-rows/s are each by the time that the workers spent in that call.")
	return r.Done(), nil
}

func paramsName(transport string, dim int, skew float64) string {
	return fmt.Sprintf("transport=%s/dim=%d/skew=%v", transport, dim, skew)
}

// table measures one table by one transport.
func (cfg *ParamsConfig) table(ctx context.Context, r *report.Report, dim int, transport string, began time.Time) error {
	dir, err := os.MkdirTemp(cfg.Dir, "ps-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	before := heap()
	t, err := newPSTable(ctx, dir, dim, cfg.Workers, transport == "grpc")
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.fill(ctx, uint64(cfg.Rows)); err != nil {
		return err
	}
	// Key, values and state are what there is to hold.
	perRow := float64(heap()-before) / float64(cfg.Rows)
	r.Add(fmt.Sprintf("memory/transport=%s/dim=%d", transport, dim), cfg.Rows, map[string]float64{"B/row": perRow, "of-payload": perRow / float64(8+8*dim)})
	for _, skew := range cfg.Skews {
		for run := range cfg.Runs {
			m, n, err := cfg.pullPush(ctx, t, zipf{uint64(cfg.Rows), skew}, uint64(run))
			if err != nil {
				return err
			}
			r.Add(paramsName(transport, dim, skew), n, m)
			if cfg.Events != nil {
				cfg.Events(Event{time.Since(began), fmt.Sprintf("ps %s: %.2f M rows/s", paramsName(transport, dim, skew), m["rows/s"]/1e6)})
			}
		}
	}
	return nil
}

// heap is what is in use after a collection, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// pullPush lets all workers pull and push for a while. n is how many rows were pulled.
func (cfg *ParamsConfig) pullPush(ctx context.Context, t *pstable, z zipf, run uint64) (metrics map[string]float64, n int64, err error) {
	const prepared = 16 // batches; drawing ids is not what is measured
	type share struct {
		rows       int64
		pull, push time.Duration
	}
	shares := make([]share, cfg.Workers)
	batches := make([][][]uint64, cfg.Workers)
	seen := make(map[uint64]struct{}, cfg.Batch)
	for p := range batches {
		rng := rand.New(rand.NewPCG(cfg.Seed, run<<8|uint64(p)))
		for range prepared {
			ids := make([]uint64, cfg.Batch)
			z.distinct(rng, ids, seen)
			batches[p] = append(batches[p], ids)
		}
	}
	var gc0, gc1 usage
	c, err := timed(func() error {
		gc0 = readUsage()
		g, ctx := errgroup.WithContext(ctx)
		start := time.Now()
		for p := range shares {
			g.Go(func() error {
				w, s := t.worker(p, cfg.Batch, rand.New(rand.NewPCG(run, uint64(p)))), &shares[p]
				for k := 0; time.Since(start) < cfg.Least || k == 0; k++ {
					w.ids[0] = batches[p][k%prepared]
					at := time.Now()
					if err := w.pull(ctx); err != nil {
						return err
					}
					mid := time.Now()
					if err := w.push(ctx); err != nil {
						return err
					}
					s.pull, s.push, s.rows = s.pull+mid.Sub(at), s.push+time.Since(mid), s.rows+int64(cfg.Batch)
				}
				return nil
			})
		}
		err := g.Wait()
		gc1 = readUsage()
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("pulling and pushing: %w", err)
	}
	var pull, push float64
	for _, s := range shares {
		n += s.rows
		pull, push = pull+s.pull.Seconds(), push+s.push.Seconds()
	}
	metrics = c.metrics(2*n, "rows")
	workers := float64(cfg.Workers)
	metrics["pull-rows/s"], metrics["push-rows/s"] = float64(n)/pull*workers, float64(n)/push*workers
	if c.cpu > 0 {
		metrics["gc-cpu-share"] = (gc1.gc - gc0.gc) / c.cpu
	}
	return metrics, n, nil
}
