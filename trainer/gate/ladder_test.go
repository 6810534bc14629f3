package gate

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
)

var sound = Mechanics{Integrity: well, Finite: well, Loads: well, ParityRows: 64}

// fed returns a test that has seen n rows of the two losses.
func fed(n int, margin float64, rival, candidate float32) *Test {
	t := NewTest(0.01, 0.5, margin)
	for range n {
		t.Add(rival, candidate)
	}
	return t
}

func TestDecide(t *testing.T) {
	spec := tidemill.GateSpec{Margin: 0.01, Alpha: 0.01, Clip: 0.5, MinExamples: 1000, MaxExamples: 5000}
	first := Facts{Mechanics: sound, Rows: 2000, Loss: 0.3, Prior: Rival{Loss: 0.6, Test: fed(2000, 0, 0.6, 0.3)}}
	with := func(change func(*Facts)) Facts {
		f := first
		change(&f)
		return f
	}
	rival := func(v int64, loss float32) Rival {
		return Rival{Version: v, Loss: float64(loss), Test: fed(2000, 0.01, loss, 0.3)}
	}
	cases := []struct {
		name   string
		spec   func(*tidemill.GateSpec)
		facts  Facts
		want   string
		reason string
	}{
		{"first version", nil, first, tidemill.Published, "first version: proven better than a constant prediction"},
		{"broken file", nil, with(func(f *Facts) { f.Integrity = FindingOf(errors.New("tensors.arrow: checksum differs")) }), tidemill.Rejected, "tensors.arrow: checksum differs"},
		{"not finite", nil, with(func(f *Facts) { f.Finite.Problem = "3 values are NaN" }), tidemill.Rejected, "3 values are NaN"},
		{"does not load", nil, with(func(f *Facts) { f.Loads.Problem = "panics" }), tidemill.Rejected, "panics"},
		{"no parity", nil, with(func(f *Facts) { f.ParityDiff = 1e-3 }), tidemill.Rejected, "served predictions differ"},
		{"parity not a number", nil, with(func(f *Facts) { f.ParityDiff = math.NaN() }), tidemill.Rejected, "served predictions differ"},
		{"parity not checked", nil, with(func(f *Facts) { f.ParityRows = 0 }), tidemill.Held, "no probe rows"},
		{"integrity not checked", nil, with(func(f *Facts) { f.Integrity = Finding{} }), tidemill.Held, "not checked yet"},
		{"few rows", nil, with(func(f *Facts) { f.Rows = 999 }), tidemill.Held, "999 of 1000 fresh rows"},
		{"as good as the prior", nil, with(func(f *Facts) { f.Prior = Rival{Loss: 0.3, Test: fed(2000, 0, 0.3, 0.3)} }), tidemill.Held, "not proven better than a constant prediction"},
		{"worse than the prior", nil, with(func(f *Facts) { f.Prior = Rival{Loss: 0.2, Test: fed(2000, 0, 0.2, 0.3)} }), tidemill.Rejected, "proven worse than a constant prediction"},
		{"better than the champion", nil, with(func(f *Facts) { f.Champion = rival(3, 0.35) }), tidemill.Published, "proven not worse than the champion, version 3,"},
		{"much worse than the champion", nil, with(func(f *Facts) { f.Champion = rival(3, 0.2) }), tidemill.Rejected, "proven worse than the champion, version 3,"},
		{"creeping", nil, with(func(f *Facts) { f.Champion, f.Anchor = rival(3, 0.35), rival(1, 0.2) }), tidemill.Rejected, "proven worse than the anchor, version 1,"},
		{"not decided", nil, with(func(f *Facts) { f.Champion = Rival{3, 0.3, fed(10, 0.01, 0.3, 0.3)} }), tidemill.Held, "not yet proven not worse"},
		{"never decided", nil, with(func(f *Facts) { f.Rows = 5000; f.Champion = Rival{3, 0.3, fed(10, 0.01, 0.3, 0.3)} }), tidemill.Rejected, "undecided after 5000 rows"},
		{"off", func(s *tidemill.GateSpec) { s.Mode = tidemill.GateOff }, Facts{Mechanics: sound}, tidemill.Published, "unproven: gate is off"},
		{"off, broken", func(s *tidemill.GateSpec) { s.Mode = tidemill.GateOff }, Facts{Mechanics: Mechanics{Integrity: Finding{true, "short"}}}, tidemill.Rejected, "short"},
		{"harm, not harmful", func(s *tidemill.GateSpec) { s.Prove = tidemill.ProveHarm }, with(func(f *Facts) { f.Champion = Rival{3, 0.3, fed(10, 0.01, 0.3, 0.3)} }), tidemill.Published, "not proven worse"},
		{"harm, harmful", func(s *tidemill.GateSpec) { s.Prove = tidemill.ProveHarm }, with(func(f *Facts) { f.Champion = rival(3, 0.2) }), tidemill.Rejected, "proven worse"},
		{"harm, above the prior", func(s *tidemill.GateSpec) { s.Prove = tidemill.ProveHarm }, with(func(f *Facts) { f.Prior = Rival{Loss: 0.3, Test: fed(10, 0, 0.3, 0.3)} }), tidemill.Held, "mean loss is not below"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := spec
			if c.spec != nil {
				c.spec(&s)
			}
			decision, reason, checks := Decide(s, c.facts)
			if decision != c.want || !strings.Contains(reason, c.reason) {
				t.Errorf("Decide: %s, %q; want %s, …%s…", decision, reason, c.want, c.reason)
			}
			if _, err := json.Marshal(checks); err != nil {
				t.Errorf("evidence is not JSON: %v", err)
			}
			if checks[0].Name != CheckIntegrity {
				t.Errorf("first check is %s", checks[0].Name)
			}
		})
	}
}
