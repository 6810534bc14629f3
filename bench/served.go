package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/serving"
	"github.com/tidemill/tidemill/trainer"
)

// servedModel is the model that a served node trains.
const servedModel = "clicks"

// liveEvent is a version that began to answer.
type liveEvent struct {
	version int64
	cut     tidemill.Cut
	at      time.Time
}

// servedNode is one process in all roles with a job over clicks in one partition. What it tells
// is kept.
type servedNode struct {
	n     *node.Node
	topic appender
	over  chan end

	mu      sync.Mutex
	live    []liveEvent         // guarded by mu
	decided []tidemill.Decision // guarded by mu
	changed chan struct{}       // guarded by mu; closed and replaced when live or decided grow
}

// appender is what is needed of a topic.
type appender interface {
	Append(ctx context.Context, partition int, rows arrow.RecordBatch, key string) (tidemill.Range, error)
}

// withServed runs a node in all roles with a job, whose spec change may alter, until f returns.
func withServed(ctx context.Context, dir string, clicks *workload.Clicks, job ClicksJobConfig, change func(*tidemill.Spec), f func(ctx context.Context, s *servedNode) error) error {
	yaml, err := ClicksJob(job)
	if err != nil {
		return err
	}
	doc, err := spec.Parse(yaml, "job")
	if err != nil {
		return err
	}
	doc.Spec.Model = servedModel
	doc.Spec.Gate.Mode = tidemill.GateOff
	change(doc.Spec)
	s := &servedNode{over: make(chan end, 1), changed: make(chan struct{})}
	cfg := node.Config{
		DataDir: dir, Roles: node.AllRoles(), ServePoll: 50 * time.Millisecond,
		Trainer: trainer.Events{
			Decided: func(d tidemill.Decision) { s.note(func() { s.decided = append(s.decided, d) }) },
			State: func(_, state, reason string) {
				select {
				case s.over <- end{state, reason, time.Now()}:
				default:
				}
			},
		},
		Serving: serving.Events{OnLive: func(_ string, version int64, cut tidemill.Cut, at time.Time) {
			s.note(func() { s.live = append(s.live, liveEvent{version, cut, at}) })
		}},
	}
	return withNode(ctx, cfg, func(ctx context.Context, n *node.Node) error {
		topic, err := n.Stream().Create(ctx, doc.Spec.Stream.Topic, 1, clicks.Schema())
		if err != nil {
			return err
		}
		defer topic.Close()
		s.n, s.topic = n, topic
		t := n.Trainer()
		for t == nil || !t.Leads() {
			if !pause(ctx, 5*time.Millisecond) {
				return over(ctx, "no trainer leads")
			}
			t = n.Trainer()
		}
		if _, err := t.SubmitSpec(ctx, doc); err != nil {
			return err
		}
		return f(ctx, s)
	})
}

func (s *servedNode) note(what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what()
	close(s.changed)
	s.changed = make(chan struct{})
}

// events returns what happened so far.
func (s *servedNode) events() ([]liveEvent, []tidemill.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]liveEvent(nil), s.live...), append([]tidemill.Decision(nil), s.decided...)
}

// until waits until a version that holds the rows below offset answers.
func (s *servedNode) until(ctx context.Context, offset int64) error {
	for {
		s.mu.Lock()
		n, changed := len(s.live), s.changed
		there := n > 0 && s.live[n-1].cut.Rows() >= offset
		s.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case e := <-s.over:
			if e.state != tidemill.JobFinished {
				return fmt.Errorf("the job is %s: %s: %w", e.state, e.reason, tidemill.ErrUnavailable)
			}
		case <-ctx.Done():
			return fmt.Errorf("no version with %d rows was served: %w", offset, ctx.Err())
		}
	}
}

// fill appends rows [first, next), n at a time.
func (s *servedNode) fill(ctx context.Context, clicks *workload.Clicks, first, next int64, n int) error {
	for ; first < next; first += int64(n) {
		rec := clicks.Batch(first, int(min(int64(n), next-first)))
		_, err := s.topic.Append(ctx, 0, rec, "")
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// questionRows is n rows of clicks as a client asks about them: without label and time, and with a
// value where the stream has none, as a request carries no nulls.
func questionRows(clicks *workload.Clicks, first int64, n int) arrow.RecordBatch {
	schema := clicks.Schema()
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema(schema.Fields()[2:], nil))
	defer b.Release()
	var row workload.Click
	for i := range int64(n) {
		clicks.Row(first+i, &row)
		for j, v := range row.Numbers {
			b.Field(j).(*array.Int64Builder).Append(max(0, v))
		}
		for j, rank := range row.Ranks {
			b.Field(workload.Numbers + j).(*array.StringBuilder).Append(clicks.Value(j, max(0, rank)))
		}
	}
	return b.NewRecordBatch()
}

// columnsOf are the names of all columns.
func columnsOf(rec arrow.RecordBatch) []string {
	var out []string
	for _, f := range rec.Schema().Fields() {
		out = append(out, f.Name)
	}
	return out
}

// replaceLines replaces whole lines of text by their beginning.
func replaceLines(text string, by map[string]string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		for prefix, line := range by {
			if strings.HasPrefix(l, prefix) {
				lines[i] = line
			}
		}
	}
	return strings.Join(lines, "\n")
}
