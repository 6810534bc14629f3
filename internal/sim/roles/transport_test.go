package roles

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/wire"
)

// errUnreachable is what whoever gets no answer is told.
var errUnreachable = fmt.Errorf("no answer: %w", tidemill.ErrUnavailable)

// patience is how long a caller waits for an answer that will not come.
const patience = 300 * time.Millisecond

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// call carries a request of one process to another and the answer back. Either may be lost; the
// caller does not know which.
func (c *cluster) call(ctx context.Context, from *process, to *life, f func(ctx context.Context) error) error {
	sleep(ctx, c.delay())
	if c.lost() || from.dead.Load() || to.ctx.Err() != nil {
		sleep(ctx, patience)
		return errUnreachable
	}
	sctx, stop := context.WithCancel(ctx)
	defer context.AfterFunc(to.ctx, stop)()
	err := f(sctx)
	stop()
	sleep(ctx, c.delay())
	if c.lost() || from.dead.Load() || to.ctx.Err() != nil {
		sleep(ctx, patience)
		return errUnreachable
	}
	return err
}

// psWay is a process's way to a parameter server.
type psWay struct {
	c    *cluster
	from *process
	to   *life
}

var _ wire.PS = psWay{}

func (w psWay) Pull(ctx context.Context, req *wire.PullRequest, into *wire.PullReply) error {
	return w.c.call(ctx, w.from, w.to, func(ctx context.Context) error { return w.to.ps.Pull(ctx, req, into) })
}

func (w psWay) Push(ctx context.Context, req *wire.PushRequest) error {
	return w.c.call(ctx, w.from, w.to, func(ctx context.Context) error { return w.to.ps.Push(ctx, req) })
}

func (w psWay) Fence(ctx context.Context, req *wire.FenceRequest) (held wire.Held, err error) {
	err = w.c.call(ctx, w.from, w.to, func(ctx context.Context) (err error) {
		held, err = w.to.ps.Fence(ctx, req)
		return err
	})
	return held, err
}

func (w psWay) Snapshot(ctx context.Context, req *wire.SnapshotRequest, marked func()) (out wire.Written, err error) {
	err = w.c.call(ctx, w.from, w.to, func(ctx context.Context) (err error) {
		out, err = w.to.ps.Snapshot(ctx, req, func() {
			if !w.from.dead.Load() && w.to.ctx.Err() == nil {
				marked()
			}
		})
		return err
	})
	return out, err
}

func (w psWay) Status(ctx context.Context, job string) (st wire.Status, err error) {
	err = w.c.call(ctx, w.from, w.to, func(ctx context.Context) (err error) {
		st, err = w.to.ps.Status(ctx, job)
		return err
	})
	return st, err
}

func (w psWay) Adopt(ctx context.Context, req *wire.AdoptRequest) error {
	return w.c.call(ctx, w.from, w.to, func(ctx context.Context) error { return w.to.ps.Adopt(ctx, req) })
}

func (w psWay) Copy(ctx context.Context, req *wire.CopyRequest, piece func(*wire.Piece) error) error {
	return w.c.call(ctx, w.from, w.to, func(ctx context.Context) error { return w.to.ps.Copy(ctx, req, piece) })
}

// trainerWay is a worker's way to a trainer.
type trainerWay struct {
	c    *cluster
	from *process
	to   *life
}

func (w trainerWay) Connect(ctx context.Context, member string) (link wire.Link, err error) {
	err = w.c.call(ctx, w.from, w.to, func(context.Context) (err error) {
		link, err = w.to.trainer.Connect(ctx, member)
		return err
	})
	if err != nil {
		if link != nil {
			link.Close()
		}
		return nil, err
	}
	context.AfterFunc(w.to.ctx, link.Close)
	return linkWay{link, w}, nil
}

// linkWay breaks when something on it is lost.
type linkWay struct {
	wire.Link
	way trainerWay
}

func (l linkWay) Send(job string, r *wire.Report) error {
	if l.way.from.dead.Load() || l.way.to.ctx.Err() != nil || l.way.c.lost() {
		l.Close()
		return errUnreachable
	}
	return l.Link.Send(job, r)
}

func (l linkWay) Recv() (wire.Grant, error) {
	g, err := l.Link.Recv()
	if err == nil && (l.way.from.dead.Load() || l.way.c.lost()) {
		l.Close()
		return wire.Grant{}, errUnreachable
	}
	return g, err
}

// storeWay is a process's way to a lease store. cut holds everything back.
type storeWay struct {
	lease.Store
	c    *cluster
	from *process
	cut  atomic.Bool
}

func (s *storeWay) through(ctx context.Context, f func() error) error {
	sleep(ctx, s.c.delay()/4)
	if s.cut.Load() || s.from.dead.Load() || s.c.lost() {
		sleep(ctx, patience)
		return errUnreachable
	}
	err := f()
	if s.cut.Load() || s.from.dead.Load() {
		return errUnreachable
	}
	return err
}

func (s *storeWay) Create(ctx context.Context, key string, value []byte) (rev uint64, err error) {
	err = s.through(ctx, func() (err error) { rev, err = s.Store.Create(ctx, key, value); return err })
	return rev, err
}

func (s *storeWay) Update(ctx context.Context, key string, value []byte, at uint64) (rev uint64, err error) {
	err = s.through(ctx, func() (err error) { rev, err = s.Store.Update(ctx, key, value, at); return err })
	return rev, err
}

func (s *storeWay) Delete(ctx context.Context, key string, rev uint64) error {
	return s.through(ctx, func() error { return s.Store.Delete(ctx, key, rev) })
}

func (s *storeWay) Get(ctx context.Context, key string) (e lease.Entry, err error) {
	err = s.through(ctx, func() (err error) { e, err = s.Store.Get(ctx, key); return err })
	return e, err
}

func (s *storeWay) List(ctx context.Context, prefix string) (all []lease.Entry, err error) {
	err = s.through(ctx, func() (err error) { all, err = s.Store.List(ctx, prefix); return err })
	return all, err
}

// Watch delivers late while the way is cut.
func (s *storeWay) Watch(ctx context.Context, prefix string) (<-chan lease.Entry, error) {
	in, err := s.Store.Watch(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make(chan lease.Entry)
	go func() {
		defer close(out)
		for e := range in {
			for (s.cut.Load() || s.from.dead.Load()) && ctx.Err() == nil {
				sleep(ctx, patience/10)
			}
			select {
			case out <- e:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}
