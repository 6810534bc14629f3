package trainer

import (
	"context"
	"errors"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/source"
)

// BadStatus is what became of the rows that a job put aside.
type BadStatus struct {
	Counts map[string]int64   `json:"counts,omitempty"` // by cause
	Max    tidemill.BadBudget `json:"max"`              // the budget: the spec's, or an operator's
	// Accepted rows do not count against the budget: an operator resumed the job knowing them.
	Accepted int64 `json:"accepted,omitempty"`
	// Topic is the dead-letter topic, which holds Letters of all lineages of the job; "" as long as
	// there is none.
	Topic   string `json:"topic,omitempty"`
	Letters int64  `json:"letters"`
	// Waiting rows are listed in a manifest and not in the topic yet; Trouble says what is in
	// the way, if anything is.
	Waiting int    `json:"waiting,omitempty"`
	Trouble string `json:"trouble,omitempty"`
}

// badStatus fills in st.Bad but for the counts. A stream that cannot be asked is a trouble to
// show, not a reason to show nothing.
func (t *Trainer) badStatus(ctx context.Context, st *JobStatus, a *tidemill.Assignment) {
	b := &st.Bad
	b.Max, b.Accepted = a.Spec.Train.MaxBadRows, a.Pardon.Bad
	if !a.Pardon.MaxBadRows.IsZero() {
		b.Max = a.Pardon.MaxBadRows
	}
	if r, err := t.run(a.Job); err == nil {
		b.Waiting, b.Trouble = r.dead.waiting()
	}
	if st.BadRows == 0 {
		return
	}
	info, err := t.lettersInfo(ctx, a.Job)
	switch {
	case err == nil:
		b.Topic, b.Letters = info.Name, info.Next.Rows()
	case !errors.Is(err, tidemill.ErrNotFound):
		b.Trouble = err.Error()
	}
}

// lettersInfo describes a job's dead-letter topic; tidemill.ErrNotFound: there is none yet.
func (t *Trainer) lettersInfo(ctx context.Context, job string) (source.Info, error) {
	topic, err := t.cfg.Source.Open(ctx, deadletter.Topic(job))
	if err != nil {
		return source.Info{}, err
	}
	defer topic.Close()
	return topic.Info(ctx)
}
