package ps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// Config of a Server.
type Config struct {
	Member string       // this process's id in assignments
	Bucket *blob.Bucket // where snapshots are; the caller closes it
	Logger *slog.Logger
	// Peer connects to another ps, to take over shards from it; the caller owns the connection.
	// Nil: shards come from snapshots alone.
	Peer func(ctx context.Context, m tidemill.Member) (wire.PS, error)
	// Alive reports whether this process still holds its session lease by its own clock. A
	// server that is not alive refuses to apply or to write.
	Alive func() bool
	// Record, when given, is called with every event of a job's Core and what followed from
	// it, in order; a recording replays on a new Core to the same effects. It must not block,
	// and must not keep the slices.
	Record func(job string, ev *Event, effects []Effect)
}

// Server owns the shards that assignments give to its member. It is the in-process form of
// wire.PS; Register offers it over gRPC.
type Server struct {
	cfg Config

	mu   sync.Mutex
	jobs map[string]*job

	background sync.WaitGroup // restores, and shards that are taken over
}

// New returns a server without jobs.
func New(cfg Config) *Server {
	if cfg.Alive == nil {
		cfg.Alive = func() bool { return true }
	}
	return &Server{cfg: cfg, jobs: map[string]*job{}}
}

// Run follows assignments until ctx ends or the channel is closed, and returns once no
// restore and no handover is under way. A job whose state is terminal is dropped; of one that
// has no shard here its assignment is kept, since a shard may be handed over.
func (s *Server) Run(ctx context.Context, assignments <-chan tidemill.Assignment) error {
	defer s.background.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case a, ok := <-assignments:
			if !ok {
				return nil
			}
			s.assign(ctx, a)
		}
	}
}

func (s *Server) assign(ctx context.Context, a tidemill.Assignment) {
	s.mu.Lock()
	j := s.jobs[a.Job]
	if a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
		delete(s.jobs, a.Job)
		s.mu.Unlock()
		if j != nil { // wake whoever waits for a round that will not come
			j.mu.Lock()
			j.restore = func(uint64) {}
			j.step(&Event{Kind: Assign, Seq: a.Seq, Generation: a.Generation + 1})
			j.mu.Unlock()
		}
		return
	}
	if j == nil {
		j = &job{
			name: a.Job, log: s.cfg.Logger, record: s.cfg.Record, calls: map[uint64]*call{}, core: NewCore(a.Spec.Train.Staleness),
			arrivals: map[int]*arrival{}, handouts: map[int]*handout{},
		}
		s.jobs[a.Job] = j
	}
	s.mu.Unlock()

	epochs := make([]uint64, len(a.Partitions))
	for p, o := range a.Partitions {
		epochs[p] = o.Epoch
	}
	mine := make([]bool, len(a.Shards))
	for i, o := range a.Shards {
		mine[i] = o.Member == s.cfg.Member
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if a.Seq <= j.assigned.Seq {
		return
	}
	j.assigned = a
	j.fetch = func(e Effect) { s.fetch(ctx, j, &a, e) }
	j.restore = func(generation uint64) {
		if !slices.Contains(mine, true) { // it had some, and they are others' now
			j.shards, j.owned = nil, nil
			return
		}
		s.background.Add(1)
		go func() {
			defer s.background.Done()
			s.restore(ctx, j, a)
		}()
	}
	had := len(j.owned)
	j.step(&Event{
		Kind: Assign, Seq: a.Seq, Generation: a.Generation, Epochs: epochs, Routes: a.Routes(), Shards: mine, Cut: a.Cut,
	})
	if n := len(j.owned); n != had {
		s.cfg.Logger.Info("shards changed hands", "job", a.Job, "shards", n, "before", had, "assignment", a.Seq)
	}
}

// restore loads this member's shards as of the assignment's snapshot and installs them,
// unless a newer generation has begun meanwhile.
func (s *Server) restore(ctx context.Context, j *job, a tidemill.Assignment) {
	log := s.cfg.Logger.With("job", a.Job, "generation", a.Generation)
	var m *model.Model
	var shards []*shard
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		var err error
		if m, shards, err = s.load(ctx, a); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		log.Error("cannot restore shards", "snapshot", a.Snapshot, "err", err)
		j.mu.Lock()
		g, _ := j.core.Generation()
		if g == a.Generation && !errors.Is(err, tidemill.ErrUnavailable) {
			// It would fail again: whoever asks is told why, and the job fails with it.
			j.fault = fmt.Errorf("ps: restore snapshot %d: %w", a.Snapshot, err)
			g = 0
		}
		j.mu.Unlock()
		if g != a.Generation {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, ready := j.core.Generation(); g != a.Generation || ready {
		return
	}
	j.fault = nil
	j.model, j.shards, j.owned = m, shards, j.owned[:0]
	for _, sh := range shards {
		if sh != nil {
			j.owned = append(j.owned, sh)
		}
	}
	j.step(&Event{Kind: Restored, Generation: a.Generation, Number: a.Snapshot, Cut: a.Cut, Round: a.Round, Examples: a.Examples})
	log.Info("shards restored", "shards", len(j.owned), "snapshot", a.Snapshot, "examples", a.Examples)
}

func (s *Server) load(ctx context.Context, a tidemill.Assignment) (*model.Model, []*shard, error) {
	schema, err := model.DecodeSchema(a.Schema)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.CompileIn(ctx, s.cfg.Bucket, &a.Spec, schema, engine.Options{Profile: a.Profile})
	if err != nil {
		return nil, nil, err
	}
	shards := make([]*shard, len(a.Shards))
	for i, o := range a.Shards {
		if o.Member == s.cfg.Member {
			shards[i] = newShard(m, i, len(shards))
		}
	}
	if a.Snapshot == 0 {
		return m, shards, nil
	}
	chain, err := snapshot.Snapshots(s.cfg.Bucket, a.Job)
	if err != nil {
		return nil, nil, err
	}
	man, err := snapshot.ReadManifest(ctx, chain, a.Snapshot)
	if err != nil {
		return nil, nil, err
	}
	want := func(shard int) bool { return shard < len(shards) && shards[shard] != nil }
	l := newLoader(m, shards)
	if err := snapshot.ReadParts(ctx, s.cfg.Bucket, man.Parts, m.Layout, want, l); err != nil {
		return nil, nil, err
	}
	return m, shards, l.loaded(man)
}

func (s *Server) job(name string) (*job, error) {
	s.mu.Lock()
	j := s.jobs[name]
	s.mu.Unlock()
	if j == nil {
		return nil, fmt.Errorf("ps: job %q has no shard here: %w", name, tidemill.ErrNotReady)
	}
	return j, nil
}

// own returns the job if this process may still act for it in a generation.
func (s *Server) own(name string, generation uint64) (*job, error) {
	if !s.cfg.Alive() {
		return nil, fmt.Errorf("ps: this process has lost its session lease: %w", tidemill.ErrFenced)
	}
	j, err := s.job(name)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if g, _ := j.core.Generation(); j.fault != nil && g == generation {
		return nil, j.fault
	}
	return j, nil
}

// Pull implements wire.PS.
func (s *Server) Pull(ctx context.Context, req *wire.PullRequest, into *wire.PullReply) error {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return err
	}
	c := calls.Get().(*call)
	c.pull, c.reply = req, into
	err = j.do(ctx, &Event{
		Kind: Pull, Generation: req.Generation, Routes: req.Routes, Partition: req.Partition, Epoch: req.Epoch, Round: req.Round,
	}, c)
	c.pull, c.reply = nil, nil
	calls.Put(c)
	return err
}

// Push implements wire.PS.
func (s *Server) Push(ctx context.Context, req *wire.PushRequest) error {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return err
	}
	c := calls.Get().(*call)
	c.push = req
	err = j.do(ctx, &Event{
		Kind: Push, Generation: req.Generation, Routes: req.Routes, Partition: req.Partition, Epoch: req.Epoch, Round: req.Round,
		Range: req.Range, Floor: req.Floor, Members: req.Members, Examples: req.Examples, Payload: req,
	}, c)
	c.push = nil
	calls.Put(c)
	return err
}

// Fence implements wire.PS.
func (s *Server) Fence(ctx context.Context, req *wire.FenceRequest) (wire.Held, error) {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return wire.Held{}, err
	}
	c := calls.Get().(*call)
	err = j.do(ctx, &Event{Kind: Fence, Generation: req.Generation, Routes: req.Routes, Partition: req.Partition, Epoch: req.Epoch}, c)
	held := c.held
	calls.Put(c)
	return held, err
}

// Snapshot implements wire.PS.
func (s *Server) Snapshot(ctx context.Context, req *wire.SnapshotRequest, marked func()) (wire.Written, error) {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return wire.Written{}, err
	}
	c := &call{done: make(chan error, 1), snap: req}
	if err := j.do(ctx, &Event{
		Kind: Snapshot, Generation: req.Generation, Routes: req.Routes, Number: req.Number, Base: req.Base, Round: req.Round, Cut: req.Cut,
	}, c); err != nil {
		return wire.Written{}, err
	}
	defer j.release(c.image)
	marked()
	j.mu.Lock()
	epoch := j.assigned.Seq
	j.mu.Unlock()
	prefix, err := snapshot.PartName{
		Job: req.Job, Number: req.Number, Generation: req.Generation, Epoch: epoch, Attempt: c.image.attempt, Member: s.cfg.Member,
	}.Prefix()
	if err != nil {
		return wire.Written{}, err
	}
	if !s.cfg.Alive() {
		return wire.Written{}, fmt.Errorf("ps: this process has lost its session lease: %w", tidemill.ErrFenced)
	}
	part, err := snapshot.WritePart(ctx, s.cfg.Bucket, prefix, c.image.layout, c.image.shards)
	if err != nil {
		return wire.Written{}, err
	}
	j.wrote(c.image, &part)
	return wire.Written{Part: part, Examples: c.image.examples, Home: c.image.home}, nil
}

// Status implements wire.PS.
func (s *Server) Status(_ context.Context, name string) (wire.Status, error) {
	j, err := s.job(name)
	if err != nil {
		return wire.Status{}, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	st := wire.Status{Round: j.core.Round(), Examples: j.core.Examples(), Cut: j.core.Cut(), Shards: len(j.owned), Pulled: j.pulled, Pushed: j.pushed}
	st.Generation, st.Ready = j.core.Generation()
	if !st.Ready {
		return st, nil
	}
	for _, sh := range j.owned {
		l := wire.ShardLoad{Shard: sh.number, Pulled: sh.pulled, Pushed: sh.pushed}
		for _, t := range sh.tables {
			l.Rows += int64(t.rows())
			st.Overflow += t.overflow
			if t.admission != nil {
				st.Declined += t.admission.declined
			}
		}
		st.Load = append(st.Load, l)
		st.Rows += l.Rows
		if sh.home != nil {
			if st.Progress, err = sh.home.progress.AppendBinary(nil); err != nil {
				return st, err
			}
			st.BadCounts = maps.Clone(sh.home.notes.BadCounts)
		}
	}
	return st, nil
}

// Jobs lists the jobs of which shards are here.
func (s *Server) Jobs() []string {
	s.mu.Lock()
	jobs := maps.Clone(s.jobs)
	s.mu.Unlock()
	var names []string
	for name, j := range jobs {
		j.mu.Lock()
		if len(j.owned) > 0 {
			names = append(names, name)
		}
		j.mu.Unlock()
	}
	slices.Sort(names)
	return names
}
