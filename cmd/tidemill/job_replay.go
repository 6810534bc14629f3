package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// replayFlags say which dead letters job NAME replay-dead takes.
type replayFlags struct {
	reason string
	limit  int
}

func (f *replayFlags) validate(verb string) error {
	if verb != trainer.VerbReplayDead && (f.reason != "" || f.limit != 0) {
		return tidemill.Invalid("--reason or --limit with %s", "they belong to replay-dead", verb)
	}
	if f.limit < 0 {
		return tidemill.Invalid("--limit %d", "give a number of rows, or leave it out for all", f.limit)
	}
	return nil
}

// replayDead gives dead letters to training again and prints what came of it.
func (a *app) replayDead(ctx context.Context, c *cluster, name string, f replayFlags) error {
	with := map[string]string{"reason": f.reason}
	if f.limit > 0 {
		with["limit"] = strconv.Itoa(f.limit)
	}
	var st trainer.ReplayStatus
	if err := c.do(ctx, name, trainer.VerbReplayDead, with, &st); err != nil {
		return err
	}
	return a.result(st, func(w io.Writer) {
		fmt.Fprintf(w, "%s rows are trained again", count(int64(st.Replayed)))
		if st.Partition >= 0 {
			fmt.Fprintf(w, ", read from topic %s as partition %d of the job", st.Topic, st.Partition)
		}
		fmt.Fprintln(w)
		for _, x := range []struct {
			n    int
			what string
		}{{st.Before, "were before"}, {st.Undecoded, "still cannot be decoded"}, {st.Left, "are left, beyond the limit"}} {
			if x.n > 0 {
				fmt.Fprintf(w, "%s %s\n", count(int64(x.n)), x.what)
			}
		}
		if st.State == tidemill.JobPaused {
			fmt.Fprintf(w, "the job is paused; they wait until `tidemill job %s resume`\n", name)
		}
	})
}

// reads says what a partition of a job reads, where that is not the topic's of the same number.
func reads(st trainer.JobStatus, partition int) string {
	if partition >= len(st.Origins) {
		return ""
	}
	switch o := st.Origins[partition]; {
	case o.Topic == "" || o.Topic == st.Topic && o.Partition == partition:
		return ""
	case o.Topic == st.Topic:
		return fmt.Sprintf(" (the topic's %d)", o.Partition)
	default:
		return fmt.Sprintf(" (topic %s)", o.Topic)
	}
}
