package bench

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/internal/kernel"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// checked looks for what every report has.
func checked(t *testing.T, r *report.Report, err error, atLeast int) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) < atLeast || r.Seconds <= 0 || len(r.Plots) == 0 {
		t.Fatalf("%d results, %d plots: %+v", len(r.Results), len(r.Plots), r.Results)
	}
	for _, x := range r.Results {
		for unit, v := range x.Metrics {
			if v < 0 {
				t.Errorf("%s: %v %s", x.Name, v, unit)
			}
		}
	}
}

func TestParamsTiny(t *testing.T) {
	r, err := Params(t.Context(), ParamsConfig{Dir: t.TempDir(), Rows: 4000, Batch: 256, Dims: []int{1, 4}, Workers: 2, Least: time.Millisecond, Runs: 2})
	checked(t, r, err, 2*2*2*2)
}

func TestStreamTiny(t *testing.T) {
	r, err := Stream(t.Context(), StreamConfig{Dir: t.TempDir(), Rows: 1000, Batches: []int{100}, Runs: 1})
	checked(t, r, err, 6)
}

func TestKernelsTiny(t *testing.T) {
	r, err := Kernels(t.Context(), KernelsConfig{Products: []Product{{"NN", 8, 9, 10}, {"TN", 3, 4, 5}, {"NT", 1, 7, 2}}, Least: time.Microsecond, Runs: 2})
	checked(t, r, err, 2*3*len(kernel.Levels()))
}

func TestSnapshotsTiny(t *testing.T) {
	r, err := Snapshots(t.Context(), SnapshotsConfig{Dir: t.TempDir(), Rows: 4000, Runs: 1})
	checked(t, r, err, 3)
}

func TestServeTiny(t *testing.T) {
	r, err := Serve(t.Context(), ServeConfig{Dir: t.TempDir(), Rows: 3000, Batches: []int{1, 5}, Clients: 2, Least: time.Millisecond, Runs: 1})
	checked(t, r, err, 4)
}

func TestSwapTiny(t *testing.T) {
	r, err := Swap(t.Context(), SwapConfig{Dir: t.TempDir(), Lasts: time.Second, Every: 200 * time.Millisecond})
	checked(t, r, err, 2)
}

func TestFreshnessTiny(t *testing.T) {
	r, err := Freshness(t.Context(), FreshnessConfig{Dir: t.TempDir(), Lasts: time.Second, Rows: 10_000, StreamRate: 500, Period: 20_000})
	checked(t, r, err, 2+2*5)
}

// What answers a row is the newest version that was there, and all ways to publish begin alike.
func TestSchedule(t *testing.T) {
	cfg := FreshnessConfig{Rows: 1000 * 100, StreamRate: 1000, Intervals: []time.Duration{time.Second, 10 * time.Second}, LabelDelays: []time.Duration{0, 5 * time.Second}, KillEvery: 30 * time.Second}
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	var m []*snapshot.Manifest
	for rows := int64(1000); rows <= cfg.Rows; rows += 1000 {
		m = append(m, &snapshot.Manifest{Examples: rows})
	}
	const delay, standstill = 0.25, 4
	variants := cfg.variants(m, delay, standstill)
	if len(variants) != 2*2*3 {
		t.Fatalf("%d variants", len(variants))
	}
	for _, v := range variants {
		late := delay + v.row.LabelDelay.Seconds()
		for row := cfg.taught(); row < cfg.Rows; row += 100 {
			now := float64(row) / 1000
			knows := float64(m[v.use[v.at(row)]].Examples) / 1000
			if knows+late > now+1e-9 {
				t.Fatalf("%s: at %v s a version of %v s answers", v.row.name(), now, knows)
			}
			oldest := now - late - v.row.Interval.Seconds() - 1
			if v.row.Kills {
				oldest -= standstill
			}
			if v.row.Interval == 0 {
				oldest = float64(cfg.taught())/1000 - late - 1
			} else {
				oldest = min(oldest, max(oldest, float64(cfg.taught())/1000-late-1))
			}
			if knows < oldest {
				t.Fatalf("%s: at %v s a version of %v s answers", v.row.name(), now, knows)
			}
		}
	}
	for _, bad := range []FreshnessConfig{{Drift: 2}, {Rows: 10}, {Intervals: []time.Duration{time.Second, 1500 * time.Millisecond}}, {LabelDelays: []time.Duration{-1}}, {StreamRate: 1, Intervals: []time.Duration{time.Millisecond}}} {
		if err := bad.complete(); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Ids come as often as Zipf's law says, whatever its exponent.
func TestZipf(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range []float64{0, 0.8, 1, 1.5} {
		z := zipf{1000, s}
		const n = 100_000
		counts := make([]float64, z.n)
		for range n {
			counts[z.rank(r)]++
		}
		// The continuous law gives rank k what lies between k and k+1.
		var all, first float64
		for k := range z.n {
			lo, hi := float64(k+1), float64(k+2)
			mass := 1.0
			switch {
			case s == 1:
				mass = math.Log(hi) - math.Log(lo)
			case s != 0:
				mass = (math.Pow(hi, 1-s) - math.Pow(lo, 1-s)) / (1 - s)
			}
			if all += mass; k == 0 {
				first = mass
			}
		}
		// Five deviations of a binomial count.
		want := n * first / all
		if d := math.Abs(counts[0] - want); d > 5*math.Sqrt(want) {
			t.Errorf("exponent %v: the most frequent came %v times, want %.0f", s, counts[0], want)
		}
	}
}
