package snapshot

import (
	"slices"

	"github.com/tidemill/tidemill"
)

// Schedule says which batches made up which rounds, as runs of rounds that look alike: a
// version can be trained again from it, bit for bit. Rounds without any batch are in no run.
type Schedule []Run

// Run is Rounds consecutive rounds, the first being Round, with one batch of each of the same
// partitions in every one.
type Run struct {
	Round  int64  `json:"round"`
	Rounds int64  `json:"rounds"`
	Steps  []Step `json:"steps"` // by ascending partition
}

// Step is what one partition gave to a run: Rounds contiguous batches of Rows rows each (the
// number of rows read, bad ones included), from offset First up to and without Next.
type Step struct {
	Partition int   `json:"partition"`
	First     int64 `json:"first"`
	Next      int64 `json:"next"`
	Rows      int64 `json:"rows"` // of each batch
}

// Append adds the batches of one round, which must be later than all in s; steps are sorted
// by partition. A round that continues the last run lengthens it. s is changed in place where
// it can be; like the built-in append it returns the result.
func (s Schedule) Append(round int64, steps []Step) Schedule {
	if len(steps) == 0 {
		return s
	}
	if len(s) > 0 {
		if r := &s[len(s)-1]; r.continues(round, steps) {
			r.Rounds++
			for i, step := range steps {
				r.Steps[i].Next = step.Next
			}
			return s
		}
	}
	return append(s, Run{Round: round, Rounds: 1, Steps: slices.Clone(steps)})
}

// continues reports whether steps of round are one more of the same.
func (r *Run) continues(round int64, steps []Step) bool {
	if round != r.Round+r.Rounds || len(steps) != len(r.Steps) {
		return false
	}
	for i, step := range steps {
		if was := r.Steps[i]; step.Partition != was.Partition || step.First != was.Next || step.Rows != was.Rows {
			return false
		}
	}
	return true
}

// Validate reports the first thing that makes a schedule impossible; it wraps
// tidemill.ErrInvalid.
func (s Schedule) Validate() error {
	var next int64
	for i, r := range s {
		if r.Rounds < 1 || r.Round < next || len(r.Steps) == 0 || r.Round > 1<<62 || r.Rounds > 1<<62-r.Round {
			return tidemill.Invalid("run %d of the schedule has %d rounds from %d on and %d steps", "runs are ascending and not empty", i, r.Rounds, r.Round, len(r.Steps))
		}
		next = r.Round + r.Rounds
		for k, step := range r.Steps {
			if step.Partition < 0 || k > 0 && step.Partition <= r.Steps[k-1].Partition ||
				step.First < 0 || step.Next <= step.First || step.Rows < 1 {
				return tidemill.Invalid("run %d of the schedule takes %d rows a round of partition %d in [%d,%d)", "partitions are ascending, ranges and batches not empty",
					i, step.Rows, step.Partition, step.First, step.Next)
			}
		}
	}
	return nil
}
