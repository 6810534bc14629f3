package trainer

import (
	"maps"
	"slices"
	"testing"

	"github.com/tidemill/tidemill"
)

const (
	fast = "native/x/go1/fast"
	slow = "native/x/go1/slow"
	next = "native/x/go2/fast"
)

// profileCore steps a core and answers for records and the store.
type profileCore struct {
	*Core
	t      *testing.T
	fences int64
}

func newProfileCore(t *testing.T, staleness int) *profileCore {
	p := &profileCore{Core: NewCore(CoreConfig{Staleness: staleness, Batch: 1, Partitions: 2, Shards: 4}), t: t}
	p.step(&Event{Kind: Lead, Assignment: tidemill.Assignment{Job: "j", Cut: tidemill.Cut{0, 0}}})
	return p
}

func (p *profileCore) step(ev *Event) {
	p.t.Helper()
	for _, e := range slices.Clone(p.Step(ev)) {
		switch e.Kind {
		case AppendFence:
			p.fences++
			p.step(&Event{Kind: Recovered, Number: p.fences + 1, Assignment: tidemill.Assignment{Cut: tidemill.Cut{0, 0}, Generation: uint64(p.fences)}})
		case WriteAssignment:
			p.step(&Event{Kind: Assigned, Assignment: e.Assignment})
		}
	}
}

// members are nodes that are worker and ps, by what they offer.
func (p *profileCore) members(offers map[string][]string) {
	p.t.Helper()
	ev := &Event{Kind: Members, Workers: map[string]int{}, Profiles: maps.Clone(offers)}
	for m := range offers {
		ev.Workers[m] = 1
		ev.PS = append(ev.PS, m)
	}
	p.step(ev)
}

func (p *profileCore) check(what, profile string, owners ...string) {
	p.t.Helper()
	a := p.Assignment()
	if a.Profile != profile {
		p.t.Errorf("%s: profile %q, want %q", what, a.Profile, profile)
	}
	for _, list := range [][]tidemill.Owner{a.Partitions, a.Shards} {
		for _, o := range list {
			if !slices.Contains(owners, o.Member) {
				p.t.Errorf("%s: %q owns something, who does not offer %s", what, o.Member, profile)
			}
		}
	}
}

func TestProfileIsPinned(t *testing.T) {
	p := newProfileCore(t, 0)
	p.members(map[string][]string{"a": {fast, slow}})
	p.check("one node", fast, "a")
	generation := p.Assignment().Generation
	p.members(map[string][]string{"a": {fast, slow}, "b": {slow}})
	p.check("a slower one joins", fast, "a")
	p.members(map[string][]string{"a": {fast, slow}, "c": {next}})
	p.check("one of another version joins", fast, "a")
	if g := p.Assignment().Generation; g != generation {
		t.Errorf("who is not eligible raised the generation from %d to %d", generation, g)
	}
	// The last that offers it goes: the job goes back to its cut, and on with what there is.
	p.members(map[string][]string{"b": {slow}, "c": {next}})
	if a := p.Assignment(); a.Generation == generation || a.Profile != slow && a.Profile != next {
		t.Errorf("after the last one left: generation %d, profile %q", a.Generation, a.Profile)
	}
	pinned := p.Assignment().Profile
	generation = p.Assignment().Generation
	p.members(map[string][]string{"b": {slow}, "c": {next}, "a": {fast, slow}})
	p.check("the first one is back", pinned, "a", "b", "c")
	if g := p.Assignment().Generation; g != generation {
		t.Errorf("its return raised the generation from %d to %d", generation, g)
	}
	// Nobody at all: the profile stays.
	p.members(nil)
	if got := p.Assignment().Profile; got != pinned {
		t.Errorf("with nobody there it became %q", got)
	}
	p.members(map[string][]string{"a": {fast, slow}, "b": {slow}, "c": {next}})
	p.check("all are back", pinned, "a", "b", "c")
}

func TestProfileMostWorkersOffer(t *testing.T) {
	p := newProfileCore(t, 0)
	// A job that nobody can work for yet: who comes is not pinned by half.
	p.step(&Event{Kind: Members, Workers: map[string]int{"a": 1}, Profiles: map[string][]string{"a": {fast, slow}}})
	p.members(map[string][]string{"a": {fast, slow}, "b": {slow}, "c": {fast, slow}})
	p.check("three", slow, "a", "b", "c")
}

func TestProfileOfWhoDoesNotSay(t *testing.T) {
	p := newProfileCore(t, 0)
	p.members(map[string][]string{"a": nil, "b": {fast}})
	p.check("one does not say", fast, "a", "b")
	p.members(map[string][]string{"a": nil})
	p.check("it is alone", fast, "a")
}

func TestProfileIsFreeWithStaleness(t *testing.T) {
	p := newProfileCore(t, 2)
	p.members(map[string][]string{"a": {fast}, "b": {slow}, "c": {next}})
	p.check("staleness 2", "", "a", "b", "c")
}
