package roles

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/source/mem"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// cluster is processes over in-memory services.
type cluster struct {
	t        *testing.T
	schedule string // which one is played
	records  *lease.Mem
	sessions *lease.Mem
	stream   *mem.Stream
	bucket   *blob.Bucket
	log      *slog.Logger

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	loss  float64
	lives map[string]*life // by member
	procs []*process
}

// process is a name under which one role runs, one life after the other.
type process struct {
	c        *cluster
	name     string
	role     string // worker, ps, trainer
	dead     atomic.Bool
	records  *storeWay
	sessions *storeWay
	stop     context.CancelFunc
	done     chan struct{}
}

// life is a role for as long as a session lease is held.
type life struct {
	ctx     context.Context // ends with it
	member  tidemill.Member
	ps      *ps.Server
	trainer *trainer.Trainer
}

func newCluster(t *testing.T, seed uint64) *cluster {
	t.Helper()
	c := &cluster{
		t: t, stream: mem.New(mem.Config{}), bucket: memblob.OpenBucket(nil), log: slog.New(slog.DiscardHandler),
		rng: rand.New(rand.NewPCG(seed, 0x726f6c6573)), lives: map[string]*life{},
	}
	if testing.Verbose() {
		c.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	var err error
	if c.records, err = lease.NewMem(lease.Options{}); err == nil {
		c.sessions, err = lease.NewMem(lease.Options{TTL: 3 * time.Second})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stop ends all processes, in order.
func (c *cluster) stop() {
	for _, p := range c.procs {
		p.end()
	}
}

// close closes what they stand on.
func (c *cluster) close() {
	c.records.Close()
	c.sessions.Close()
	c.stream.Close()
	c.bucket.Close()
}

// delay is how long a message takes.
func (c *cluster) delay() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(1+c.rng.IntN(20)) * time.Millisecond
}

func (c *cluster) lost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loss > 0 && c.rng.Float64() < c.loss
}

func (c *cluster) setLoss(p float64) {
	c.mu.Lock()
	c.loss = p
	c.mu.Unlock()
}

// add makes a process, which does not run yet.
func (c *cluster) add(name, role string) *process {
	p := &process{c: c, name: name, role: role}
	c.procs = append(c.procs, p)
	return p
}

// start runs the process until it is ended or crashes.
func (p *process) start() {
	ctx, stop := context.WithCancel(context.Background())
	p.dead.Store(false)
	p.records, p.sessions = &storeWay{Store: p.c.records, c: p.c, from: p}, &storeWay{Store: p.c.sessions, c: p.c, from: p}
	p.stop, p.done = stop, make(chan struct{})
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			p.live(ctx)
		}
	}()
}

// end stops the process in order.
func (p *process) end() {
	if p.stop != nil {
		p.stop()
		<-p.done
		p.stop = nil
	}
}

// crash ends it at once: nothing that it still does reaches anybody, and its leases run out.
func (p *process) crash() {
	p.dead.Store(true)
	p.end()
}

// live runs the role for as long as a session lease is held.
func (p *process) live(ctx context.Context) {
	c := p.c
	c.mu.Lock()
	m := tidemill.Member{ID: fmt.Sprintf("%s-%08x", p.name, c.rng.Uint32()), Addr: p.name}
	c.mu.Unlock()
	value, err := json.Marshal(trainer.Session{Member: m, Roles: []string{p.role}, Slots: 1})
	if err != nil {
		panic(err)
	}
	s, err := lease.NewSession(p.sessions, trainer.MemberPrefix+m.ID, value, lease.SessionConfig{})
	if err != nil {
		panic(err)
	}
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = s.Run(held)
	}()
	select {
	case <-s.Acquired():
		lctx, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-s.Lost():
			case <-lctx.Done():
			}
			stop()
		}()
		p.run(&life{ctx: lctx, member: m}, s)
		stop()
	case <-ctx.Done():
	case <-over:
	}
	release()
	<-over
}

// run runs the role of a life until it ends.
func (p *process) run(l *life, s *lease.Session) {
	c := p.c
	psOf := func(_ context.Context, m tidemill.Member) (wire.PS, error) {
		to := c.life(m.ID)
		if to == nil || to.ps == nil {
			return nil, fmt.Errorf("member %q: %w", m.ID, errUnreachable)
		}
		return psWay{c, p, to}, nil
	}
	var roles sync.WaitGroup
	var in chan tidemill.Assignment
	switch p.role {
	case "ps":
		in = make(chan tidemill.Assignment)
		l.ps = ps.New(ps.Config{Member: l.member.ID, Bucket: c.bucket, Logger: c.log.With("of", l.member.ID), Peer: psOf, Alive: s.Valid})
		roles.Go(func() { _ = l.ps.Run(l.ctx, in) })
	case "worker":
		in = make(chan tidemill.Assignment)
		w := worker.New(worker.Config{
			Member: l.member.ID, Slots: 1, Source: c.stream, PS: psOf, Alive: s.Valid, Logger: c.log.With("of", l.member.ID),
			Trainer: func(_ context.Context, m tidemill.Member) (wire.Coordinator, error) {
				to := c.life(m.ID)
				if to == nil || to.trainer == nil {
					return nil, fmt.Errorf("member %q: %w", m.ID, errUnreachable)
				}
				return trainerWay{c, p, to}, nil
			},
		})
		roles.Go(func() { _ = w.Run(l.ctx, in) })
	case "trainer":
		l.trainer = trainer.New(trainer.Config{
			Member: l.member, Records: p.records, Sessions: p.sessions, Bucket: c.bucket, Source: c.stream, PS: psOf, Logger: c.log.With("of", l.member.ID),
		})
		roles.Go(func() { _ = l.trainer.Run(l.ctx) })
	}
	c.mu.Lock()
	c.lives[l.member.ID] = l
	c.mu.Unlock()
	if in != nil {
		p.feed(l.ctx, in)
	}
	<-l.ctx.Done()
	roles.Wait()
}

// feed follows the records until ctx ends.
func (p *process) feed(ctx context.Context, in chan<- tidemill.Assignment) {
	entries, err := p.records.Watch(ctx, trainer.JobPrefix)
	if err != nil {
		return
	}
	for e := range entries {
		var a tidemill.Assignment
		if e.Key == "" || e.Deleted || json.Unmarshal(e.Value, &a) != nil {
			continue
		}
		select {
		case in <- a:
		case <-ctx.Done():
		}
	}
}

func (c *cluster) life(member string) *life {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lives[member]
}

// leader returns a trainer that believes that it leads; nil: none does.
func (c *cluster) leader() *trainer.Trainer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lives {
		if l.trainer != nil && l.ctx.Err() == nil && l.trainer.Leads() {
			return l.trainer
		}
	}
	return nil
}
