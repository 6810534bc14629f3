package sim

import "github.com/tidemill/tidemill/trainer"

// rests asks a leading core for its last cut. It reports whether that is still to come, and then
// calls again later.
func (t *trainerNode) rests(s *session, again func()) bool {
	if t.core == nil || t.n.pausedUntil > t.w.now {
		return false
	}
	t.step(&trainer.Event{Kind: trainer.Rest})
	if t.core == nil || t.core.Rested() {
		return false
	}
	t.w.on(t.n, t.n.incarnation, leaseRenew/3, func() {
		if t.n.session == s {
			again()
		}
	})
	return true
}
