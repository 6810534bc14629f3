package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
)

// FreshnessConfig says what Freshness measures. Dir is required.
type FreshnessConfig struct {
	Dir    string
	Binary string // the program, which is killed; "": nobody is, and the table has no rows with kills
	Seed   uint64
	// Drift and Period are workload.Clicks': how much of the effects turns, and in how many rows
	// once; defaults 0.9 and 1,000,000.
	Drift  float64
	Period int64
	// Lasts is how long versions are published in real time, to measure delays; default 20 s. Rate is
	// how many rows a second are appended then; default 2,000.
	Lasts time.Duration
	Rate  int
	// The table is made of Rows rows, of which the first fifth only teaches. StreamRate is how many
	// of them make up a second of the stream; defaults 1,200,000 and 1,000. Training goes as fast as
	// it can: the stream is compressed in time.
	Rows       int64
	StreamRate int64
	// Intervals between versions, ascending, each a multiple of the first; default 1 s, 10 s, 1 min,
	// 10 min. Never is always beside them.
	Intervals []time.Duration
	// LabelDelays are how long after its event a row's label is there; default 0 and 1 min.
	LabelDelays []time.Duration
	// Kills of the process while it trains; default 4. Each stands, in the table, for one every
	// KillEvery of the stream, by default 1 min, that stops training as long as it was measured to.
	Kills     int
	KillEvery time.Duration
	Events    func(Event)
}

// FreshnessRow is a row of the table: the quality of what is served to the rows after the first
// fifth, each scored by the version that would have answered it.
type FreshnessRow struct {
	Interval   time.Duration // 0: never
	LabelDelay time.Duration
	Kills      bool
	AUC        float64
	LogLoss    float64
	Versions   int     // that answered
	Age        float64 // of what the serving version knows, mean, in seconds of the stream
}

func (f *FreshnessRow) name() string {
	every := "never"
	if f.Interval > 0 {
		every = f.Interval.String()
	}
	kills := "none"
	if f.Kills {
		kills = "some"
	}
	return fmt.Sprintf("every=%s/label-delay=%v/kills=%s", every, f.LabelDelay, kills)
}

// Freshness measures how long it takes until an event is in a model that serves, and what that is
// worth: the quality of predictions on a stream that drifts, by how often a version is published.
func Freshness(ctx context.Context, cfg FreshnessConfig) (*report.Report, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	r := report.New("freshness", fmt.Sprintf("From an event to a model that serves it, and the quality of what is served to clicks that drift (%.0f %% of the effects turn once in %d s of the stream), by publishing interval.",
		100*cfg.Drift, cfg.Period/cfg.StreamRate))
	delay, err := cfg.delays(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("freshness: %w", err)
	}
	cfg.say(r, "an event is served after %.2f s", delay)
	table, err := cfg.table(ctx, r, delay)
	if err != nil {
		return nil, fmt.Errorf("freshness: %w", err)
	}
	for _, row := range table {
		r.Add(row.name(), cfg.Rows-cfg.taught(), map[string]float64{"AUC": row.AUC, "logloss": row.LogLoss, "versions": float64(row.Versions), "age-s": row.Age})
	}
	rest := cfg.Rows - cfg.taught()
	r.Add("best-possible", rest, map[string]float64{"AUC": cfg.clicks().BestAUC(cfg.taught(), int(rest))})
	r.Plots = append(r.Plots, cfg.plot(table))
	r.Note(fmt.Sprintf("The table's stream is compressed in time: %d rows stand for a second. Versions are snapshots of one job's real training; which of them answers a row follows from the interval, the label's delay and the measured delay of %.2f s from a cut to serving. Rows of the first %d s only teach; never is the version after them.",
		cfg.StreamRate, delay, cfg.taught()/cfg.StreamRate))
	return r.Done(), nil
}

func (cfg *FreshnessConfig) complete() error {
	or(&cfg.Drift, 0.9)
	or(&cfg.Period, 1_000_000)
	or(&cfg.Lasts, 20*time.Second)
	or(&cfg.Rate, 2000)
	or(&cfg.Rows, 1_200_000)
	or(&cfg.StreamRate, 1000)
	or(&cfg.Kills, 4)
	or(&cfg.KillEvery, time.Minute)
	if len(cfg.Intervals) == 0 {
		cfg.Intervals = []time.Duration{time.Second, 10 * time.Second, time.Minute, 10 * time.Minute}
	}
	if len(cfg.LabelDelays) == 0 {
		cfg.LabelDelays = []time.Duration{0, time.Minute}
	}
	switch {
	case cfg.Drift < 0 || cfg.Drift > 1 || cfg.Period < 1:
		return tidemill.Invalid("a drift of %v in %d rows", "give 0 to 1, and at least a row", cfg.Drift, cfg.Period)
	case cfg.Rows < 5000 || cfg.StreamRate < 1 || cfg.Rate < 1 || cfg.Lasts < 0 || cfg.Kills < 0 || cfg.KillEvery <= 0:
		return tidemill.Invalid("%d rows at %d a second", "give at least 5000 and 1", cfg.Rows, cfg.StreamRate)
	}
	base := cfg.Intervals[0]
	for i, v := range cfg.Intervals {
		if v <= 0 || v%base != 0 || i > 0 && v <= cfg.Intervals[i-1] {
			return tidemill.Invalid("the intervals %v", "give them ascending, each a multiple of the first", cfg.Intervals)
		}
	}
	for _, d := range cfg.LabelDelays {
		if d < 0 {
			return tidemill.Invalid("a label that is there %v before its event", "give 0 or more", -d)
		}
	}
	if cfg.base() < 1 {
		return tidemill.Invalid("an interval of %v at %d rows a second has no row", "give more rows a second", base, cfg.StreamRate)
	}
	return nil
}

// base is how many rows the first interval has.
func (cfg *FreshnessConfig) base() int64 {
	return int64(cfg.Intervals[0].Seconds() * float64(cfg.StreamRate))
}

// taught is how many rows only teach.
func (cfg *FreshnessConfig) taught() int64 { return cfg.Rows / 5 }

func (cfg *FreshnessConfig) clicks() *workload.Clicks {
	return &workload.Clicks{Seed: cfg.Seed, Drift: cfg.Drift, Period: cfg.Period}
}

func (cfg *FreshnessConfig) say(r *report.Report, format string, args ...any) {
	if cfg.Events != nil {
		cfg.Events(Event{time.Since(r.Began), fmt.Sprintf("freshness: "+format, args...)})
	}
}

// delays publishes in real time through the gate and measures, for each version, how long after
// the newest event in it was appended it was decided on and served. It returns the median time
// to serving, in seconds.
func (cfg *FreshnessConfig) delays(ctx context.Context, r *report.Report) (float64, error) {
	dir, err := os.MkdirTemp(cfg.Dir, "freshness-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	clicks := cfg.clicks()
	type stamp struct {
		next int64 // offsets below it were appended at at
		at   time.Time
	}
	var stamps []stamp
	var live []liveEvent
	var decided []tidemill.Decision
	const before = 20_000
	err = withServed(ctx, dir, clicks, ClicksJobConfig{}, func(s *tidemill.Spec) {
		s.Train.Snapshot = tidemill.Interval{Time: time.Second}
		s.Train.Linger = 20 * time.Millisecond
		// A candidate is published unless it is proven worse: what is fresh is to be served soon.
		s.Gate = tidemill.GateSpec{Mode: tidemill.GateOn, Prove: tidemill.ProveHarm, Margin: 0.01, Alpha: 0.01, Clip: 0.5, MinExamples: 500, MaxExamples: 1_000_000}
	}, func(ctx context.Context, s *servedNode) error {
		if err := s.fill(ctx, clicks, 0, before, appendRows); err != nil {
			return err
		}
		const every = 50 * time.Millisecond
		begin, tick := time.Now(), time.NewTicker(every)
		defer tick.Stop()
		for next := int64(before); time.Since(begin) < cfg.Lasts; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			due := before + int64(time.Since(begin).Seconds()*float64(cfg.Rate))
			if due > next {
				if err := s.fill(ctx, clicks, next, due, int(due-next)); err != nil {
					return err
				}
				stamps = append(stamps, stamp{due, time.Now()})
				next = due
			}
		}
		live, decided = s.events()
		return nil
	})
	if err != nil {
		return 0, err
	}
	at := map[int64]time.Time{} // of the decision to publish
	var held int
	for _, d := range decided {
		if d.Decision == tidemill.Published {
			at[d.Version] = d.At
		} else {
			held++
		}
	}
	var served, gated []float64
	for _, e := range live {
		i, _ := slices.BinarySearchFunc(stamps, e.cut.Rows(), func(s stamp, n int64) int { return int(min(1, max(-1, s.next-n))) })
		if e.cut.Rows() <= before || i == len(stamps) {
			continue
		}
		served = append(served, e.at.Sub(stamps[i].at).Seconds())
		if d, ok := at[e.version]; ok {
			gated = append(gated, d.Sub(stamps[i].at).Seconds())
		}
	}
	r.Add("delay=event-to-gated", int64(len(gated)), seconds(gated))
	r.Add("delay=event-to-served", int64(len(served)), seconds(served))
	r.Note(fmt.Sprintf("Delays are of the newest event in each version, %d rows a second, a snapshot a second: %d versions took over, %d were not published.", cfg.Rate, len(served), held))
	if len(served) == 0 {
		r.Note("No version took over while delays were measured; the table counts 1 s.")
		return 1, nil
	}
	return report.Median(served), nil
}

// seconds are the usual figures of delays.
func seconds(v []float64) map[string]float64 {
	return map[string]float64{"p50-s": report.Median(v), "p90-s": report.Quantile(v, 0.9), "max-s": report.Quantile(v, 1)}
}

func (cfg *FreshnessConfig) plot(table []FreshnessRow) report.Plot {
	p := report.Plot{Title: "AUC of what is served, by publishing interval", YLabel: "AUC"}
	for _, v := range cfg.Intervals {
		p.Categories = append(p.Categories, v.String())
	}
	p.Categories = append(p.Categories, "never")
	at := map[string]int{}
	for _, row := range table {
		name := fmt.Sprintf("labels after %v", row.LabelDelay)
		if row.Kills {
			name += ", kills"
		}
		if _, ok := at[name]; !ok {
			at[name] = len(p.Series)
			p.Series = append(p.Series, report.Series{Name: name})
		}
		s := &p.Series[at[name]]
		s.Y = append(s.Y, row.AUC)
	}
	return p
}
