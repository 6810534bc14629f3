package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/trainer"
)

// The halves that are cut off from the one with the stream.
var cuts = []struct {
	name string
	far  []string
	how  func(n *proctest.Network, far ...string)
	long bool // only in the long form of the tests
}{
	// The job goes on with what is left of the cluster, and takes in the others again.
	{"half", []string{"ps2", "worker2", "serving"}, func(n *proctest.Network, far ...string) { n.Cut(far...) }, false},
	// Nobody leads the job until the network is whole.
	{"half with the trainer", []string{"trainer", "ps2", "worker2", "serving"}, func(n *proctest.Network, far ...string) { n.Cut(far...) }, false},
	// In one direction: they hear everything and nobody hears them, or the other way round.
	{"those who are not heard", []string{"ps2", "worker2"}, func(n *proctest.Network, far ...string) { n.Mute(far...) }, false},
	{"those who do not hear", []string{"ps2", "worker2"}, func(n *proctest.Network, far ...string) { n.Deafen(far...) }, true},
}

// testCut: the network between two halves of seven processes is cut for a while. Each half
// holds its connections open and hears nothing; only one of them reaches the stream. When it
// is whole again they are one cluster, each shard has one owner, and the job ends in the bits
// that it would have ended in.
func testCut(t *testing.T, bin *proctest.Binary, far []string, how func(n *proctest.Network, far ...string)) {
	lasts := 8 * time.Second
	if full("TIDEMILL_TEST_LONG", "1") {
		lasts = 40 * time.Second
	}
	const topic, partitions, job = "power", 4, "power"
	file, rows := powerRows(t, 0, 10000)

	whole := newFleet(t, bin)
	whole.start("stream")
	whole.produce(topic, file, partitions)
	whole.submit(job, topic, true)
	want := whole.finished(job)
	whole.stop()

	f := newFleet(t, bin)
	f.net = proctest.NewNetwork(t)
	f.startSeven(2)
	f.seat = "trainer"
	f.produce(topic, file, partitions)
	f.submit(job, topic, false)
	st := f.trained(job, 500)
	order := func(verb string) trainer.JobStatus {
		t.Helper()
		var st trainer.JobStatus
		if err := f.ask(&st, "job", job, verb, "--server", f.nodes[f.seat].rpc); err != nil {
			t.Fatal(err)
		}
		return st
	}
	how(f.net, far...)
	cut := time.Now()
	over := time.NewTimer(lasts) // the cut's length is what is tested
	defer over.Stop()
	t.Logf("cut for %v at %d examples: %s on one side", lasts, st.Examples, strings.Join(far, ", "))
	for _, name := range far {
		proctest.Until(t, patience, name+" to give up its lease", func() bool {
			return f.metrics(name).Sum("tidemill_lease_losses_total") >= 1
		})
	}
	lost := time.Since(cut)
	for _, name := range f.names {
		if !slices.Contains(far, name) && f.metrics(name).Sum("tidemill_lease_losses_total") > 0 {
			t.Errorf("%s lost its lease, although it reaches the stream", name)
		}
	}
	goesOn := !slices.Contains(far, "trainer")
	if leads := f.metrics("trainer").Sum("tidemill_trainer_leads") == 1; leads != goesOn {
		t.Errorf("in the cut the trainer leads: %v", leads)
	}
	spreads := true // there are rows left to be trained, and so a cut at which shards move
	if goesOn {
		f.trained(job, int(st.Examples)+500)
		st = order("pause")
		spreads = st.Examples < int64(rows)
		t.Logf("the other side went on to %d examples and was told to pause", st.Examples)
	}
	<-over.C
	f.net.Heal()
	healed := time.Now()
	f.together()
	together := time.Since(healed)
	if goesOn {
		order("resume")
	}
	st = f.trained(job, rows)
	trained := time.Since(healed)
	owned := map[string]int{}
	proctest.Until(t, patience, "the record and the parameter servers to agree on who owns 64 shards", func() bool {
		st, err := f.job(job)
		if err != nil {
			return false
		}
		sum, agree := 0, true
		for _, ps := range []string{"ps1", "ps2"} {
			record := 0
			for m, n := range st.Shards {
				if strings.HasPrefix(m, f.nodes[ps].info.ID+"-") {
					record += n
				}
			}
			owned[ps] = int(f.metrics(ps).Sum("tidemill_ps_shards", fmt.Sprintf("job=%q", job)))
			agree = agree && owned[ps] == record && (record > 0 || !spreads)
			sum += owned[ps]
		}
		return agree && sum == 64
	})
	order("finish")
	st = f.finished(job)
	if st.Digest != want.Digest || st.Examples != int64(rows) || st.Progress != want.Progress {
		t.Errorf("digest %s of %d examples, loss %v; without a cut %s of %d, loss %v",
			st.Digest, st.Examples, st.Progress.Loss, want.Digest, want.Examples, want.Progress.Loss)
	}
	t.Logf("leases given up after %v; whole again: one cluster of %d after %v, all %d rows trained after %v, shards %v",
		lost.Round(time.Millisecond), len(f.names), together.Round(time.Millisecond), rows, trained.Round(time.Millisecond), owned)
	t.Logf("digest %s of %d examples, generation %d; uninterrupted %s", st.Digest, st.Examples, st.Generation, want.Digest)
	f.stop()
}
