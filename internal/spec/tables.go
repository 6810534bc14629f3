package spec

import (
	"maps"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/quant"
)

// tables checks what a job says of its tables' rows.
func (c *checker) tables() {
	for _, name := range slices.Sorted(maps.Keys(c.s.Tables)) {
		t, path := c.s.Tables[name], "tables."+name
		c.table(path, name)
		if _, ok := quant.Parse(t.Values); !ok {
			c.add(path+".values", suggest(t.Values, quant.Names()), "unknown values %q", t.Values)
		}
		if e := t.Expire; e != (tidemill.Expiry{}) {
			c.atLeast(path+".expire.every", e.Every, 1000)
			c.between(path+".expire.uses", e.Uses, 0, 1<<20)
		}
		a, path := t.Admit, path+".admit"
		switch {
		case a.After != 0 && a.Probability != 0:
			c.add(path, "leave one of them out", "%s has both after and probability", path)
		case a.Probability != 0 && !(a.Probability > 0 && a.Probability < 1):
			c.add(path+".probability", "give a share such as 0.1", "%s.probability must be above 0 and below 1, not %v", path, a.Probability)
		case a.After != 0:
			c.between(path+".after", a.After, 2, 255)
		}
		if a.Counters != 0 && a.After == 0 {
			c.add(path+".counters", "leave it out, or set after", "%s.counters has no meaning without after", path)
		} else if a.Counters != 0 && (a.Counters < 1<<10 || a.Counters > 1<<32) {
			c.add(path+".counters", "", "%s.counters must be %d to %d, not %d", path, 1<<10, 1<<32, a.Counters)
		}
	}
}

// table checks that the architecture has a table; what tables a graph has only its file says.
func (c *checker) table(path, name string) {
	has := tablesOf(c.s.Architecture.Kind)
	if has == nil || slices.Contains(has, name) {
		return
	}
	remedy := "it has " + strings.Join(has, " and ")
	if near := tidemill.Nearest(name, has); near != "" {
		remedy = "did you mean " + near + "?"
	}
	c.add(path, remedy, "kind %s has no table %s", c.s.Architecture.Kind, name)
}
