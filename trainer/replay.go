package trainer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
)

// ReplayStatus answers VerbReplayDead: what was found in the dead-letter topic, and what the
// job reads again from now on.
type ReplayStatus struct {
	JobStatus
	Letters   int `json:"letters"`   // of this job that match
	Replayed  int `json:"replayed"`  // given to training by this command
	Before    int `json:"before"`    // given to training before; once is all that a letter gets
	Undecoded int `json:"undecoded"` // still cannot be decoded, or are no longer where they were
	Left      int `json:"left"`      // not looked at since the limit was reached
	// Topic is where the job reads them, as its partition Partition; "" and -1: there is nothing.
	Topic     string `json:"replay_topic,omitempty"`
	Partition int    `json:"replay_partition"`
}

// ReplayDead gives rows of a job's dead-letter topic to training again: those whose cause is
// reason or whose reason contains it ("": all), at most limit ("": all). They are copied to the
// replay topic under a key per letter, which keeps a letter from being trained twice whoever
// repeats the command, and the job reads that topic as a partition of its own.
func (t *Trainer) ReplayDead(ctx context.Context, job, reason, limit string) (out ReplayStatus, err error) {
	out.Partition = -1
	most := 0
	if limit != "" {
		if most, err = strconv.Atoi(limit); err != nil || most < 1 {
			return out, tidemill.Invalid("limit %q", "give a number of rows of at least 1", limit)
		}
	}
	a, err := t.record(ctx, job)
	if err != nil {
		return out, err
	}
	if isTerminal(a.State) {
		return out, tidemill.Invalid("job %q is %s", "start it from its last snapshot with `tidemill submit --from`, then replay", job, a.State)
	}
	r, err := t.run(job)
	if err != nil {
		return out, err
	}
	select {
	case <-r.known:
	case <-r.done:
		return out, fmt.Errorf("job %q has just ended: %w", job, tidemill.ErrNotReady)
	case <-ctx.Done():
		return out, fmt.Errorf("job %q has not begun: %w: %w", job, tidemill.ErrUnavailable, ctx.Err())
	}
	r.replays.Lock()
	defer r.replays.Unlock()
	end, err := r.replay(ctx, &out, reason, most)
	if err != nil {
		return out, err
	}
	if f := t.cfg.Events.Replayed; f != nil && out.Replayed > 0 {
		f(job, out.Replayed)
	}
	if end > 0 {
		if out.Partition, err = r.joined(ctx, out.Topic, end); err != nil {
			return out, err
		}
	}
	out.JobStatus, err = t.Status(ctx, job)
	return out, err
}

// replay copies letters to the replay topic and returns where that ends; 0: there is nothing.
func (r *run) replay(ctx context.Context, out *ReplayStatus, reason string, most int) (end int64, err error) {
	stream := r.t.cfg.Source
	dead, err := openLog(ctx, stream, &r.spec.Stream, tidemill.Origin{Topic: deadletter.Topic(r.job)})
	if errors.Is(err, tidemill.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer dead.close()
	out.Topic = r.replayTopic()
	to, err := openLetters(ctx, stream, out.Topic, r.schema)
	if err != nil {
		return 0, err
	}
	defer to.topic.Close()
	info, err := to.topic.Info(ctx)
	if err != nil {
		return 0, err
	}
	end = info.Next[0]
	for at := dead.info.First[0]; at < dead.info.Next[0]; at++ {
		row, _, err := dead.row(ctx, at)
		if err != nil {
			return end, err
		}
		if row == nil {
			continue
		}
		if most > 0 && out.Replayed == most {
			row.Release()
			out.Left = int(dead.info.Next[0] - at)
			break
		}
		err = r.replayOne(ctx, out, to, row, reason, &end)
		row.Release()
		if err != nil {
			return end, err
		}
	}
	return end, nil
}

// replayOne copies one letter if it is this job's and matches. end is the replay topic's.
func (r *run) replayOne(ctx context.Context, out *ReplayStatus, to *letters, row arrow.RecordBatch, reason string, end *int64) error {
	all, err := deadletter.Read(row)
	if err != nil || len(all) != 1 {
		return err
	}
	l := all[0]
	if !r.ours(l) || reason != "" && l.Cause != reason && !strings.Contains(l.Reason, reason) {
		return nil
	}
	out.Letters++
	if l.Raw != nil || l.Cause == tidemill.BadDecode {
		// Its columns are to be had where it was read, if it can be decoded by now.
		log, err := openLog(ctx, r.t.cfg.Source, &r.spec.Stream, tidemill.Origin{Topic: l.Topic, Partition: l.Partition})
		if err != nil {
			return err
		}
		defer log.close()
		row, _, err = log.row(ctx, l.Offset)
		if err != nil {
			return err
		}
		if row == nil {
			out.Undecoded++
			return nil
		}
		defer row.Release()
		l.Raw = nil
	}
	at, err := to.put(ctx, l, row, source.FormatKey(fmt.Sprintf("%s/%d/%d", l.Lineage, l.Part, l.At), 1))
	if err != nil {
		return err
	}
	if at < *end {
		out.Before++
		return nil
	}
	*end = at + 1
	out.Replayed++
	return nil
}

// ours reports whether a letter's row is neither trained by this lineage nor will be: it was put
// aside by it, or by one that it comes from, before they parted.
func (r *run) ours(l deadletter.Letter) bool {
	if l.Lineage == r.line {
		return true
	}
	for _, line := range r.ancestors() {
		if line.Lineage == l.Lineage && line.Job == r.job && line.Cut.Covers(l.Part, l.At) {
			return true
		}
	}
	return false
}

// ancestors returns the lineages that the job's goes back to, with where each was left.
func (r *run) ancestors() []snapshot.Line {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return r.lines
}

// replayTopic names the topic that the job reads replayed rows from: the one that it reads
// already, also if it was an earlier lineage's, since what is in it is not to be replayed again.
func (r *run) replayTopic() string {
	own := deadletter.ReplayTopic(r.job, "")
	for _, o := range r.origins() {
		if strings.HasPrefix(o.Topic, own) {
			return o.Topic
		}
	}
	return deadletter.ReplayTopic(r.job, r.line)
}

// joined waits until the job reads a replay topic up to end, and returns as which partition.
func (r *run) joined(ctx context.Context, topic string, end int64) (partition int, err error) {
	t, err := r.t.cfg.Source.Open(ctx, topic)
	if err != nil {
		return -1, err
	}
	defer t.Close()
	info, err := t.Info(ctx)
	if err != nil {
		return -1, err
	}
	o := tidemill.Origin{Topic: topic, Identity: info.Identity}
	if r.spec.Train.End != nil {
		o.End = end
	}
	for tries := 0; ; tries++ {
		for p, have := range r.origins() {
			if have.SameLog(o) && have.End >= o.End {
				return p, nil
			}
		}
		select {
		case <-r.done:
			return -1, fmt.Errorf("job %q has just ended, and trains the replayed rows no more: %w", r.job, tidemill.ErrNotReady)
		default:
		}
		if tries%20 == 0 { // a trainer that has just taken over, or a rewind, may forget it
			r.post(Event{Kind: Grow, Origins: []tidemill.Origin{o}})
		}
		sleep(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return -1, fmt.Errorf("the rows are in topic %q, and the job does not read it yet; repeat the command: %w", topic, tidemill.ErrUnavailable)
		}
	}
}
