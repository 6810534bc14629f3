package bench

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/tidemill/tidemill/bench/report"
)

// cost is what something took.
type cost struct {
	seconds float64
	cpu     float64 // seconds of the whole process, 0 where that is not known
}

// timed runs f and returns what it took.
func timed(f func() error) (cost, error) {
	cpu, start := cpuSeconds(), time.Now()
	err := f()
	return cost{time.Since(start).Seconds(), cpuSeconds() - cpu}, err
}

// metrics are the speed of n things called unit, and what one of them cost.
func (c cost) metrics(n int64, unit string) map[string]float64 {
	m := map[string]float64{"ns/op": c.seconds * 1e9 / float64(n), unit + "/s": float64(n) / c.seconds}
	if c.cpu > 0 {
		m["cpu-ns/op"] = c.cpu * 1e9 / float64(n)
	}
	return m
}

// orRuns is how often something is measured.
func orRuns(n int) int {
	if n < 1 {
		return 3
	}
	return n
}

// latencies are the usual figures of how long requests took, in milliseconds. Of none there are none.
func latencies(took []float64, prefix string) map[string]float64 {
	if len(took) == 0 {
		return map[string]float64{}
	}
	return map[string]float64{
		prefix + "p50-ms": 1e3 * report.Median(took), prefix + "p99-ms": 1e3 * report.Quantile(took, 0.99), prefix + "max-ms": 1e3 * report.Quantile(took, 1),
	}
}

// merge adds the metrics of others to m and returns it.
func merge(m map[string]float64, others ...map[string]float64) map[string]float64 {
	for _, o := range others {
		for k, v := range o {
			m[k] = v
		}
	}
	return m
}

// medians makes a series of medians of a unit, one for each name; X are the values beside them. A
// name without a figure is left out.
func medians(r *report.Report, series string, names []string, x []float64, unit string) report.Series {
	s := report.Series{Name: series}
	for i, n := range names {
		if v := r.Median(n, unit); !math.IsNaN(v) {
			s.Y = append(s.Y, v)
			if x != nil {
				s.X = append(s.X, x[i])
			}
		}
	}
	return s
}

// over is the error of a measurement that ctx ended, or nil.
func over(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
