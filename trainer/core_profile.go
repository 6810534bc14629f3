package trainer

import (
	"maps"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
)

// This file is the part of Core that pins a job's numeric profile: at staleness 0 all who compute
// for it do so with the same bits, and a change is made at a cut only (PROTOCOL 18).

// roster is who is alive, as last heard.
type roster struct {
	workers  map[string]int
	ps       []string
	profiles map[string][]string // what each offers, the fastest first; of none: everything
}

// offers reports whether a member can compute with a profile.
func (r *roster) offers(member, profile string) bool {
	have := r.profiles[member]
	return profile == "" || len(have) == 0 || slices.Contains(have, profile)
}

// eligible keeps of the roster those who can compute with the job's profile.
func (c *Core) eligible() {
	c.workers = maps.Clone(c.all.workers)
	if c.workers == nil {
		c.workers = map[string]int{}
	}
	maps.DeleteFunc(c.workers, func(w string, _ int) bool { return !c.all.offers(w, c.asg.Profile) })
	c.ps = slices.DeleteFunc(slices.Clone(c.all.ps), func(p string) bool { return !c.all.offers(p, c.asg.Profile) })
	slices.Sort(c.ps)
}

// pin chooses the profile of the generation that begins: the one it had, if some worker and some
// ps offer it; else the one that most workers offer, the fastest of these.
func (c *Core) pin() {
	if c.cfg.Staleness != 0 {
		c.asg.Profile = ""
	} else if c.offering(c.asg.Profile) == 0 || c.asg.Profile == "" {
		c.asg.Profile = c.choice()
	}
	c.eligible()
}

// offering returns how many workers offer a profile, 0 when no ps does.
func (c *Core) offering(profile string) int {
	if !slices.ContainsFunc(c.all.ps, func(p string) bool { return c.all.offers(p, profile) }) {
		return 0
	}
	n := 0
	for w := range c.all.workers {
		if c.all.offers(w, profile) {
			n++
		}
	}
	return n
}

// choice returns the profile to begin with; the one pinned when nobody offers another.
func (c *Core) choice() string {
	type candidate struct{ workers, rank int } // rank: how many are faster, at whoever has the most
	all := map[string]candidate{}
	for w := range c.all.workers {
		for rank, p := range c.all.profiles[w] {
			all[p] = candidate{c.offering(p), max(rank, all[p].rank)}
		}
	}
	order := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		x, y := all[a], all[b]
		if x.workers != y.workers {
			return y.workers - x.workers
		}
		if x.rank != y.rank {
			return x.rank - y.rank
		}
		return strings.Compare(a, b)
	})
	if len(order) > 0 && all[order[0]].workers > 0 {
		return order[0]
	}
	return c.asg.Profile
}

// outgrown reports whether nobody is left who computes with the job's profile while others wait
// who do with another one.
func (c *Core) outgrown() bool {
	return c.cfg.Staleness == 0 && c.asg.Profile != "" && c.offering(c.asg.Profile) == 0 && c.choice() != c.asg.Profile
}

// profileOf returns the profile to record with a snapshot: that of the rounds before it.
func profileOf(a *tidemill.Assignment, own string) string {
	if a.Profile == "" {
		return own
	}
	return a.Profile
}
