package worker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

var kinds = map[EffectKind]string{
	SendFence: "fence", SendPull: "pull", SendPush: "push", Joined: "joined", Compute: "compute",
	Acked: "acked", Torn: "torn", Fault: "fault", Over: "over",
}

// say renders effects as a line.
func say(es []Effect) string {
	var out []string
	for _, e := range es {
		s := kinds[e.Kind]
		switch e.Kind {
		case SendFence, SendPull, SendPush:
			s += fmt.Sprintf(" ps%d", e.PS)
			if e.Kind != SendFence {
				s += fmt.Sprintf(" r%d%v", e.Batch.Round, e.Batch.Range)
			}
			if e.Again {
				s += " again"
			}
		case Joined, Acked:
			s += fmt.Sprintf(" %d", e.Next)
		case Compute:
			s += fmt.Sprintf(" %v of %v", e.Batch.Range, e.Batch.Members)
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func run(round, count int64, parts ...tidemill.PartRun) tidemill.Run {
	return tidemill.Run{Round: round, Count: count, Parts: parts}
}

type step struct {
	ev   Event
	want string
}

func play(t *testing.T, c *Core, steps []step) {
	t.Helper()
	for i, s := range steps {
		if got := say(c.Step(&s.ev)); got != s.want {
			t.Fatalf("step %d: got %q, want %q", i, got, s.want)
		}
	}
}

func TestTwoBatchesOverTwoServers(t *testing.T) {
	c := NewCore(CoreConfig{Partition: 1, PS: 2})
	at := wire.Held{Round: 4, Applied: 40}
	other := tidemill.PartRun{Partition: 0, First: 7, Step: 1}
	play(t, c, []step{
		{Event{Kind: Begin}, "fence ps0; fence ps1"},
		{Event{Kind: Fenced, PS: 1, Held: at}, ""},
		{Event{Kind: Fenced, PS: 1, Held: at}, ""}, // doubled
		{Event{Kind: Fenced, PS: 0, Held: at}, "joined 40"},
		{Event{Kind: Granted, Run: run(5, 2, other, tidemill.PartRun{Partition: 1, First: 40, Step: 10})}, "pull ps0 r5[40,50); pull ps1 r5[40,50)"},
		{Event{Kind: Pulled, PS: 0}, ""},
		{Event{Kind: Pulled, PS: 1, Err: tidemill.ErrNotReady}, "pull ps1 r5[40,50) again"},
		{Event{Kind: Pulled, PS: 1}, "compute [40,50) of [0 1]"},
		{Event{Kind: Computed}, "push ps0 r5[40,50); push ps1 r5[40,50)"},
		{Event{Kind: Pushed, PS: 0, Err: tidemill.ErrUnavailable}, "push ps0 r5[40,50) again"},
		{Event{Kind: Pushed, PS: 1}, ""},
		{Event{Kind: Pushed, PS: 0}, "acked 50; pull ps0 r6[50,60); pull ps1 r6[50,60)"},
		{Event{Kind: Pulled, PS: 0, Err: tidemill.ErrFenced}, "over"},
		{Event{Kind: Pulled, PS: 1}, ""},
	})
}

func TestTakeover(t *testing.T) {
	part := tidemill.PartRun{Partition: 0, First: 0, Step: 10}
	for _, c := range []struct {
		name      string
		staleness int
		held      [2]wire.Held
		want      string
	}{
		{"nothing half done", 0, [2]wire.Held{{Round: 3, Applied: 30}, {Round: 3, Applied: 30}}, "joined 30"},
		{"buffered at both", 0, [2]wire.Held{{Round: 3, Applied: 30, Buffered: tidemill.Range{First: 30, Next: 40}}, {Round: 3, Applied: 30, Buffered: tidemill.Range{First: 30, Next: 40}}}, "joined 40"},
		{"buffered at one only: the other still has the same parameters", 0, [2]wire.Held{{Round: 3, Applied: 30, Buffered: tidemill.Range{First: 30, Next: 40}}, {Round: 3, Applied: 30}}, "joined 30"},
		{"one has applied what the other buffers", 0, [2]wire.Held{{Round: 4, Applied: 40}, {Round: 3, Applied: 30, Buffered: tidemill.Range{First: 30, Next: 40}}}, "joined 40"},
		{"one has applied what the other lacks", 0, [2]wire.Held{{Round: 4, Applied: 40}, {Round: 3, Applied: 30}}, "torn"},
		{"the same without rounds is computed anew", 1, [2]wire.Held{{Applied: 40}, {Applied: 30}}, "joined 30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			core := NewCore(CoreConfig{PS: 2, Staleness: c.staleness})
			play(t, core, []step{
				{Event{Kind: Begin}, "fence ps0; fence ps1"},
				{Event{Kind: Fenced, PS: 0, Held: c.held[0]}, ""},
				{Event{Kind: Fenced, PS: 1, Held: c.held[1]}, c.want},
			})
			if !strings.HasPrefix(c.want, "joined") {
				return
			}
			// The trainer repeats its grants from the start; what is held is skipped.
			var next int64
			fmt.Sscanf(c.want, "joined %d", &next)
			es := core.Step(&Event{Kind: Granted, Run: run(1, 6, part)})
			if len(es) != 2 || es[0].Batch.Range.First != next || es[0].Batch.Round != 1+next/10 {
				t.Fatalf("goes on with %q", say(es))
			}
		})
	}
}

func TestALostGrantIsAskedForAgain(t *testing.T) {
	c := NewCore(CoreConfig{PS: 1})
	part := func(first int64) tidemill.PartRun { return tidemill.PartRun{Partition: 0, First: first, Step: 1} }
	play(t, c, []step{
		{Event{Kind: Begin}, "fence ps0"},
		{Event{Kind: Fenced}, "joined 0"},
		{Event{Kind: Granted, Run: run(6, 5, part(5))}, "joined 0"},
		{Event{Kind: Granted, Run: run(1, 5, part(0))}, "pull ps0 r1[0,1)"},
		{Event{Kind: Granted, Run: run(1, 5, part(0))}, ""}, // repeated
		{Event{Kind: Granted, Run: run(4, 7, part(3))}, ""}, // overlaps what is known
		{Event{Kind: Pulled, Err: tidemill.ErrConflict}, "torn"},
	})
}
