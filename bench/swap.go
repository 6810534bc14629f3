package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
)

// SwapConfig says what Swap measures. Dir is required.
type SwapConfig struct {
	Dir   string
	Seed  uint64
	Lasts time.Duration // default 15 s
	Every time.Duration // between versions; default 1 s
	Rate  int           // rows appended a second, and trained; default 2,000
	Asked int           // requests a second, 16 rows each; default 200
	// Near is how close to a swap a request is that counts as one around it; default 100 ms.
	Near   time.Duration
	Events func(Event)
}

// asked is one request.
type asked struct {
	at      time.Time
	took    time.Duration
	version int64
}

// Swap measures what requests feel of a version that takes over: latency around swaps and away
// from them, while the model is trained and published again and again in the same process. A
// request that fails ends the run.
func Swap(ctx context.Context, cfg SwapConfig) (*report.Report, error) {
	or(&cfg.Lasts, 15*time.Second)
	or(&cfg.Every, time.Second)
	or(&cfg.Rate, 2000)
	or(&cfg.Asked, 200)
	or(&cfg.Near, 100*time.Millisecond)
	if cfg.Lasts < 0 || cfg.Every < 0 || cfg.Rate < 1 || cfg.Asked < 1 || cfg.Asked > 100_000 {
		return nil, tidemill.Invalid("a duration or rate below 0", "leave it out for its default")
	}
	dir, err := os.MkdirTemp(cfg.Dir, "swap-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	clicks := &workload.Clicks{Seed: cfg.Seed}
	r := report.New("swap", fmt.Sprintf("Requests of 16 rows, %d a second, while a version takes over about every %v; rows are trained beside at %d a second in the same process.", cfg.Asked, cfg.Every, cfg.Rate))
	var all []asked
	var live []liveEvent
	var start time.Time
	err = withServed(ctx, dir, clicks, ClicksJobConfig{}, func(s *tidemill.Spec) {
		s.Train.Snapshot = tidemill.Interval{Time: cfg.Every}
		s.Train.Linger = 20 * time.Millisecond
	}, func(ctx context.Context, s *servedNode) error {
		if err := s.fill(ctx, clicks, 0, 20_000, appendRows); err != nil {
			return err
		}
		if err := s.until(ctx, 1); err != nil {
			return err
		}
		ask, done, err := (&ServeConfig{Rows: 20_000}).asker(s, "grpc", clicks, 16)
		if err != nil {
			return err
		}
		defer done()
		start = time.Now()
		for i := range prepared { // connections are up, buffers have their size
			if _, err := ask(ctx, i); err != nil {
				return err
			}
		}
		feeding, stop := context.WithTimeout(ctx, cfg.Lasts)
		defer stop()
		var g errgroup.Group
		g.Go(func() error { return steady(feeding, s, clicks, 20_000, cfg.Rate) })
		g.Go(func() (err error) {
			all, err = cfg.askAll(feeding, ctx, ask)
			return err
		})
		err = g.Wait()
		live, _ = s.events()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("swap: %w", err)
	}
	cfg.fill(r, all, live, start)
	return r.Done(), nil
}

// steady appends rows at a rate until ctx ends.
func steady(ctx context.Context, s *servedNode, clicks *workload.Clicks, first int64, rate int) error {
	const every = 50 * time.Millisecond
	begin := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for next := first; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		due := first + int64(time.Since(begin).Seconds()*float64(rate))
		if due > next {
			if err := s.fill(context.WithoutCancel(ctx), clicks, next, due, int(due-next)); err != nil {
				return err
			}
			next = due
		}
	}
}

// askAll asks at a steady rate, not waiting for answers, until until ends.
func (cfg *SwapConfig) askAll(until, ctx context.Context, ask ask) ([]asked, error) {
	var mu sync.Mutex
	var out []asked
	var errs []error
	var under sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(cfg.Asked))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-until.Done():
			under.Wait()
			return out, errors.Join(errs...)
		case <-tick.C:
		}
		at := time.Now()
		under.Go(func() {
			version, err := ask(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			out = append(out, asked{at, time.Since(at), version})
			if err != nil && len(errs) < 5 {
				errs = append(errs, err)
			}
		})
	}
}

// fill fills in the report.
func (cfg *SwapConfig) fill(r *report.Report, all []asked, live []liveEvent, start time.Time) {
	slices.SortFunc(all, func(a, b asked) int { return a.at.Compare(b.at) })
	swaps := slices.DeleteFunc(slices.Clone(live), func(e liveEvent) bool { return e.at.Before(start) })
	var near, away []float64
	series := report.Series{Name: "requests"}
	versions := map[int64]bool{}
	for _, a := range all {
		versions[a.version] = true
		close := slices.ContainsFunc(swaps, func(e liveEvent) bool {
			return a.at.Before(e.at.Add(cfg.Near)) && a.at.Add(a.took).After(e.at.Add(-cfg.Near))
		})
		if close {
			near = append(near, a.took.Seconds())
		} else {
			away = append(away, a.took.Seconds())
		}
		series.X, series.Y = append(series.X, a.at.Sub(start).Seconds()), append(series.Y, 1e3*a.took.Seconds())
	}
	r.Add("when=around", int64(len(near)), merge(latencies(near, ""), map[string]float64{"requests": float64(len(near)), "swaps": float64(len(swaps))}))
	r.Add("when=away", int64(len(away)), merge(latencies(away, ""), map[string]float64{"requests": float64(len(away))}))
	r.Plots = append(r.Plots, report.Plot{Title: "Latency of each request", XLabel: "seconds", YLabel: "ms", Series: []report.Series{series}})
	r.Note(fmt.Sprintf("%d swaps, %d versions answered, no request failed. Around means within %v of a swap.", len(swaps), len(versions), cfg.Near))
	if len(swaps) == 0 {
		r.Note("No version took over while requests were measured; let it last longer.")
	}
}
