package gate

import (
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
)

// Roles of a version that has to be scored.
const (
	RoleCandidate = "candidate"
	RoleChampion  = "champion"
	RoleAnchor    = "anchor"
)

// Want says that a version has to be scored on every row from From on, per partition.
type Want struct {
	Version int64
	Role    string
	From    tidemill.Cut
}

// Wants says what has to be scored next: candidates in order of version, then the champion,
// then the anchor if it is another version. It is empty while no candidate is under test.
// The smallest From of a partition is where reading it has to begin.
func (b *Book) Wants() []Want {
	if len(b.candidates) == 0 {
		return nil
	}
	least := make(tidemill.Cut, b.cfg.Partitions)
	for p := range least {
		least[p] = math.MaxInt64
		for _, c := range b.candidates {
			least[p] = min(least[p], b.from(c, p))
		}
	}
	var wants []Want
	want := func(version int64, role string, from func(p int) int64) {
		w := Want{Version: version, Role: role, From: make(tidemill.Cut, b.cfg.Partitions)}
		for p := range w.From {
			w.From[p] = b.win.parts[p].unscoredFrom(version, from(p))
		}
		wants = append(wants, w)
	}
	for _, c := range b.candidates {
		want(c.version, RoleCandidate, func(p int) int64 { return b.from(c, p) })
	}
	if b.champion.Version != 0 {
		want(b.champion.Version, RoleChampion, func(p int) int64 { return least[p] })
	}
	if b.anchor.Version != b.champion.Version {
		want(b.anchor.Version, RoleAnchor, func(p int) int64 { return least[p] })
	}
	return wants
}

// Waiting returns the candidate that waits for a place, if there is one: Wants does not name it
// yet, and will want every row after its cut.
func (b *Book) Waiting() (Serving, bool) {
	if b.waiting == nil {
		return Serving{}, false
	}
	return Serving{Version: b.waiting.version, Cut: b.waiting.cut}, true
}

// Standing is how a candidate under test stands.
type Standing struct {
	Version int64
	Rows    int64  // fresh rows counted so far
	Waiting bool   // for a place: MaxUnderTest others are under test
	Reason  string // what is missing
	Checks  []tidemill.Check
}

// Standings lists the candidates under test in order of version, the waiting one last.
func (b *Book) Standings() []Standing {
	var s []Standing
	for _, c := range b.candidates {
		_, reason, checks := Decide(b.cfg.Gate, c.settled())
		s = append(s, Standing{Version: c.version, Rows: c.facts.Rows, Reason: reason, Checks: checks})
	}
	if c := b.waiting; c != nil {
		_, _, checks := Decide(b.cfg.Gate, c.settled())
		s = append(s, Standing{Version: c.version, Waiting: true, Checks: checks,
			Reason: fmt.Sprintf("%d older candidates are under test", MaxUnderTest)})
	}
	return s
}
