package main_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/trainer"
)

// testElastic: parameter servers and workers join a job and leave it on SIGTERM while it is
// trained. It never goes back to a cut, only the shards that placement moves do move, and the
// result is that of one process.
func testElastic(t *testing.T, bin *proctest.Binary) {
	file, rows := powerRows(t, 0, everything)
	edits := []string{"every: 250 rows", "every: 2000 rows"}
	const topic, partitions, job = "power", 4, "power"

	whole := newFleet(t, bin)
	m := whole.start("stream")
	whole.produce(topic, file, partitions)
	whole.submit(job, topic, true, edits...)
	want := whole.finished(job)
	m.Stop(patience)

	f := newFleet(t, bin)
	f.start("stream", "stream")
	f.flags = map[string][]string{"trainer": {"--keep-placement"}} // the test counts shards
	launched := []*member{f.launch("trainer", "trainer"), f.launch("ps1", "ps"), f.launch("ps2", "ps"), f.launch("worker1", "worker")}
	for _, m := range launched {
		f.ready(m)
	}
	f.together()
	f.seat = "trainer"
	f.produce(topic, file, partitions)
	f.submit(job, topic, true, edits...)
	before := f.trained(job, rows/50)

	// until waits for the assignment to be what is expected, or for the job to be too quick.
	until := func(what string, met func(trainer.JobStatus) bool) (st trainer.JobStatus) {
		t.Helper()
		proctest.Until(t, patience, what, func() bool {
			now, err := f.job(job)
			if err == nil {
				st = now
			}
			return err == nil && (met(st) || st.State == tidemill.JobFinished)
		})
		if !met(st) {
			t.Logf("the job was over before %s", what)
		} else {
			t.Logf("%s after %d examples", what, st.Examples)
		}
		return st
	}
	id := func(shards map[string]int, node string) int {
		for member, n := range shards {
			if len(member) > len(f.nodes[node].info.ID) && member[:len(f.nodes[node].info.ID)] == f.nodes[node].info.ID {
				return n
			}
		}
		return 0
	}

	gap := f.longestGap("ps2", job)
	f.start("ps3", "ps")
	st := until("a third ps has its third of the shards", func(st trainer.JobStatus) bool { return id(st.Shards, "ps3") == 64/3 })
	t.Logf("a ps joined: shards %v, and training stood still for %v at most", st.Shards, gap())
	if st.State == tidemill.JobRunning {
		for _, ps := range []string{"ps1", "ps2"} {
			if n := id(st.Shards, ps); n < 64/3 || n > 64/3+1 {
				t.Errorf("%s has %d shards of 64 among three", ps, n)
			}
		}
	}

	f.start("worker2", "worker")
	gap = f.longestGap("ps2", job)
	f.nodes["worker1"].Stop(patience)
	t.Logf("a worker left, and training stood still for %v at most", gap())
	gap = f.longestGap("ps2", job)
	f.nodes["ps1"].Stop(patience)
	t.Logf("a ps left, and training stood still for %v at most", gap())

	st = f.finished(job)
	if st.Digest != want.Digest || st.Examples != int64(rows) {
		t.Errorf("digest %s of %d examples; one process has %s of %d", st.Digest, st.Examples, want.Digest, rows)
	}
	if st.Generation != before.Generation {
		t.Errorf("the job went back to a cut: generation %d, and %d before anybody joined or left\n%s", st.Generation, before.Generation, f.nodes["trainer"].Logs())
	}
	f.stop()
}

// longestGap watches, until the returned function is called, how long a ps applied nothing.
func (f *fleet) longestGap(ps, job string) (stop func() time.Duration) {
	url := "http://" + f.nodes[ps].info.HTTP + "/metrics"
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	var longest time.Duration
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		last, since := -1.0, time.Now()
		for {
			if m, err := proctest.Scrape(ctx, url); err == nil {
				if n := m.Sum("tidemill_ps_examples", fmt.Sprintf("job=%q", job)); n != last {
					if last >= 0 {
						longest = max(longest, time.Since(since))
					}
					last, since = n, time.Now()
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() time.Duration {
		cancel()
		<-done
		return longest.Round(time.Millisecond)
	}
}
