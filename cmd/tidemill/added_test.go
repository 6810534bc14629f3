package main_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tidemill/tidemill/internal/proctest"
)

// TestAddedWorker measures what a second worker adds to a job at staleness 1 that computes more than
// it sends: a network with two hidden layers of 1,024, in batches of 2,048 rows. Each process has
// one core at most, so that a worker alone does not use what the second one is to bring. It is a
// measurement, on a machine that has nothing else to do:
//
//	TIDEMILL_TEST_ADDED=1 go test ./cmd/tidemill -run TestAddedWorker -v
func TestAddedWorker(t *testing.T) {
	if !full("TIDEMILL_TEST_ADDED", "1") {
		t.Skip("set TIDEMILL_TEST_ADDED=1 to measure what a worker adds")
	}
	t.Setenv("GOMAXPROCS", "1")
	const job, partitions, batch, span = "power", 4, 2048, 60 * 1024
	bin := proctest.Build(t, ".")
	f := newFleet(t, bin)
	f.start("stream", "stream")
	for _, role := range []string{"trainer", "ps", "worker"} {
		f.start(role, role)
	}
	f.together()
	f.seat = "trainer"
	file, rows := powerRows(t, 0, everything)
	all := 0
	for i := range 8 { // more rows than are trained
		if err := f.ask(nil, "produce", job, file, "--partitions", fmt.Sprint(partitions), "--id", fmt.Sprint("copy ", i), "--stream-url", f.streamURL()); err != nil {
			t.Fatal(err)
		}
		all += rows
	}
	f.submit(job, job, false,
		"{kind: logistic}", "{kind: mlp, hidden: [1024, 1024]}",
		"optimizer: {sparse: {sgd: {lr: 0.4}}, dense: {sgd: {lr: 0.4}}, average: {decay: 0.999}}", "optimizer: {sparse: {sgd: {lr: 0.01}}, dense: {sgd: {lr: 0.01}}}",
		"batch: 1,", fmt.Sprintf("batch: %d,", batch), "staleness: 0", "staleness: 1", "every: 250 rows", "every: 1h",
		"{margin: 0.01, alpha: 0.01, clip: 0.5, min_examples: 250}", "{mode: off}")
	examples := func() float64 { return f.metrics("ps").Sum("tidemill_ps_examples", fmt.Sprintf("job=%q", job)) }
	speed := func() float64 {
		t.Helper()
		reach := func(n float64) {
			proctest.Until(t, 10*patience, fmt.Sprintf("%.0f examples", n), func() bool { return examples() >= n })
		}
		reach(examples() + 4*batch) // the first rows after a change are not counted
		from, begin := examples(), time.Now()
		reach(from + span)
		return (examples() - from) / time.Since(begin).Seconds()
	}
	alone := speed()
	f.start("worker2", "worker")
	proctest.Until(t, patience, "each worker to have two partitions", func() bool {
		st, err := f.job(job)
		if err != nil {
			return false
		}
		second := 0
		for _, p := range st.Partitions {
			if strings.HasPrefix(p, f.nodes["worker2"].info.ID+"-") {
				second++
			}
		}
		return second == partitions/2
	})
	both := speed()
	if trained := examples(); trained > float64(all) {
		t.Fatalf("%.0f rows of %d were trained: too few were there", trained, all)
	}
	t.Logf("one worker %.0f rows/s, two %.0f: %.2f times as many, on %d cores", alone, both, both/alone, runtime.NumCPU())
	if both <= alone {
		t.Errorf("a second worker added nothing")
	}
	f.stop()
}
