package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/lease/natskv"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/process"
	"github.com/tidemill/tidemill/trainer"
)

// progress follows a job: its record, and how many examples each ps has applied.
type progress struct {
	f   *fleet
	job string

	mu       sync.Mutex
	asg      tidemill.Assignment // newest
	applied  map[string]int64    // by seat of a ps, as last read
	rows     int64               // most ever seen
	waiters  map[*recovery]bool
	changed  chan struct{} // closed and replaced when asg or rows change
	follower sync.WaitGroup
}

// sampled is how often the parameter servers are asked, and so the resolution of recovery times.
const sampled = 20 * time.Millisecond

// recovery is a fault whose end is waited for: training goes on without those it hit.
type recovery struct {
	since   time.Time
	gone    map[string]bool // members that may own nothing any more
	settled bool            // the record names none of them
	done    chan time.Duration
}

// follow begins to follow; it ends with ctx.
func follow(ctx context.Context, f *fleet, job string) (*progress, error) {
	p := &progress{f: f, job: job, applied: map[string]int64{}, waiters: map[*recovery]bool{}, changed: make(chan struct{})}
	nc, err := broker.Dial(ctx, f.streamURL(), broker.DialConfig{Name: "progress"})
	if err != nil {
		return nil, err
	}
	records, err := natskv.Open(ctx, nc, node.RecordsBucket, natskv.Options{})
	if err != nil {
		nc.Close()
		return nil, err
	}
	entries, err := records.Watch(ctx, trainer.JobPrefix)
	if err != nil {
		records.Close()
		nc.Close()
		return nil, err
	}
	p.follower.Go(func() {
		defer nc.Close()
		defer records.Close()
		for e := range entries {
			var a tidemill.Assignment
			if e.Deleted || e.Key != trainer.JobPrefix+p.job || json.Unmarshal(e.Value, &a) != nil {
				continue
			}
			p.assigned(a)
		}
	})
	for _, s := range f.of(node.RolePS) {
		p.follower.Go(func() { p.sample(ctx, s) })
	}
	return p, nil
}

// wait returns when nothing is followed any more.
func (p *progress) wait() { p.follower.Wait() }

func (p *progress) assigned(a tidemill.Assignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.Seq < p.asg.Seq {
		return
	}
	p.asg = a
	owners := map[string]bool{a.Leader.ID: true}
	for _, o := range a.Partitions {
		owners[o.Member] = true
	}
	for _, o := range a.Shards {
		owners[o.Member] = true
	}
	complete := !owners[""]
	for w := range p.waiters {
		rest := false
		for m := range w.gone {
			rest = rest || owners[m]
		}
		w.settled = complete && !rest
	}
	p.signal()
}

// sample reads how far a ps is.
func (p *progress) sample(ctx context.Context, s *seat) {
	for pause(ctx, sampled) {
		_, info, up := s.process()
		if !up || info.HTTP == "" {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		m, err := process.Scrape(sctx, "http://"+info.HTTP+"/metrics")
		cancel()
		if err == nil {
			p.at(s.name, int64(m.Sum("tidemill_ps_examples", fmt.Sprintf("job=%q", p.job))), time.Now())
		}
	}
}

func (p *progress) at(name string, examples int64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, known := p.applied[name]
	p.applied[name] = examples
	if examples > p.rows {
		p.rows = examples
		p.signal()
	}
	if !known || examples <= was || examples <= p.asg.Examples {
		return // nothing new, or shards came back to where they had been
	}
	for w := range p.waiters {
		if w.settled {
			w.done <- now.Sub(w.since)
			delete(p.waiters, w)
		}
	}
}

// signal wakes whoever waits. mu is held.
func (p *progress) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// members returns the processes of the given seats that own something in the job or lead it.
func (p *progress) members(names ...string) map[string]bool {
	a := p.assignment()
	out := map[string]bool{}
	for _, n := range names {
		for _, id := range ownersOf(&a, n) {
			out[id] = true
		}
		if memberOf(a.Leader.ID, n) {
			out[a.Leader.ID] = true
		}
	}
	return out
}

// memberOf reports whether a member is a process of a seat; its name begins with the seat's.
func memberOf(id, seat string) bool { return strings.HasPrefix(id, seat+"-") }

// ownersOf returns the processes of a seat that own a partition or shard.
func ownersOf(a *tidemill.Assignment, seat string) []string {
	var out []string
	for _, owners := range [][]tidemill.Owner{a.Partitions, a.Shards} {
		for _, o := range owners {
			if memberOf(o.Member, seat) && !slices.Contains(out, o.Member) {
				out = append(out, o.Member)
			}
		}
	}
	return out
}

// after begins to wait for training to go on without the members gone. The channel gets the
// time from since to the first batch applied after the record had named others in their place;
// stop gives up.
func (p *progress) after(since time.Time, gone map[string]bool) (done <-chan time.Duration, stop func()) {
	w := &recovery{since: since, gone: gone, settled: len(gone) == 0, done: make(chan time.Duration, 1)}
	p.mu.Lock()
	p.waiters[w] = true
	if w.settled {
		clear(p.applied) // only what is read from now on counts
	}
	p.mu.Unlock()
	return w.done, func() {
		p.mu.Lock()
		delete(p.waiters, w)
		p.mu.Unlock()
	}
}

// until waits until holds does, which is called with the newest record and the most examples seen.
func (p *progress) until(ctx context.Context, what string, holds func(a tidemill.Assignment, rows int64) bool) error {
	for {
		p.mu.Lock()
		ok, changed := holds(p.asg, p.rows), p.changed
		failed := p.asg.State == tidemill.JobFailed || p.asg.State == tidemill.JobCancelled
		p.mu.Unlock()
		if ok {
			return nil
		}
		if !failed {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
		}
		p.mu.Lock()
		a, rows := p.asg, p.rows
		p.mu.Unlock()
		err := fmt.Errorf("waited for %s; the job is %s (%s) in generation %d, %d examples: %w",
			what, a.State, a.Reason, a.Generation, rows, tidemill.ErrUnavailable)
		return errors.Join(err, ctx.Err())
	}
}

// assignment returns the newest record known.
func (p *progress) assignment() tidemill.Assignment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asg
}
