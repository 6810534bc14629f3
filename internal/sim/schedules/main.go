// Command schedules simulates random schedules and reports the first that breaks an invariant:
//
//	go run ./internal/sim/schedules -n 3000
//
// Schedule i has seed i, and goes through staleness 0, 2 and −1. It exits 1 when an invariant is
// broken, after it has told how.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tidemill/tidemill/internal/sim"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

func run(args []string, out io.Writer) int {
	f := flag.NewFlagSet("schedules", flag.ContinueOnError)
	n := f.Uint64("n", 100, "schedules")
	from := f.Uint64("from", 1, "the first seed")
	events := f.Int("events", 200, "operations per schedule")
	stale := f.Int("staleness", 99, "all at this staleness")
	if f.Parse(args) != nil {
		return 2
	}
	var steps, cuts int
	for i := *from; i < *from+*n; i++ {
		c := sim.Schedule(i, *events)
		if *stale != 99 {
			c = sim.Random(i, *stale, *events)
		}
		w, err := sim.Check(c, nil)
		if err != nil {
			fmt.Fprintf(out, "schedule %d, staleness %d: %v\n", i, c.Staleness, err)
			return 1
		}
		steps, cuts = steps+w.Steps(), cuts+w.Cuts()
	}
	fmt.Fprintf(out, "%d schedules of %d operations hold: %d steps, %d snapshots\n", *n, *events, steps, cuts)
	return 0
}
