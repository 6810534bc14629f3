package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// term is one time of leading. All of it belongs to the goroutine of lead.
//
// A job's record is taken up in this order: read it, have the store confirm the lease, write it
// by compare-and-set at the revision that was read. Whatever a later leader writes comes after
// the confirmation, so this one's write then fails: a predecessor never replaces what its
// successor wrote, whatever its clock says (docs/design/0039).
type term struct {
	t      *Trainer
	ctx    context.Context
	lease  *lease.Session
	seen   map[string]lease.Entry // the newest record of each job
	runs   sync.WaitGroup
	ended  chan *run        // runs that have ended
	reread chan lease.Entry // records that were read again
}

// retake is how long a leader waits before it takes a job up again that it was told is somebody
// else's: the watch has most likely brought the newest record by then.
const retake = 100 * time.Millisecond

// lead runs the jobs until ctx ends.
func (t *Trainer) lead(ctx context.Context, s *lease.Session) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &term{t: t, ctx: ctx, lease: s, seen: map[string]lease.Entry{}, ended: make(chan *run), reread: make(chan lease.Entry)}
	t.log.Info("leads the jobs", "epoch", s.Epoch())
	t.setLeading(true)
	defer func() {
		stop()
		t.setLeading(false)
		l.runs.Wait()
		t.mu.Lock()
		clear(t.runs)
		for link := range t.links {
			link.close()
		}
		clear(t.links)
		t.mu.Unlock()
		t.log.Info("no longer leads")
	}()
	members, err := t.cfg.Sessions.Watch(ctx, MemberPrefix)
	if err != nil {
		t.log.Error("cannot watch members", "err", err)
		return
	}
	jobs, err := t.cfg.Records.Watch(ctx, JobPrefix)
	if err != nil {
		t.log.Error("cannot watch jobs", "err", err)
		return
	}
	caughtUp := false
	var backlog []lease.Entry
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-members:
			if !ok {
				return
			}
			if e.Key == "" {
				caughtUp = true
				for _, e := range backlog {
					l.record(e)
				}
				backlog = nil
			} else {
				t.member(e)
			}
			if caughtUp {
				t.tellMembers()
			}
		case e, ok := <-jobs:
			if !ok {
				return
			}
			// Jobs wait until it is known who is there.
			if caughtUp {
				l.record(e)
			} else {
				backlog = append(backlog, e)
			}
		case r := <-l.ended:
			l.over(r)
		case e := <-l.reread:
			if was := l.seen[e.Key]; was.Revision > e.Revision {
				e = was
			}
			l.record(e)
		}
	}
}

// record takes the news of a job's record: the job is taken up, or its run is told that somebody
// else has written it.
func (l *term) record(e lease.Entry) {
	t := l.t
	var a tidemill.Assignment
	if e.Deleted || e.Key == "" {
		return
	}
	if err := json.Unmarshal(e.Value, &a); err != nil {
		t.log.Error("a job record cannot be read", "key", e.Key, "err", err)
		return
	}
	l.seen[e.Key] = e
	defer func() {
		t.mu.Lock()
		t.known[a.Job] = max(t.known[a.Job], e.Revision)
		t.signal()
		t.mu.Unlock()
	}()
	t.mu.Lock()
	r := t.runs[a.Job]
	t.mu.Unlock()
	if r != nil {
		if e.Revision > r.wrote.Load() && a.Leader.ID != t.cfg.Member.ID {
			r.post(Event{Kind: NotAssigned})
		}
		return
	}
	left := t.unfinished(l.ctx, &a)
	if isTerminal(a.State) && left == (leftover{}) {
		return
	}
	r = newRun(t, a, e.Revision)
	r.left = left
	t.mu.Lock()
	t.runs[a.Job] = r
	t.signal()
	t.mu.Unlock()
	l.runs.Go(func() {
		if r.confirm(l.ctx, l.lease) {
			r.main(l.ctx)
		}
		select {
		case l.ended <- r:
		case <-l.ctx.Done():
		}
	})
}

// over forgets a run that has ended. If that was because somebody else leads the job, or has
// written its record since, the job is taken up again: the lease is still held.
func (l *term) over(r *run) {
	r.forget()
	key := JobPrefix + r.job
	if !r.deposed && l.seen[key].Revision <= r.wrote.Load() {
		return
	}
	l.runs.Go(func() {
		sleep(l.ctx, retake)
		var e lease.Entry
		err := again(l.ctx, r.log, "read the job's record", func() (err error) {
			e, err = l.t.cfg.Records.Get(l.ctx, key)
			if errors.Is(err, tidemill.ErrNotFound) {
				return nil
			}
			return err
		})
		if err != nil {
			return
		}
		select {
		case l.reread <- e:
		case <-l.ctx.Done():
		}
	})
}

// confirm reports whether the store says that this trainer led when the run had read its job's
// record, or later.
func (r *run) confirm(ctx context.Context, s *lease.Session) bool {
	err := s.Confirm(ctx)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		r.log.Warn("the job is not taken up", "err", err)
	}
	close(r.done)
	return false
}

// leftover is what a trainer that died has left to do of a job that is over.
type leftover struct {
	undecided bool               // there are candidates without a decision
	unoffered *snapshot.Manifest // the last snapshot, when no version was made of it
	dead      *snapshot.Manifest // its bad rows may be missing from the dead-letter topic; nil: none
}

// unfinished returns what is left to do of a job that is over; nothing of any other.
func (t *Trainer) unfinished(ctx context.Context, a *tidemill.Assignment) (left leftover) {
	if !isTerminal(a.State) {
		return left
	}
	var last *snapshot.Manifest
	if chain, err := snapshot.Snapshots(t.cfg.Bucket, a.Job); err == nil {
		if _, m, err := snapshot.Latest(ctx, chain); err == nil && m != nil && m.Lineage == a.Lineage {
			last = m
		}
	}
	if last != nil && len(last.BadRows) > 0 {
		left.dead = last
	}
	if a.State != tidemill.JobFinished {
		return left
	}
	numbers, err := snapshot.ListVersions(ctx, t.cfg.Bucket, a.Spec.Model)
	if err != nil {
		return left
	}
	newest := int64(0)
	if len(numbers) > 0 {
		newest = numbers[len(numbers)-1]
		_, err = snapshot.ReadDecision(ctx, t.cfg.Bucket, a.Spec.Model, newest)
		left.undecided = errors.Is(err, tidemill.ErrNotFound)
	}
	if last == nil || !trained(last) {
		return left
	}
	if newest == 0 {
		left.unoffered = last
	} else if v, err := snapshot.ReadVersionRecord(ctx, t.cfg.Bucket, a.Spec.Model, newest); err == nil && (v.Lineage != last.Lineage || v.Snapshot < last.Number) {
		// Versions are made of snapshots in order, so there is none of this one.
		left.unoffered = last
	}
	return left
}

// trained reports whether the job itself has trained something in a snapshot; else it is no candidate.
func trained(m *snapshot.Manifest) bool {
	return m.Examples > 0 && (m.Ancestor == nil || m.Parent != 0)
}
