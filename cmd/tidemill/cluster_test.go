package main_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/trainer"
)

// TestProcesses runs the program as its users do: as processes that find each other by gossip,
// are killed, and are cut off from each other. With -short it is one process and one job.
func TestProcesses(t *testing.T) {
	bin := proctest.Build(t, ".")
	t.Run("one", func(t *testing.T) { testOne(t, bin) })
	if testing.Short() {
		return
	}
	t.Run("certificates", func(t *testing.T) { testCertificates(t, bin) })
	t.Run("seven", func(t *testing.T) { testSeven(t, bin) })
	t.Run("elastic", func(t *testing.T) { testElastic(t, bin) })
	t.Run("killed", func(t *testing.T) { testKilled(t, bin) })
	t.Run("producer killed", func(t *testing.T) { testProducerKilled(t, bin) })
	for _, c := range cuts {
		if c.long && !full("TIDEMILL_TEST_LONG", "1") {
			continue
		}
		t.Run("cut off "+c.name, func(t *testing.T) { testCut(t, bin, c.far, c.how) })
	}
}

// testOne: a process trains, prints what it should, and ends in order when asked to.
func testOne(t *testing.T, bin *proctest.Binary) {
	file, rows := powerRows(t, 0, 500)
	f := newFleet(t, bin)
	m := f.start("stream")
	f.produce("power", file, 1)
	f.submit("power", "power", true)
	st := f.finished("power")
	if st.Examples != int64(rows) || st.Digest == "" {
		t.Errorf("%d examples of %d, digest %q", st.Examples, rows, st.Digest)
	}
	m.Stop(patience)
}

// The topics that the same job is run on.
var topics = []struct {
	name       string
	partitions int
}{{"one", 1}, {"four", 4}}

// reference runs a job on each topic in one process and returns how they ended.
func reference(t *testing.T, bin *proctest.Binary, file string) map[string]trainer.JobStatus {
	t.Helper()
	f := newFleet(t, bin)
	m := f.start("stream")
	want := map[string]trainer.JobStatus{}
	for _, topic := range topics {
		f.produce(topic.name, file, topic.partitions)
		f.submit(topic.name, topic.name, true)
		want[topic.name] = f.finished(topic.name)
		t.Logf("one process, %d partitions: digest %s of %d examples, loss %.4f",
			topic.partitions, want[topic.name].Digest, want[topic.name].Examples, want[topic.name].Progress.Loss)
	}
	m.Stop(patience)
	return want
}

// startSeven starts stream, trainer, two ps and serving at once, and as many workers as given.
func (f *fleet) startSeven(workers int) {
	f.t.Helper()
	f.start("stream", "stream")
	launched := []*member{f.launch("trainer", "trainer"), f.launch("ps1", "ps"), f.launch("ps2", "ps"), f.launch("serving", "serving")}
	for i := range workers {
		launched = append(launched, f.launch(worker(i), "worker"))
	}
	for _, m := range launched {
		f.ready(m)
	}
	f.together()
}

func worker(i int) string { return fmt.Sprintf("worker%d", i+1) }

// together waits until all nodes see all nodes.
func (f *fleet) together() {
	f.t.Helper()
	proctest.Until(f.t, patience, "all nodes to see the same cluster", func() bool {
		view := -1.0
		for _, name := range f.names {
			m := f.metrics(name)
			if m.Sum("tidemill_cluster_members") != float64(len(f.names)) {
				return false
			}
			v := m.Sum("tidemill_cluster_view")
			if view >= 0 && v != view {
				return false
			}
			view = v
		}
		return true
	})
}

// testSeven: the same job on the same full topic ends in the same bits in one process and in
// seven, whatever the number of workers, and all parameter servers and workers had their part
// in it. What is left of them after a crash ends in the same bits too.
func testSeven(t *testing.T, bin *proctest.Binary) {
	most := 5000
	if full("TIDEMILL_TEST_ROWS", "all") {
		most = everything
	}
	file, rows := powerRows(t, 0, most)
	want := reference(t, bin, file)
	f := newFleet(t, bin)
	f.startSeven(1)
	for _, topic := range topics {
		f.produce(topic.name, file, topic.partitions)
	}
	check := func(st trainer.JobStatus, digest string) {
		t.Helper()
		if st.Examples != int64(rows) || st.SnapshotExamples != int64(rows) || st.Progress.Examples != int64(rows) {
			t.Errorf("job %s: %d examples, %d in the snapshot, %d judged; there are %d rows", st.Job, st.Examples, st.SnapshotExamples, st.Progress.Examples, rows)
		}
		if digest != "" && st.Digest != digest {
			t.Errorf("job %s: digest %s of %d examples, loss %v; in one process %s", st.Job, st.Digest, st.Examples, st.Progress.Loss, digest)
		}
	}
	// run runs a job, sees that all workers and parameter servers take part, and checks how
	// it ended.
	run := func(topic string, partitions, workers int, digest string, edits ...string) {
		t.Helper()
		name := fmt.Sprintf("%s-%d-%d", topic, workers, len(edits))
		before := time.Now()
		stop := f.watchShards(name, "ps1", "ps2")
		f.submit(name, topic, true, edits...)
		st := f.finished(name)
		owned := stop()
		if len(owned) != 2 || owned["ps1"] < 16 || owned["ps2"] < 16 || owned["ps1"]+owned["ps2"] != 64 {
			t.Errorf("job %s: the parameter servers owned %v shards; want 64 in all and no less than 16 each", name, owned)
		}
		batches := map[string]float64{}
		sum := 0.0
		for i := range workers {
			n := f.metrics(worker(i)).Sum("tidemill_worker_batches_total", fmt.Sprintf("job=%q", name))
			batches[worker(i)] = n
			sum += n
			if n == 0 && partitions >= workers {
				t.Errorf("job %s: %s trained nothing", name, worker(i))
			}
		}
		if sum != float64(rows) { // one row a batch
			t.Errorf("job %s: the workers trained %v batches of one row each; there are %d rows", name, batches, rows)
		}
		check(st, digest)
		t.Logf("%s: %d partitions, %d workers: digest %s of %d examples, loss %.4f; shards %v, batches %v; %v",
			name, partitions, workers, st.Digest, st.Examples, st.Progress.Loss, owned, batches, time.Since(before).Round(time.Millisecond))
	}
	for workers := 1; workers <= 3; workers++ {
		if workers > 1 {
			f.start(worker(workers-1), "worker")
			f.together()
		}
		for _, topic := range topics {
			run(topic.name, topic.partitions, workers, want[topic.name].Digest)
		}
		if workers == 2 {
			run("four", 4, workers, "", "staleness: 0", "staleness: -1")
		}
	}
	for _, victim := range []string{"worker1", "ps2", "trainer"} {
		name := "kill-" + victim
		f.submit(name, "four", true)
		f.trained(name, rows/5)
		f.nodes[victim].Kill()
		before := time.Now()
		if victim == "trainer" {
			f.start(victim, f.nodes[victim].roles...) // there is no other
		}
		st := f.finished(name)
		check(st, want["four"].Digest)
		t.Logf("%s: killed after a fifth of the rows: digest %s of %d examples, generation %d, done %v after the kill",
			name, st.Digest, st.Examples, st.Generation, time.Since(before).Round(time.Millisecond))
		if victim != "trainer" {
			f.start(victim, f.nodes[victim].roles...)
		}
		f.together()
	}
	f.stop()
}

// stop asks all nodes to stop, the one with the stream last, and sees that they do so in order.
func (f *fleet) stop() {
	f.t.Helper()
	for _, name := range slices.Backward(f.names) {
		f.nodes[name].Stop(patience)
	}
}
