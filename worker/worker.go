package worker

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/wire"
)

// Config of a Worker.
type Config struct {
	Member string        // this process's id in assignments
	Slots  int           // batches computed at the same time; at least 1
	Source source.Stream // the caller closes it
	// PS and Trainer connect to others; the caller owns the connections and closes them.
	PS      func(ctx context.Context, m tidemill.Member) (wire.PS, error)
	Trainer func(ctx context.Context, m tidemill.Member) (wire.Coordinator, error)
	// Graph returns the graph file with a SHA-256; nil: there are none.
	Graph func(ctx context.Context, sum string) ([]byte, error)
	// Alive reports whether this process still holds its session lease by its own clock.
	Alive  func() bool
	Logger *slog.Logger
	Events Events
	// Record, when given, is called with every event of a partition's Core and what followed
	// from it; a recording replays on a new Core to the same effects. Partitions record at the
	// same time, each in order; of names one Core: job, partition, generation, epoch and
	// map of the shards.
	Record func(of string, cfg CoreConfig, ev *Event, effects []Effect)
}

// Events are called when something notable happens; nil ones are not. They must not block.
type Events struct {
	// Batch was accepted by every ps: rows trained in took, of which compute was spent
	// computing.
	Batch func(job string, partition, rows int, took, compute time.Duration)
	// Bad rows were put aside for a cause (tidemill.BadValue and so on). A batch that is
	// computed again puts its rows aside again.
	Bad func(job, cause string, rows int)
	// Kept: a batch took so many rows from copies that the worker keeps (train.hot_rows).
	Kept func(job string, rows int)
}

// Worker trains the partitions that assignments give to it.
type Worker struct {
	cfg   Config
	slots chan struct{}
	cores *engine.Cores // of all slots together
}

// New returns a worker without partitions.
func New(cfg Config) *Worker {
	cfg.Slots = max(1, cfg.Slots)
	if cfg.Alive == nil {
		cfg.Alive = func() bool { return true }
	}
	return &Worker{cfg: cfg, slots: make(chan struct{}, cfg.Slots), cores: engine.NewCores(runtime.GOMAXPROCS(0))}
}

// Run follows assignments until ctx ends or the channel is closed. When it returns no loop
// runs any more; whatever they had not pushed is another worker's.
func (w *Worker) Run(ctx context.Context, assignments <-chan tidemill.Assignment) error {
	jobs := map[string]*job{}
	defer func() {
		for _, j := range jobs {
			j.stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case a, ok := <-assignments:
			if !ok {
				return nil
			}
			j := jobs[a.Job]
			if a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
				if j != nil {
					j.stop()
					delete(jobs, a.Job)
				}
				continue
			}
			if j == nil {
				j = &job{w: w, loops: map[int]*running{}}
				jobs[a.Job] = j
			}
			j.assign(ctx, a)
		}
	}
}

// job is what this worker runs of one job.
type job struct {
	w     *Worker
	seq   uint64
	model *model.Model
	spec  string // hash of the spec that model was compiled from
	link  *link
	loops map[int]*running
}

// running is a loop and how to end it.
type running struct {
	owner      tidemill.Owner
	generation uint64
	routes     uint64
	loop       *loop
	cancel     context.CancelFunc
	done       chan struct{}
}

// stop ends the loop and returns what it was reading, or nil.
func (r *running) stop() *reading {
	r.cancel()
	<-r.done
	return r.loop.in
}

func (j *job) stop() {
	for p, r := range j.loops {
		r.stop().close()
		delete(j.loops, p)
	}
	if j.link != nil {
		j.link.stop()
		j.link = nil
	}
}

func (j *job) assign(ctx context.Context, a tidemill.Assignment) {
	if a.Seq <= j.seq {
		return
	}
	j.seq = a.Seq
	log := j.w.cfg.Logger.With("job", a.Job)
	kept := map[int]*reading{}
	defer func() {
		for _, in := range kept {
			in.close()
		}
	}()
	routes := a.Routes()
	for p, r := range j.loops {
		switch {
		case p >= len(a.Partitions) || a.Partitions[p] != r.owner || a.Generation != r.generation:
			r.stop().close()
		case routes != r.routes:
			// Shards have changed hands: what is read goes on to a loop that knows where they are.
			kept[p] = r.stop()
		default:
			continue
		}
		delete(j.loops, p)
	}
	if h := a.Spec.Hash() + a.Profile + string(a.Schema); j.model == nil || j.spec != h {
		schema, err := model.DecodeSchema(a.Schema)
		if err == nil {
			j.model, err = j.w.compile(ctx, &a, schema)
		}
		if err != nil {
			// The trainer compiled the same spec before it wrote the assignment.
			log.Error("cannot compile the job", "err", err)
			return
		}
		j.spec = h
	}
	if j.link == nil || j.link.leader != a.Leader {
		if j.link != nil {
			j.link.stop()
		}
		j.link = newLink(ctx, j.w, a.Job, a.Leader)
	}
	for p, o := range a.Partitions {
		if o.Member != j.w.cfg.Member || j.loops[p] != nil {
			continue
		}
		lctx, cancel := context.WithCancel(ctx)
		r := &running{owner: o, generation: a.Generation, routes: routes, cancel: cancel, done: make(chan struct{})}
		r.loop = newLoop(j.w, &a, p, j.model, j.link)
		r.loop.in = kept[p]
		delete(kept, p)
		j.loops[p] = r
		j.link.add(r.loop)
		go func() {
			defer close(r.done)
			defer j.link.remove(r.loop)
			defer cancel()
			if err := r.loop.run(lctx); err != nil && lctx.Err() == nil {
				log.Error("partition stopped", "partition", p, "generation", a.Generation, "err", err)
			}
		}()
	}
	// Loops that go on may have a new link to the trainer, and more to read.
	for p, r := range j.loops {
		r.loop.use(j.link)
		if end := endOf(&a, p); r.loop.end.Swap(end) != end {
			r.loop.linked()
		}
	}
}

// link is the connection to the leading trainer, made anew whenever it breaks.
type link struct {
	w      *Worker
	job    string
	leader tidemill.Member
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	conn  wire.Link // nil while broken
	loops map[int]*loop
}

func newLink(ctx context.Context, w *Worker, job string, leader tidemill.Member) *link {
	ctx, cancel := context.WithCancel(ctx)
	l := &link{w: w, job: job, leader: leader, cancel: cancel, done: make(chan struct{}), loops: map[int]*loop{}}
	go func() {
		defer close(l.done)
		l.run(ctx)
	}()
	return l
}

func (l *link) stop() {
	l.cancel()
	<-l.done
}

func (l *link) add(o *loop) {
	l.mu.Lock()
	l.loops[o.partition] = o
	l.mu.Unlock()
}

func (l *link) remove(o *loop) {
	l.mu.Lock()
	if l.loops[o.partition] == o {
		delete(l.loops, o.partition)
	}
	l.mu.Unlock()
}

const (
	retryFirst = 20 * time.Millisecond
	retryMost  = time.Second
)

func (l *link) run(ctx context.Context) {
	wait := retryFirst
	for ctx.Err() == nil {
		conn, err := l.connect(ctx)
		if err != nil {
			l.w.cfg.Logger.Debug("no link to the trainer", "job", l.job, "err", err)
			if !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, retryMost)
			continue
		}
		wait = retryFirst
		l.mu.Lock()
		l.conn = conn
		for _, o := range l.loops {
			o.linked()
		}
		l.mu.Unlock()
		for {
			g, err := conn.Recv()
			if err != nil {
				break
			}
			l.mu.Lock()
			o := l.loops[g.Partition]
			l.mu.Unlock()
			if o != nil && g.Job == l.job && o.generation == g.Generation && o.epoch == g.Epoch && o.routes == g.Routes {
				o.grants.put(g)
			}
		}
		l.mu.Lock()
		l.conn = nil
		l.mu.Unlock()
		conn.Close()
		if !pause(ctx, retryFirst) {
			return
		}
	}
}

func (l *link) connect(ctx context.Context) (wire.Link, error) {
	c, err := l.w.cfg.Trainer(ctx, l.leader)
	if err != nil {
		return nil, err
	}
	return c.Connect(ctx, l.w.cfg.Member)
}

// send delivers a report, or drops it while the link is broken: the loop says everything
// again once there is a new one.
func (l *link) send(r *wire.Report) {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		_ = conn.Send(l.job, r)
	}
}

// pause waits d, or less when ctx ends; it reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
