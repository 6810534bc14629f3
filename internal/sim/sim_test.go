package sim

import (
	"flag"
	"strings"
	"testing"
)

var (
	schedules   = flag.Int("schedules", 20, "simulated schedules per staleness")
	perSchedule = flag.Int("events", 200, "operations per schedule")
	onlySeed    = flag.Uint64("seed", 0, "run this seed alone, with its transcript")
	stale       = flag.Int("staleness", 99, "run at this staleness alone")
)

func TestRandomSchedulesHoldTheInvariants(t *testing.T) {
	for _, staleness := range []int{0, 2, -1} {
		if *stale != 99 && *stale != staleness {
			continue
		}
		var steps, cuts, published, done, layers, collected int
		for seed := uint64(1); seed <= uint64(*schedules); seed++ {
			if *onlySeed != 0 {
				seed = *onlySeed
			}
			c := Random(seed, staleness, *perSchedule)
			var trace func(string, ...any)
			if *onlySeed != 0 {
				trace = t.Logf
			}
			w, err := Check(c, trace)
			if err != nil {
				report(t, c, staleness, err)
			}
			layers, collected = layers+w.checks.layers, collected+w.checks.collected
			steps, cuts, published = steps+w.Steps(), cuts+w.Cuts(), published+len(w.checks.published)
			for _, o := range c.Ops {
				if o.At <= w.now {
					done++
				}
			}
			if *onlySeed != 0 {
				break
			}
		}
		t.Logf("staleness %d: %d operations, %d steps, %d snapshots with %d blobs of older ones, %d objects collected, %d versions published",
			staleness, done, steps, cuts, layers, collected, published)
		if *onlySeed == 0 && (layers == 0 || collected == 0) {
			t.Errorf("staleness %d: no snapshot was built on another, or nothing was collected", staleness)
		}
	}
}

// report tells how to see a failure again, with the shortest schedule found that fails too.
func report(t *testing.T, c Config, staleness int, err error) {
	t.Helper()
	short := Shrink(c, err, 150)
	var ops, told []string
	for _, o := range short.Ops {
		ops = append(ops, o.String())
	}
	_, serr := Check(short, func(format string, args ...any) { told = append(told, sprintf(format, args...)) })
	if len(told) > 60 {
		told = told[len(told)-60:]
	}
	t.Fatalf("staleness %d: %v\nsee it again: go test ./internal/sim -run Random -v -seed %d -staleness %d\n%d of %d operations fail too (%v):\n%s\nthe end of their transcript:\n%s",
		staleness, err, c.Seed, staleness, len(short.Ops), len(c.Ops), serr, strings.Join(ops, "\n"), strings.Join(told, "\n"))
}
