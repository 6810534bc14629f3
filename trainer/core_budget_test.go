package trainer

import (
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// bounded is a core that runs a job of one partition with rows up to end.
func bounded(t *testing.T, end int64, budget tidemill.BadBudget) (c *Core, step func(Event) []Effect) {
	t.Helper()
	c = NewCore(CoreConfig{Batch: 10, Every: 10, Partitions: 1, Shards: 1, End: tidemill.Cut{end}, MaxBadRows: budget})
	step = func(ev Event) []Effect {
		out := append([]Effect(nil), c.Step(&ev)...)
		for _, e := range out {
			if e.Kind == WriteAssignment {
				out = append(out, append([]Effect(nil), c.Step(&Event{Kind: Assigned, Assignment: e.Assignment})...)...)
			}
		}
		return out
	}
	step(Event{Kind: Lead, Assignment: tidemill.Assignment{Job: "j", Cut: tidemill.Cut{0}}})
	step(Event{Kind: Members, Workers: map[string]int{"w": 1}, PS: []string{"p"}})
	step(Event{Kind: Recovered, Number: 1, Assignment: tidemill.Assignment{Cut: tidemill.Cut{0}}})
	a := c.Assignment()
	step(Event{Kind: ReportIn, Report: wire.Report{Generation: 1, Epoch: a.Partitions[0].Epoch, Routes: a.Routes(), Joined: true, Offers: []wire.Offer{{First: 0, Step: 10, Count: end / 10}}}})
	return c, step
}

// cut carries a snapshot that was taken through to its commit.
func cut(t *testing.T, c *Core, step func(Event) []Effect, number, next, bad int64) {
	t.Helper()
	a := c.Assignment()
	step(Event{Kind: ReportIn, Report: wire.Report{Generation: a.Generation, Epoch: a.Partitions[0].Epoch, Routes: a.Routes(), Acked: next, Next: next}})
	step(Event{Kind: Written, Number: number, Member: "p", Written: &wire.Written{}})
	step(Event{Kind: Committed, Number: number, Bad: bad, Read: next, Reason: "too many"})
}

// The budget pauses a job once; what is accepted does not count again, and a new budget counts
// from there. A bounded job that spends it at its end does not end before somebody has looked.
func TestBudget(t *testing.T) {
	c, step := bounded(t, 50, tidemill.BadBudget{Rows: 2})
	state := func(want string) {
		t.Helper()
		if a := c.Assignment(); a.State != want {
			t.Fatalf("the job is %s, want %s: %s, %+v", a.State, want, c, a.Pardon)
		}
	}
	cut(t, c, step, 1, 10, 2)
	state(tidemill.JobRunning)
	cut(t, c, step, 2, 20, 3)
	state(tidemill.JobPaused)
	if a := c.Assignment(); a.Reason != "too many" {
		t.Errorf("paused because: %s", a.Reason)
	}
	step(Event{Kind: Resume})
	state(tidemill.JobRunning)
	if p := c.Assignment().Pardon; p != (tidemill.Pardon{Bad: 3, Read: 20, Resumed: 1}) {
		t.Errorf("accepted: %+v", p)
	}
	cut(t, c, step, 3, 30, 5)
	state(tidemill.JobRunning)
	cut(t, c, step, 4, 40, 6)
	state(tidemill.JobPaused)
	step(Event{Kind: Resume, MaxBadRows: tidemill.BadBudget{Rows: 3}})
	state(tidemill.JobRunning)
	if p := c.Assignment().Pardon; p != (tidemill.Pardon{Bad: 3, Read: 20, Resumed: 2, MaxBadRows: tidemill.BadBudget{Rows: 3}}) {
		t.Errorf("with a budget that is enough nothing more is accepted: %+v", p)
	}
	cut(t, c, step, 5, 50, 7)
	state(tidemill.JobPaused)
	if out := step(Event{Kind: Due}); len(out) > 0 {
		t.Errorf("a paused job at its end does %+v", out)
	}
	step(Event{Kind: Resume})
	cut(t, c, step, 6, 50, 7)
	state(tidemill.JobFinished)
}

// An operator's word that comes before a new trainer knows what there is to accept counts too.
func TestAcceptedBeforeRecovery(t *testing.T) {
	c := NewCore(CoreConfig{Batch: 10, Partitions: 1, Shards: 1, MaxBadRows: tidemill.BadBudget{Rows: 2}})
	c.Step(&Event{Kind: Lead, Assignment: tidemill.Assignment{Job: "j", State: tidemill.JobPaused, Cut: tidemill.Cut{0}}})
	c.Step(&Event{Kind: Resume})
	c.Step(&Event{Kind: Recovered, Number: 5, Assignment: tidemill.Assignment{Snapshot: 3, Cut: tidemill.Cut{50}}, Bad: 7, Read: 50})
	if a := c.Assignment(); a.Pardon.Bad != 7 || a.State != tidemill.JobRunning || !c.within() {
		t.Errorf("%s, accepted: %+v", a.State, a.Pardon)
	}
}

// A trainer that takes over knows what its predecessor's snapshots count and what was accepted.
func TestBudgetAfterTakeover(t *testing.T) {
	c := NewCore(CoreConfig{Batch: 10, Partitions: 1, Shards: 1, MaxBadRows: tidemill.BadBudget{Rows: 2}})
	c.Step(&Event{Kind: Lead, Assignment: tidemill.Assignment{Job: "j", State: tidemill.JobPaused, Cut: tidemill.Cut{0}, Pardon: tidemill.Pardon{Bad: 4}}})
	c.Step(&Event{Kind: Recovered, Number: 5, Assignment: tidemill.Assignment{Snapshot: 3, Cut: tidemill.Cut{50}}, Bad: 7, Read: 50})
	if c.within() {
		t.Error("three rows are within a budget of two")
	}
	c.Step(&Event{Kind: Resume})
	if p := c.Assignment().Pardon; p.Bad != 7 || p.Read != 50 || !c.within() {
		t.Errorf("accepted: %+v", p)
	}
}
