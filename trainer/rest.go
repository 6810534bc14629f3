package trainer

import "context"

// Rest takes a cut of every job that this trainer leads and grants nothing after it, so that
// whoever leads next begins where this one stopped. It returns when the snapshots are
// committed, or cannot be, or ctx ends; the caller then ends Run. A trainer that does not lead
// has nothing to do.
func (t *Trainer) Rest(ctx context.Context) {
	for _, r := range t.snapshotRuns() {
		r.post(Event{Kind: Rest})
	}
	for _, r := range t.snapshotRuns() {
		select {
		case <-r.rested:
		case <-r.done:
		case <-ctx.Done():
			r.log.Warn("leaves before its last cut is committed; the work since the cut before is done again")
		}
	}
}
