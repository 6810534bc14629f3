package trainer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// damage turns a fault that a worker reports into the end of the job with advice, when it is
// that a stored snapshot is damaged; it reports whether it did. Looking for an intact one reads
// much, so the queue does it, once.
func (r *run) damage(ctx context.Context, ev *Event) bool {
	if ev.Kind != ReportIn || !strings.Contains(ev.Report.Fault, tidemill.ErrCorrupt.Error()) {
		return false
	}
	if !r.damaged {
		r.damaged = true
		told := *ev
		r.queue(ctx, func(ctx context.Context) {
			told.Report.Fault += "; " + goOnFrom(ctx, r.t.cfg.Bucket, r.job)
			r.reply(told)
		})
	}
	return true
}

// goOnFrom says which snapshot of a job is the newest that is intact, and how to go on from it.
func goOnFrom(ctx context.Context, b *blob.Bucket, job string) string {
	m, _, err := snapshot.NewestIntact(ctx, b, job)
	switch {
	case err == nil:
		return fmt.Sprintf("the newest intact snapshot is %d, with %d examples: go on from it with \"tidemill submit JOB.yaml --from %s/%d\"", m.Number, m.Examples, job, m.Number)
	case errors.Is(err, tidemill.ErrNotFound):
		return "no snapshot is intact: submit the job again without --from, and it trains from the beginning of the stream"
	default:
		return fmt.Sprintf("which snapshot is intact could not be found out: %v", err)
	}
}
