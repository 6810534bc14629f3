package serving

import "github.com/tidemill/tidemill"

// Core decides which version of a model a replica serves: the one that the last champion record
// names, and no other. It is a step function without I/O, clock or goroutine; the simulator and
// the follower of a model use the same one.
type Core struct {
	applied int64 // sequence number of the record that serves
}

// Next takes the last champion record that is no fence (nil: there is none) and returns the
// version to load and serve, or false when nothing changes.
func (c *Core) Next(rec *tidemill.Champion) (version int64, ok bool) {
	if rec == nil || rec.Seq <= c.applied {
		return 0, false
	}
	return rec.Version, true
}

// Live says that the version of rec serves.
func (c *Core) Live(rec *tidemill.Champion) { c.applied = max(c.applied, rec.Seq) }
