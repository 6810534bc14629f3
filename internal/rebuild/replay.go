package rebuild

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/worker"
)

// self is the only member of the replayed job.
const self = "rebuild"

// generation of the replayed job, and its map of the shards. Nothing goes back or changes hands
// here.
const (
	generation = 1
	routes     = 1
)

// replay trains the rounds of a path again and returns the manifest of the state reached, whose
// parts are in the scratch bucket.
func replay(ctx context.Context, cfg *Config, p *path) (*snapshot.Manifest, error) {
	last := p.last()
	from, err := p.start()
	if err != nil {
		return nil, err
	}
	me := tidemill.Member{ID: self}
	a := tidemill.Assignment{
		Job: last.Job, Spec: last.Spec, Schema: last.Schema, Seq: 1, Generation: generation, State: tidemill.JobRunning, Lineage: last.Lineage,
		Leader: me, Cut: from, Identity: last.StreamIdentity, Origins: last.Origins, Profile: last.Profile, Members: map[string]tidemill.Member{self: me},
	}
	if p.base != nil {
		a.Snapshot, a.Round, a.Examples = p.base.Number, p.base.Round, p.base.Examples
	}
	for range from {
		a.Partitions = append(a.Partitions, tidemill.Owner{Member: self, Epoch: 1})
	}
	v := last.Spec.Shards
	if v == 0 {
		v = tidemill.DefaultShards
	}
	for range v {
		a.Shards = append(a.Shards, tidemill.Owner{Member: self, Epoch: 1})
	}
	server := ps.New(ps.Config{Member: self, Bucket: cfg.Scratch, Logger: cfg.Logger})
	graph := func(ctx context.Context, sum string) ([]byte, error) { return snapshot.ReadGraph(ctx, cfg.Store, sum) }
	if sum := last.Spec.Architecture.Graph; sum != "" {
		data, err := graph(ctx, sum)
		if err == nil {
			_, err = snapshot.WriteGraph(ctx, cfg.Scratch, data)
		}
		if err != nil {
			return nil, err
		}
	}
	c := newReplayer(p, from, cfg.Progress)
	w := worker.New(worker.Config{
		Member: self, Slots: cfg.Slots, Source: cfg.Source, Graph: graph, Logger: cfg.Logger,
		PS:      func(context.Context, tidemill.Member) (wire.PS, error) { return server, nil },
		Trainer: func(context.Context, tidemill.Member) (wire.Coordinator, error) { return c, nil },
	})
	toServer, toWorker := make(chan tidemill.Assignment, 1), make(chan tidemill.Assignment, 1)
	toServer <- a
	toWorker <- a

	// The worker stops before the server that it pushes to.
	sctx, stopServer := context.WithCancel(ctx)
	defer stopServer()
	var servers errgroup.Group
	servers.Go(func() error { return server.Run(sctx, toServer) })
	wctx, stopWorker := context.WithCancel(ctx)
	defer stopWorker()
	var workers errgroup.Group
	workers.Go(func() error { return w.Run(wctx, toWorker) })

	var made *snapshot.Manifest
	select {
	case err = <-c.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		made, err = capture(ctx, server, last)
	}
	stopWorker()
	err = errors.Join(err, workers.Wait())
	stopServer()
	return made, errors.Join(err, servers.Wait())
}

// capture takes the snapshot of the state at the version's cut.
func capture(ctx context.Context, server *ps.Server, last *snapshot.Manifest) (*snapshot.Manifest, error) {
	req := &wire.SnapshotRequest{Job: last.Job, Generation: generation, Routes: routes, Number: last.Number, Round: last.Round, Cut: last.Cut.Clone()}
	for {
		w, err := server.Snapshot(ctx, req, func() {})
		if errors.Is(err, tidemill.ErrNotReady) { // nothing was to be trained, and it is still being restored
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if err != nil {
			return nil, err
		}
		m := *last
		m.Parts = []snapshot.Part{w.Part}
		m.Digest, m.Examples = w.Part.Digest, w.Examples
		return &m, nil
	}
}

// replayer stands in for the trainer: it grants the recorded runs, some at a time.
type replayer struct {
	runs     []tidemill.Run
	end      tidemill.Cut
	all      int64
	progress func(done, all int64)
	done     chan error // capacity 1: nil once everything is acknowledged

	mu    sync.Mutex
	parts []replayed
	rows  int64 // acknowledged
	link  *link
	over  bool
}

// replayed is how far one partition is.
type replayed struct {
	run   int   // next run to look at for it
	next  int64 // granted below
	acked int64
	out   []int64 // ends of the runs that are granted and not acknowledged
}

// ahead is how many runs of a partition are granted before the first of them is acknowledged.
const ahead = 64

func newReplayer(p *path, from tidemill.Cut, progress func(done, all int64)) *replayer {
	c := &replayer{end: p.last().Cut.Clone(), done: make(chan error, 1), progress: progress, parts: make([]replayed, len(from))}
	_, c.all = p.size()
	for i, o := range from {
		c.parts[i].next, c.parts[i].acked = o, o
	}
	for _, m := range p.manifests {
		for _, r := range m.Schedule {
			run := tidemill.Run{Round: r.Round, Count: r.Rounds}
			for _, s := range r.Steps {
				run.Parts = append(run.Parts, tidemill.PartRun{Partition: s.Partition, First: s.First, Step: s.Rows})
			}
			c.runs = append(c.runs, run)
		}
	}
	c.check()
	return c
}

// Connect implements wire.Coordinator. There is one worker in this process, and one link.
func (c *replayer) Connect(ctx context.Context, _ string) (wire.Link, error) {
	l := &link{c: c, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	context.AfterFunc(ctx, l.Close)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = l
	return l, nil
}

// report takes what the worker says of a partition.
func (c *replayer) report(r *wire.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Generation != generation || r.Partition < 0 || r.Partition >= len(c.parts) {
		return
	}
	p := &c.parts[r.Partition]
	switch {
	case r.Fault != "":
		c.finish(fmt.Errorf("training again failed: %s", r.Fault))
		return
	case r.Torn:
		c.finish(fmt.Errorf("a round was torn with one server: %w", tidemill.ErrCorrupt))
		return
	case r.Joined:
		// Also said when a grant was lost: grant again from there.
		p.run, p.next, p.out = 0, r.Next, nil
		c.ack(p, r.Next)
		c.grant(r.Partition, tidemill.Run{})
	}
	c.ack(p, r.Acked)
	for p.run < len(c.runs) && len(p.out) < ahead {
		run := c.runs[p.run]
		p.run++
		part, ok := run.Part(r.Partition)
		if !ok {
			continue
		}
		end := part.First + run.Count*part.Step
		if end <= p.acked {
			continue
		}
		p.next, p.out = end, append(p.out, end)
		c.grant(r.Partition, run)
	}
	c.check()
}

func (c *replayer) ack(p *replayed, below int64) {
	if below <= p.acked {
		return
	}
	c.rows += below - p.acked
	p.acked = below
	for len(p.out) > 0 && p.out[0] <= below {
		p.out = p.out[1:]
	}
	if c.progress != nil {
		c.progress(c.rows, c.all)
	}
}

func (c *replayer) grant(partition int, run tidemill.Run) {
	if c.link != nil {
		c.link.put(wire.Grant{Generation: generation, Partition: partition, Epoch: 1, Routes: routes, Run: run, Next: c.parts[partition].next})
	}
}

// check ends the replay once every partition is acknowledged to its end.
func (c *replayer) check() {
	for i := range c.parts {
		if c.parts[i].acked < c.end[i] {
			return
		}
	}
	c.finish(nil)
}

func (c *replayer) finish(err error) {
	if !c.over {
		c.over = true
		c.done <- err
	}
}

// link is the worker's connection. Grants wait in a queue that the window of report bounds.
type link struct {
	c      *replayer
	job    string
	once   sync.Once
	wake   chan struct{} // capacity 1
	closed chan struct{}

	mu    sync.Mutex
	queue []wire.Grant // guarded by mu
}

func (l *link) put(g wire.Grant) {
	l.mu.Lock()
	g.Job = l.job
	l.queue = append(l.queue, g)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Send implements wire.Link.
func (l *link) Send(job string, r *wire.Report) error {
	l.mu.Lock()
	l.job = job
	l.mu.Unlock()
	l.c.report(r)
	return nil
}

// Recv implements wire.Link.
func (l *link) Recv() (wire.Grant, error) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			g := l.queue[0]
			l.queue = l.queue[1:]
			l.mu.Unlock()
			return g, nil
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-l.closed:
			return wire.Grant{}, fmt.Errorf("rebuild: the link is closed: %w", tidemill.ErrUnavailable)
		}
	}
}

// Close implements wire.Link.
func (l *link) Close() { l.once.Do(func() { close(l.closed) }) }
