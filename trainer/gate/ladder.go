package gate

import (
	"fmt"
	"math"
	"strings"

	"github.com/tidemill/tidemill"
)

// Names and statuses of checks, as they stand in evidence.
const (
	CheckIntegrity = "integrity" // every file matches its checksum
	CheckFinite    = "finite"    // no NaN or Inf among the values
	CheckLoads     = "loads"     // loads and answers the probe rows
	CheckParity    = "parity"    // answers them as the trainer did
	CheckRows      = "fresh_rows"
	CheckPrior     = "beats_prior"
	CheckChampion  = "vs_champion"
	CheckAnchor    = "vs_anchor"

	Passed  = "passed"
	Failed  = "failed"
	Missing = "missing"
	Skipped = "skipped"
)

// ParityTolerance is the largest difference allowed between a prediction of the trainer and
// the same prediction of the version as it is served, relative to max(1, |prediction|).
const ParityTolerance = 1e-5

// Finding is the outcome of one mechanical check. The zero value means it was not made.
type Finding struct {
	Made    bool
	Problem string // empty: all is well; else what is wrong, one clause
}

// well is the Finding of a check that passed.
var well = Finding{Made: true}

// FindingOf is a check that was made: passed if err is nil.
func FindingOf(err error) Finding {
	if err == nil {
		return well
	}
	return Finding{Made: true, Problem: err.Error()}
}

// Mechanics is what is known of a candidate's files before any statistics: the checks that no
// mode and no hand skips.
type Mechanics struct {
	Integrity Finding
	Finite    Finding
	Loads     Finding
	// Parity over ParityRows probe predictions; ParityDiff is the largest difference found,
	// relative to max(1, |prediction|). Zero rows: not made.
	ParityRows int
	ParityDiff float64
}

// Rival is what a candidate is compared with on its fresh rows: a version, or the prior.
type Rival struct {
	Version int64   // 0 for the prior
	Loss    float64 // mean over the rows where it is finite
	Test    *Test   // nil: there is no such rival
}

// Facts is everything Decide looks at.
type Facts struct {
	Mechanics
	// Rows is the number of fresh rows: beyond the cuts of both sides, scored by all.
	Rows int64
	// Loss is the candidate's mean loss over those rows where it is finite.
	Loss float64
	// Prior predicts a constant: the positive rate, the mean or the class shares seen in
	// training. Its test has margin 0.
	Prior Rival
	// Champion.Test is nil when nothing serves yet. Anchor.Test is nil when nothing serves
	// yet or when the anchor is the champion.
	Champion Rival
	Anchor   Rival
	// Superior is the anchor (the champion if that is the anchor) once more, with margin 0: a
	// version proven better than it becomes the next anchor. It decides nothing here.
	Superior *Test
}

// Decide says what becomes of a candidate: Published, Rejected with why, or Held with what is
// missing, which is also the answer while evidence is still being gathered. The checks are in
// the ladder's order. It depends on its arguments alone.
//
// Beating the prior has to be proven by the test, not only seen in the mean: a first model
// with something to say is proven well within 1000 rows, and the first version has no other
// judge. With prove: harm the mean has to be below the prior's.
func Decide(spec tidemill.GateSpec, f Facts) (decision, reason string, checks []tidemill.Check) {
	spec = withDefaults(spec)
	checks = []tidemill.Check{
		finding(CheckIntegrity, "every file matches its checksum", f.Integrity),
		finding(CheckFinite, "all values are finite", f.Finite),
		finding(CheckLoads, "loads and answers", f.Loads),
		f.parity(),
	}
	if spec.Mode == tidemill.GateOff {
		checks = append(checks, tidemill.Check{Name: CheckRows, Status: Skipped, Detail: "gate.mode is off"})
	} else {
		checks = append(checks, f.rows(spec), f.compare(spec, CheckPrior, f.Prior),
			f.compare(spec, CheckChampion, f.Champion), f.compare(spec, CheckAnchor, f.Anchor))
	}
	decision, at := f.verdict(spec)
	return decision, reasonOf(spec, f, decision, at, checks), checks
}

// verdict is Decide without its words, cheap enough for every row. at is the check that the
// verdict rests on, "" for a publish, or undecided.
func (f *Facts) verdict(spec tidemill.GateSpec) (decision, at string) {
	missing := ""
	for _, c := range []struct {
		name string
		f    Finding
	}{{CheckIntegrity, f.Integrity}, {CheckFinite, f.Finite}, {CheckLoads, f.Loads}} {
		if c.f.Made && c.f.Problem != "" {
			return tidemill.Rejected, c.name
		}
		if !c.f.Made && missing == "" {
			missing = c.name
		}
	}
	if f.ParityRows > 0 && !(f.ParityDiff <= ParityTolerance) {
		return tidemill.Rejected, CheckParity
	}
	if f.ParityRows <= 0 && missing == "" {
		missing = CheckParity
	}
	if missing != "" {
		return tidemill.Held, missing
	}
	if spec.Mode == tidemill.GateOff {
		return tidemill.Published, ""
	}
	if f.Rows < spec.MinExamples || f.Rows == 0 {
		return tidemill.Held, CheckRows
	}
	open := ""
	for _, c := range []struct {
		name string
		r    *Rival
	}{{CheckPrior, &f.Prior}, {CheckChampion, &f.Champion}, {CheckAnchor, &f.Anchor}} {
		switch f.status(spec, c.name, c.r) {
		case Failed:
			return tidemill.Rejected, c.name
		case Missing:
			if open == "" {
				open = c.name
			}
		}
	}
	switch {
	case open == "":
		return tidemill.Published, ""
	case spec.MaxExamples > 0 && f.Rows >= spec.MaxExamples:
		return tidemill.Rejected, undecided
	}
	return tidemill.Held, open
}

// undecided marks a rejection for want of proof after MaxExamples rows.
const undecided = "undecided"

func (f *Facts) status(spec tidemill.GateSpec, name string, r *Rival) string {
	switch {
	case r.Test == nil && name == CheckPrior:
		return Missing
	case r.Test == nil:
		return Skipped
	case r.Test.Harmful():
		return Failed
	case spec.Prove == tidemill.ProveHarm:
		if r.Test.N() == 0 || name == CheckPrior && !(f.Loss < r.Loss) {
			return Missing
		}
		return Passed
	case r.Test.Crossed():
		return Passed
	}
	return Missing
}

func finding(name, good string, f Finding) tidemill.Check {
	switch {
	case !f.Made:
		return tidemill.Check{Name: name, Status: Missing, Detail: "not checked yet"}
	case f.Problem != "":
		return tidemill.Check{Name: name, Status: Failed, Detail: f.Problem}
	}
	return tidemill.Check{Name: name, Status: Passed, Detail: good}
}

func (f *Facts) parity() tidemill.Check {
	c := tidemill.Check{Name: CheckParity}
	if f.ParityRows <= 0 {
		c.Status, c.Detail = Missing, "no probe rows were compared"
		return c
	}
	c.Values = map[string]float64{"rows": float64(f.ParityRows), "tolerance": ParityTolerance}
	if finite(f.ParityDiff) {
		c.Values["max_difference"] = f.ParityDiff
	}
	if f.ParityDiff <= ParityTolerance {
		c.Status = Passed
		c.Detail = fmt.Sprintf("%d probe rows answered as in training (largest difference %.2g)", f.ParityRows, f.ParityDiff)
	} else {
		c.Status = Failed
		c.Detail = fmt.Sprintf("served predictions differ from the trainer's by %.2g on %d probe rows, more than %.0e", f.ParityDiff, f.ParityRows, ParityTolerance)
	}
	return c
}

func (f *Facts) rows(spec tidemill.GateSpec) tidemill.Check {
	c := tidemill.Check{Name: CheckRows, Status: Passed, Values: map[string]float64{
		"rows": float64(f.Rows), "min_examples": float64(spec.MinExamples), "max_examples": float64(spec.MaxExamples),
	}}
	c.Detail = fmt.Sprintf("%d fresh rows, of at least %d", f.Rows, spec.MinExamples)
	if f.Rows < spec.MinExamples || f.Rows == 0 {
		c.Status = Missing
	}
	return c
}

func (f *Facts) compare(spec tidemill.GateSpec, name string, r Rival) tidemill.Check {
	c := tidemill.Check{Name: name, Status: f.status(spec, name, &r)}
	if r.Test == nil {
		switch {
		case name == CheckPrior:
			c.Detail = "no row was scored against the prior"
		case name == CheckAnchor && f.Champion.Test != nil:
			c.Detail = "the champion is the anchor"
		default:
			c.Detail = "nothing serves yet"
		}
		return c
	}
	t := r.Test
	c.Values = map[string]float64{
		"rows": float64(t.N()), "loss": f.Loss, "rival_loss": r.Loss,
		"mean_difference": t.MeanDifference(), "margin": t.Margin(), "clip": t.Clip(),
		"e_value": t.Wealth(), "e_value_harm": t.Harm(), "e_needed": 1 / spec.Alpha,
		"non_finite": float64(t.NonFinite()),
	}
	for k, v := range c.Values {
		if !finite(v) { // evidence is JSON, which has no such numbers
			delete(c.Values, k)
		}
	}
	if r.Version != 0 {
		c.Values["rival_version"] = float64(r.Version)
	}
	who := fmt.Sprintf("the %s, version %d,", strings.TrimPrefix(name, "vs_"), r.Version)
	if name == CheckPrior {
		who = "a constant prediction"
	}
	figures := fmt.Sprintf("loss %.5g against %.5g on %d rows; clipped at ±%g, margin %g", f.Loss, r.Loss, t.N(), t.Clip(), t.Margin())
	claim := "worse than " + who + " by more than the margin"
	if name == CheckPrior {
		claim = "worse than " + who
	}
	switch {
	case c.Status == Failed:
		c.Detail = fmt.Sprintf("proven %s (%s; e-value of harm %.3g ≥ %.3g)", claim, figures, t.Harm(), 1/spec.Alpha)
	case c.Status == Passed && spec.Prove == tidemill.ProveHarm:
		c.Detail = fmt.Sprintf("not proven %s (%s; e-value of harm %.3g < %.3g)", claim, figures, t.Harm(), 1/spec.Alpha)
	case c.Status == Passed && name == CheckPrior:
		c.Detail = fmt.Sprintf("proven better than %s (%s)", who, figures)
	case c.Status == Passed:
		c.Detail = fmt.Sprintf("proven not %s (%s)", claim, figures)
	case spec.Prove == tidemill.ProveHarm:
		c.Detail = fmt.Sprintf("mean loss is not below that of %s (%s)", who, figures)
	case name == CheckPrior:
		c.Detail = fmt.Sprintf("not proven better than %s yet (%s; e-value %.3g of %.3g)", who, figures, t.Wealth(), 1/spec.Alpha)
	default:
		c.Detail = fmt.Sprintf("not yet proven not %s (%s; e-value %.3g of %.3g)", claim, figures, t.Wealth(), 1/spec.Alpha)
	}
	return c
}

// reasonOf puts a verdict into one sentence.
func reasonOf(spec tidemill.GateSpec, f Facts, decision, at string, checks []tidemill.Check) string {
	detail := func(name string) string {
		for _, c := range checks {
			if c.Name == name {
				return c.Detail
			}
		}
		return ""
	}
	switch {
	case decision == tidemill.Published && spec.Mode == tidemill.GateOff:
		return "unproven: gate is off"
	case decision == tidemill.Published && f.Champion.Test == nil:
		return "first version: " + detail(CheckPrior)
	case decision == tidemill.Published:
		return detail(CheckChampion)
	case at == undecided:
		var open []string
		for _, c := range checks {
			if c.Status == Missing {
				open = append(open, c.Detail)
			}
		}
		return fmt.Sprintf("undecided after %d rows (max_examples): %s", f.Rows, strings.Join(open, "; "))
	case at == CheckRows:
		return fmt.Sprintf("evidence is missing: %d of %d fresh rows", f.Rows, spec.MinExamples)
	case decision == tidemill.Held:
		return "evidence is missing: " + detail(at)
	}
	return detail(at)
}

// withDefaults fills in what a spec read from YAML already has. A margin of 0 is a margin.
func withDefaults(s tidemill.GateSpec) tidemill.GateSpec {
	if !(s.Alpha > 0 && s.Alpha < 1) {
		s.Alpha = 0.01
	}
	if !(s.Clip > 0) {
		s.Clip = 0.5
	}
	if s.MinExamples <= 0 {
		s.MinExamples = 1000
	}
	if s.MaxExamples <= 0 {
		s.MaxExamples = 20 * s.MinExamples
	}
	return s
}

// mean of a sum over n rows; NaN without rows, so that it compares as unknown.
func mean(sum float64, n int64) float64 {
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}
