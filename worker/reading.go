package worker

import (
	"context"
	"fmt"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// reading is a partition's log as a loop reads it. It outlives the loop when only the owners of
// shards change, so that training stands still for no longer than they need.
type reading struct {
	topic  source.Topic
	cancel context.CancelFunc // of the reader's own context
	rows   *readAhead
}

// close ends the reading; nil reads nothing.
func (r *reading) close() {
	if r == nil {
		return
	}
	if r.rows != nil {
		r.rows.close()
	}
	if r.cancel != nil {
		r.cancel()
	}
	r.topic.Close()
}

// begin makes o.in read from what the core has joined at.
func (o *loop) begin(ctx context.Context) error {
	in, from := o.in, o.core.Next()
	if in.rows != nil {
		if in.rows.at == from {
			return nil // nothing was read beyond what every ps has
		}
		in.rows.close()
		in.cancel()
		in.rows = nil
	}
	info, err := in.topic.Info(ctx)
	if err != nil {
		return err
	}
	if o.origin.Partition >= len(info.Next) {
		return fmt.Errorf("partition %d of topic %q is not known here yet: %w", o.origin.Partition, o.origin.Topic, tidemill.ErrNotReady)
	}
	end := info.Next[o.origin.Partition]
	if from > end {
		return fmt.Errorf("the log of topic %q partition %d ends at %d, before the cut's %d: rows were lost: %w",
			o.origin.Topic, o.origin.Partition, end, from, tidemill.ErrCorrupt)
	}
	// The reader goes on when this loop makes way for another; until it is there ctx ends it.
	rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	reader, err := in.topic.Reader(rctx, o.origin.Partition, from)
	if !stop() && err == nil {
		reader.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return err
	}
	in.cancel = cancel
	in.rows = newReadAhead(rctx, reader, o.m.Plan, o.step, from, end)
	return nil
}
