package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// live holds a session lease and runs the roles that need one for as long as it is held. When
// it is lost the roles stop, and start again under a new name: to the others this process has
// died and another one has come.
func (n *Node) live(ctx context.Context) error {
	first := true
	for ctx.Err() == nil {
		m := tidemill.Member{ID: n.cfg.ID + "-" + nonce(4), Addr: n.info.RPC}
		value, err := n.sessionValue(m, false)
		if err != nil {
			return err
		}
		if err := n.succeed(ctx, m.ID); err != nil {
			// The next process then waits for this one's lease to run out.
			n.log.Warn("the data directory does not say who uses it", "err", err)
		}
		s, err := lease.NewSession(n.sessions, trainer.MemberPrefix+m.ID, value, lease.SessionConfig{Logger: n.log})
		if err != nil {
			return err
		}
		held, release := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() { done <- s.Run(held) }()
		select {
		case <-s.Acquired():
			if err := n.checkPeers(ctx, m.ID); err != nil {
				release()
				<-done
				if errors.Is(err, tidemill.ErrInvalid) {
					return err
				}
				n.log.Warn("not ready to begin", "err", err)
				pause(ctx, time.Second)
				continue
			}
			// The roles outlive ctx by as long as it takes to hand over what they own.
			rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
			go func() {
				defer stop()
				select {
				case <-s.Lost():
					return
				case <-rctx.Done():
					return
				case <-ctx.Done():
				}
				dctx, over := context.WithCancel(rctx)
				defer over()
				go func() {
					select {
					case <-s.Lost():
						over()
					case <-dctx.Done():
					}
				}()
				n.drain(dctx, s, m)
			}()
			err = n.roles(rctx, m, s.Valid, func() {
				if first {
					close(n.ready)
					first = false
				}
			})
			lost := ctx.Err() == nil
			stop()
			release()
			<-done
			if err != nil {
				return err
			}
			if lost {
				n.log.Warn("the session lease is lost; the roles start again under a new one")
				n.metrics.leaseLosses.Inc()
			}
		case err := <-done:
			release()
			n.log.Warn("no session lease", "err", err)
			pause(ctx, time.Second)
		case <-ctx.Done():
			release()
			<-done
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// roles runs worker, ps and trainer as member m until ctx ends. Workers stop before the
// parameter servers that they push to.
func (n *Node) roles(ctx context.Context, m tidemill.Member, alive func() bool, started func()) error {
	entries, err := n.records.Watch(ctx, trainer.JobPrefix)
	if err != nil {
		return err
	}
	n.local.member.Store(&m)
	var fans []chan tidemill.Assignment
	fan := func() <-chan tidemill.Assignment {
		c := make(chan tidemill.Assignment, 64)
		fans = append(fans, c)
		return c
	}
	g, gctx := errgroup.WithContext(ctx)
	pctx, stopPS := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPS()
	var servers sync.WaitGroup
	if n.cfg.has(RolePS) {
		p := ps.New(ps.Config{Member: m.ID, Bucket: n.bucket, Logger: n.log, Alive: alive, Peer: n.psOf, Record: n.cfg.RecordPS})
		in := fan()
		n.local.ps.Store(p)
		defer n.local.ps.Store(nil)
		servers.Add(1)
		go func() {
			defer servers.Done()
			_ = p.Run(pctx, in)
		}()
	}
	if n.cfg.has(RoleTrainer) {
		t := trainer.New(trainer.Config{
			Member: m, Records: n.records, Sessions: n.sessions, Bucket: n.bucket, Source: n.source, PS: n.psOf,
			Logger: n.log, Events: n.metrics.trainerEvents(n.cfg.Trainer, n.hintServing), Record: n.cfg.RecordTrainer,
			Protocols: n.cfg.Protocols, KeepPlacement: n.cfg.KeepPlacement, TryGraph: n.cfg.TryGraph, Isolator: n.isolators.trainer,
		})
		n.local.trainer.Store(t)
		defer n.local.trainer.Store(nil)
		g.Go(func() error { return t.Run(gctx) })
		v := &vigil{sessions: n.sessions, own: m.ID, dial: n.connect, log: n.log}
		g.Go(func() error { return v.run(gctx) })
	}
	if n.cfg.has(RoleWorker) {
		w := worker.New(worker.Config{
			Member: m.ID, Slots: n.cfg.Slots, Source: n.source, PS: n.psOf, Trainer: n.trainerOf, Alive: alive,
			Graph:  func(ctx context.Context, sum string) ([]byte, error) { return snapshot.ReadGraph(ctx, n.bucket, sum) },
			Logger: n.log, Events: n.metrics.workerEvents(n.cfg.Worker), Record: n.cfg.RecordWorker,
		})
		in := fan()
		g.Go(func() error { return w.Run(gctx, in) })
	}
	g.Go(func() error {
		for {
			select {
			case <-gctx.Done():
				return nil
			case e, ok := <-entries:
				if !ok {
					return nil
				}
				if e.Deleted || e.Key == "" {
					continue
				}
				var a tidemill.Assignment
				if err := json.Unmarshal(e.Value, &a); err != nil {
					n.log.Error("a job record cannot be read", "key", e.Key, "err", err)
					continue
				}
				for _, c := range fans {
					select {
					case c <- a:
					case <-gctx.Done():
						return nil
					}
				}
			}
		}
	})
	started()
	err = g.Wait()
	stopPS()
	servers.Wait()
	return err
}

// psOf returns the ps role of a member: this process's own, or a connection to it.
func (n *Node) psOf(_ context.Context, m tidemill.Member) (wire.PS, error) {
	if own := n.local.member.Load(); own != nil && own.ID == m.ID {
		if p := n.local.ps.Load(); p != nil {
			return p, nil
		}
	}
	if m.Addr == "" {
		return nil, fmt.Errorf("member %q is not known: %w", m.ID, tidemill.ErrUnavailable)
	}
	conn, err := n.dial(m.Addr, RolePS)
	if err != nil {
		return nil, err
	}
	return ps.NewClient(conn), nil
}

// trainerOf returns the trainer role of a member.
func (n *Node) trainerOf(_ context.Context, m tidemill.Member) (wire.Coordinator, error) {
	if own := n.local.member.Load(); own != nil && own.ID == m.ID {
		if t := n.local.trainer.Load(); t != nil {
			return t, nil
		}
	}
	conn, err := n.dial(m.Addr, RoleTrainer)
	if err != nil {
		return nil, err
	}
	return trainer.NewClient(conn), nil
}

// hintServing makes the serving role of this process look for the new champion at once.
func (n *Node) hintServing(model string) {
	if n.serving != nil {
		n.serving.Hint(model)
	}
}

// standInPS offers over gRPC whatever ps the present session runs.
type standInPS struct{ n *Node }

func (s standInPS) own() (wire.PS, error) {
	if p := s.n.local.ps.Load(); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("this node runs no ps at present: %w", tidemill.ErrNotReady)
}

func (s standInPS) Pull(ctx context.Context, req *wire.PullRequest, into *wire.PullReply) error {
	p, err := s.own()
	if err != nil {
		return err
	}
	return p.Pull(ctx, req, into)
}

func (s standInPS) Push(ctx context.Context, req *wire.PushRequest) error {
	p, err := s.own()
	if err != nil {
		return err
	}
	return p.Push(ctx, req)
}

func (s standInPS) Fence(ctx context.Context, req *wire.FenceRequest) (wire.Held, error) {
	p, err := s.own()
	if err != nil {
		return wire.Held{}, err
	}
	return p.Fence(ctx, req)
}

func (s standInPS) Snapshot(ctx context.Context, req *wire.SnapshotRequest, marked func()) (wire.Written, error) {
	p, err := s.own()
	if err != nil {
		return wire.Written{}, err
	}
	return p.Snapshot(ctx, req, marked)
}

func (s standInPS) Adopt(ctx context.Context, req *wire.AdoptRequest) error {
	p, err := s.own()
	if err != nil {
		return err
	}
	return p.Adopt(ctx, req)
}

func (s standInPS) Copy(ctx context.Context, req *wire.CopyRequest, piece func(*wire.Piece) error) error {
	p, err := s.own()
	if err != nil {
		return err
	}
	return p.Copy(ctx, req, piece)
}

func (s standInPS) Status(ctx context.Context, job string) (wire.Status, error) {
	p, err := s.own()
	if err != nil {
		return wire.Status{}, err
	}
	return p.Status(ctx, job)
}

// standInTrainer offers over gRPC whatever trainer the present session runs. Commands may
// come to any node; one whose trainer does not lead passes them on to the leader.
type standInTrainer struct{ n *Node }

func (s standInTrainer) Connect(ctx context.Context, member string) (wire.Link, error) {
	t := s.n.local.trainer.Load()
	if t == nil {
		return nil, fmt.Errorf("this node runs no trainer at present: %w", tidemill.ErrNotReady)
	}
	return t.Connect(ctx, member)
}

// Command carries out a command, here or at the leader.
func (s standInTrainer) Command(ctx context.Context, job, verb string, args map[string]string) ([]byte, error) {
	t := s.n.local.trainer.Load()
	if t != nil && t.Leads() {
		return t.Command(ctx, job, verb, args)
	}
	if args["forwarded"] != "" {
		return nil, fmt.Errorf("the leader has just changed: %w", tidemill.ErrNotReady)
	}
	if err := s.n.relay(); err != nil {
		return nil, err
	}
	leader, err := trainer.Leader(ctx, s.n.sessions)
	if err != nil {
		return nil, err
	}
	conn, err := s.n.dial(leader.Addr, RoleTrainer)
	if err != nil {
		return nil, err
	}
	if args == nil {
		args = map[string]string{}
	}
	args["forwarded"] = "1"
	return trainer.NewCommander(conn).Command(ctx, job, verb, args)
}
