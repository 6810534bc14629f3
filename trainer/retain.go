package trainer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
)

// This file is about which logs the job reads: those of its topic, which the gate judges on, and
// others, whose rows are trained and not judged on.

// errGrown: a snapshot has partitions of the topic that the gate does not know of.
var errGrown = errors.New("the topic has more partitions")

// putBack puts what follows a failed item of the queue in front again if validation begins anew
// because of it.
func (v *validator) putBack(err error, rest []func(ctx context.Context) error) {
	if !errors.Is(err, errGrown) || len(rest) == 0 {
		return
	}
	v.mu.Lock()
	v.queue = append(rest[:len(rest):len(rest)], v.queue...)
	v.mu.Unlock()
}

// judged returns how many partitions of its topic the job reads.
func (r *run) judged() int {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	n := max(len(r.asg.Cut), len(r.asg.Origins))
	topic := r.spec.Stream.Topic
	return max(len(make(tidemill.Cut, n).OfTopic(topic, topic, r.asg.Origins)), 1)
}

// judged returns a version's cut by the partitions of the topic that are judged on.
func (v *validator) judged(files *snapshot.VersionFiles) tidemill.Cut {
	topic := v.r.spec.Stream.Topic
	return v.pad(files.Version.Cut.OfTopic(topic, topic, files.Version.Origins))
}

// pad makes cut as long as there are partitions that are judged on. What a cut does not name,
// the model has not seen; what is not read any more, nobody asks about.
func (v *validator) pad(cut tidemill.Cut) tidemill.Cut {
	out := make(tidemill.Cut, v.parts)
	copy(out, cut)
	return out
}

// retain tells the streams which rows are still needed: those after the newest cut, to be
// trained, those that a candidate is yet to be scored on (oldest, by the topic's partitions),
// and those that are to be put into the dead-letter topic.
func (v *validator) retain(ctx context.Context, oldest tidemill.Cut) {
	if time.Since(v.retained) < time.Second {
		return
	}
	v.retained = time.Now()
	own := v.r.spec.Stream.Topic
	all := v.all.Clone()
	v.r.dead.needs(all)
	for topic := range v.r.topics() {
		cut := all.OfTopic(topic, own, v.r.origins())
		for p := range cut {
			if topic == own && p < len(oldest) {
				cut[p] = min(cut[p], oldest[p])
			}
		}
		if err := v.r.hold(ctx, topic, cut); err != nil && ctx.Err() == nil {
			v.log.Warn("the stream was not told which rows are needed", "topic", topic, "err", err)
		}
	}
}

// release tells the streams that the job needs nothing any more.
func (r *run) release(ctx context.Context) {
	for topic := range r.topics() {
		if err := r.hold(ctx, topic, nil); err != nil && ctx.Err() == nil {
			r.log.Warn("the stream was not told that no rows are needed", "topic", topic, "err", err)
		}
	}
}

func (r *run) hold(ctx context.Context, topic string, cut tidemill.Cut) error {
	t, err := source.OpenLog(ctx, r.t.cfg.Source, &r.spec.Stream, topic)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.Retain(ctx, r.job, cut)
}

// topics returns the topics that the job reads.
func (r *run) topics() map[string]bool {
	out := map[string]bool{r.spec.Stream.Topic: true}
	for _, o := range r.origins() {
		if o.Topic != "" {
			out[o.Topic] = true
		}
	}
	return out
}

// origins returns Assignment.Origins as last written. It must not be changed.
func (r *run) origins() []tidemill.Origin {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return r.asg.Origins
}

// watchTopic adds partitions that the topic gets to the job, until ctx ends. A bounded job reads
// what was there when it was submitted.
func (r *run) watchTopic(ctx context.Context) {
	if r.spec.Train.End != nil {
		return
	}
	wait := time.Second
	for {
		sleep(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		origins, err := r.joining(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("the topic cannot be asked for its partitions", "err", err)
			}
			continue
		}
		if len(origins) > 0 {
			r.log.Info("partitions were added to the topic", "topic", r.spec.Stream.Topic, "partitions", len(origins))
			r.post(Event{Kind: Grow, Origins: origins})
		}
		// To ask costs a little for each partition.
		wait = max(time.Second, time.Duration(r.judged())*50*time.Millisecond)
	}
}

// joining returns the partitions of the topic that the job does not read yet.
func (r *run) joining(ctx context.Context) ([]tidemill.Origin, error) {
	topic, err := source.OpenSpec(ctx, r.t.cfg.Source, &r.spec.Stream)
	if err != nil {
		return nil, err
	}
	defer topic.Close()
	info, err := topic.Info(ctx)
	if err != nil {
		return nil, err
	}
	r.t.mu.Lock()
	identity := r.asg.Identity
	r.t.mu.Unlock()
	if info.Identity != identity {
		return nil, fmt.Errorf("topic %q was made again: %w", info.Name, tidemill.ErrInvalid)
	}
	var out []tidemill.Origin
	for p := r.judged(); p < info.Partitions; p++ {
		out = append(out, tidemill.Origin{Topic: r.spec.Stream.Topic, Partition: p, First: info.First[p]})
	}
	return out, nil
}
