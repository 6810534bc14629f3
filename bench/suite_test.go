package bench

import (
	"testing"
	"time"

	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/internal/kernel"
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
