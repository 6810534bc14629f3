package wire

import (
	"context"

	"github.com/tidemill/tidemill"
)

// Offer is Count batches that a worker can take next: batch k is [First+k·Step, First+(k+1)·Step).
type Offer struct {
	First, Step, Count int64
}

// Report is what a worker tells the trainer about a partition it owns.
type Report struct {
	Generation uint64 `json:"generation"`
	Partition  int    `json:"partition"`
	Epoch      uint64 `json:"epoch"`
	Routes     uint64 `json:"routes"` // the map of shards that the worker acts on
	// Joined: the predecessor is fenced and everything below Next is held by every ps; also
	// said again by an owner that was cut off. Grants from Next on are repeated.
	Joined bool  `json:"joined,omitempty"`
	Next   int64 `json:"next"`
	// Acked: every ps has everything below.
	Acked int64 `json:"acked"`
	// Offers are batches that can be read from the newest offered or granted offset on.
	Offers []Offer `json:"offers,omitempty"`
	// AtEnd: the worker has nothing to offer from End on now.
	AtEnd bool  `json:"at_end,omitempty"`
	End   int64 `json:"end,omitempty"`
	// Torn: some ps have applied what others do not have; only a rewind helps.
	Torn bool `json:"torn,omitempty"`
	// Fault is a failure that trying again will not mend; the job fails with it.
	Fault string `json:"fault,omitempty"`
}

// Grant is what the trainer tells a partition's owner. It answers every Joined report at
// least once, with an empty Run if nothing is granted.
type Grant struct {
	Job        string       `json:"job"`
	Generation uint64       `json:"generation"`
	Partition  int          `json:"partition"`
	Epoch      uint64       `json:"epoch"`
	Routes     uint64       `json:"routes"` // only a worker that acts on the same map takes it
	Run        tidemill.Run `json:"run"`
	// Next: everything of the partition below it is granted, to whomever; offers begin there.
	Next int64 `json:"next"`
}

// Window is how many rows of a partition the trainer grants ahead of what is acknowledged: enough
// small batches for a report and its grant to be back long before they are used up, and not so
// many large ones that a cut, which lies behind all that is granted, is long in coming.
func Window(batch int) int64 { return max(1024, 4*int64(batch), min(16*int64(batch), 16384)) }

// Coordinator is what the leading trainer offers to workers.
type Coordinator interface {
	// Connect opens a link for member. The link ends with ctx, or when the trainer stops
	// leading; its grants arrive in order.
	Connect(ctx context.Context, member string) (Link, error)
}

// Link is a worker's connection to the leading trainer.
type Link interface {
	// Send delivers a report about job, or fails when the link is broken.
	Send(job string, r *Report) error
	// Recv returns the next grant, or an error when the link is broken.
	Recv() (Grant, error)
	Close()
}
