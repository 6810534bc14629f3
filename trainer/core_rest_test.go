package trainer

import (
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// A core that rests takes a cut at all that is granted, grants nothing more, and has nothing to
// lose once that is committed.
func TestRest(t *testing.T) {
	c, step := bounded(t, 1000, tidemill.BadBudget{})
	step(Event{Kind: Loaded}) // anything
	if c.Rested() {
		t.Fatal("rests unasked")
	}
	cut(t, c, step, 1, 10, 0) // after which the next batch is granted
	step(Event{Kind: Rest})
	if c.Rested() {
		t.Fatal("rests before its cut is committed")
	}
	a := c.Assignment()
	report := func(next int64) []Effect {
		return step(Event{Kind: ReportIn, Report: wire.Report{Generation: a.Generation, Epoch: a.Partitions[0].Epoch, Routes: a.Routes(), Acked: next, Next: next}})
	}
	report(20)
	step(Event{Kind: Written, Number: 2, Member: "p", Written: &wire.Written{}})
	for _, e := range step(Event{Kind: Committed, Number: 2, Read: 20}) {
		if e.Kind == Grant {
			t.Errorf("granted after the last cut: %+v", e)
		}
	}
	if !c.Rested() || c.Deposed() || c.Over() {
		t.Fatalf("does not rest after its last cut: %s", c)
	}
	for _, e := range report(20) {
		t.Errorf("does something while it rests: %+v", e)
	}
}

// Where no cut can be taken there is nothing to wait for.
func TestRestWithoutWorkers(t *testing.T) {
	c, step := bounded(t, 1000, tidemill.BadBudget{})
	step(Event{Kind: Rest})
	if c.Rested() {
		t.Fatal("rests although the cut can be taken")
	}
	step(Event{Kind: Members, Workers: map[string]int{}, PS: []string{"p"}})
	if !c.Rested() {
		t.Fatal("waits for a worker that is gone")
	}
}
