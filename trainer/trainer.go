package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/wire"
)

// Keys in the lease stores.
const (
	JobPrefix    = "jobs."    // records: one assignment per job
	MemberPrefix = "members." // sessions: one Session per process
	LeaderKey    = "leader"   // sessions: the leading trainer's member
)

// Session is the value of a process's session lease.
type Session struct {
	tidemill.Member
	Roles []string `json:"roles"`
	Slots int      `json:"slots,omitempty"`
	// Profiles are the numeric profiles that its slots and shards can compute with, the fastest
	// first; none: it does not say, and is taken to offer all.
	Profiles []string `json:"profiles,omitempty"`
	// Protocols that the process speaks; zero: it does not say.
	Protocols tidemill.Protocols `json:"protocols,omitzero"`
	// Leaving: the process will end once it owns nothing any more, or soon after.
	Leaving bool `json:"leaving,omitempty"`
}

// Config of a Trainer.
type Config struct {
	Member   tidemill.Member
	Records  lease.Store // durable
	Sessions lease.Store // with a TTL
	Bucket   *blob.Bucket
	Source   source.Stream
	PS       func(ctx context.Context, m tidemill.Member) (wire.PS, error)
	Logger   *slog.Logger
	Events   Events
	// Protocols that this process speaks; members that speak none of them own nothing. The zero
	// value takes everybody.
	Protocols tidemill.Protocols
	// KeepPlacement leaves shards where placement puts them, however the load is spread.
	KeepPlacement bool
	// Isolator computes for engines that may end their process, when candidates are judged; nil
	// computes all in this one.
	Isolator engine.Isolator
	// ScoreBatch is how many rows are scored at a time; default 256.
	ScoreBatch int
	// TryGraph computes something with a job's graph in a process of its own, before this one does;
	// schema is the topic's. Nil: graphs are not tried.
	TryGraph func(ctx context.Context, s *tidemill.Spec, schema, graph []byte) error
	// Record, when given, is called with every event of a job's Core and what followed from
	// it, in order; a recording replays on a new Core to the same effects.
	Record func(job string, cfg CoreConfig, ev *Event, effects []Effect)
}

// Events are called when something notable happens; nil ones are not. They must not block.
type Events struct {
	Led       func(leads bool)
	Rewound   func(job string, generation uint64)
	Committed func(job string, number int64, cut tidemill.Cut, examples int64, took, stall time.Duration)
	Offered   func(v tidemill.Version)
	Decided   func(d tidemill.Decision)
	Champion  func(c tidemill.Champion)
	State     func(job, state, reason string)
	// Rows put aside were added to the dead-letter topic; rows of it are to be trained again.
	DeadLettered func(job string, rows int)
	Replayed     func(job string, rows int)
}

// Trainer takes part in the election and, while it leads, runs the jobs.
type Trainer struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	leading bool
	members map[string]Session // alive, by id
	runs    map[string]*run
	known   map[string]uint64 // revision of each job's record that lead has dealt with
	links   map[*localLink]bool
	changed chan struct{} // closed and replaced when runs, known or leading change

	submits sync.Mutex // one at a time submits
	uploads uploads
	alone   sync.Mutex // one at a time publishes by hand for jobs that are over
}

// New returns a trainer that does not lead yet.
func New(cfg Config) *Trainer {
	if cfg.ScoreBatch <= 0 {
		cfg.ScoreBatch = 256
	}
	return &Trainer{
		cfg: cfg, log: cfg.Logger, members: map[string]Session{}, runs: map[string]*run{}, known: map[string]uint64{},
		links: map[*localLink]bool{}, changed: make(chan struct{}),
	}
}

// Run takes part in the election until ctx ends. When it returns this trainer neither leads
// nor writes any more.
func (t *Trainer) Run(ctx context.Context) error {
	me, err := json.Marshal(t.cfg.Member)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		s, err := lease.NewSession(t.cfg.Sessions, LeaderKey, me, lease.SessionConfig{Logger: t.log})
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		sctx, release := context.WithCancel(ctx)
		go func() { done <- s.Run(sctx) }()
		select {
		case <-s.Acquired():
			lctx, stop := context.WithCancel(ctx)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				t.lead(lctx, s)
			}()
			select {
			case <-s.Lost():
			case <-ctx.Done():
			case <-stopped:
			}
			stop()
			<-stopped
		case err := <-done:
			release()
			if ctx.Err() == nil {
				t.log.Warn("cannot take part in the election", "err", err)
				sleep(ctx, time.Second)
			}
			continue
		}
		release()
		<-done
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (t *Trainer) member(e lease.Entry) {
	id := strings.TrimPrefix(e.Key, MemberPrefix)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.Deleted {
		delete(t.members, id)
		return
	}
	var s Session
	if err := json.Unmarshal(e.Value, &s); err != nil || s.ID != id {
		return
	}
	if t.cfg.Protocols.Known() && s.Protocols.Known() {
		if err := t.cfg.Protocols.Meet("node "+id, s.Protocols); err != nil {
			t.log.Warn("a member gets no work", "err", err)
			return
		}
	}
	t.members[id] = s
}

// alive returns who may own partitions and shards.
func (t *Trainer) alive() (workers map[string]int, ps []string, members map[string]tidemill.Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	workers, members = map[string]int{}, map[string]tidemill.Member{}
	for id, s := range t.members {
		members[id] = s.Member
		if slices.Contains(s.Roles, "worker") {
			workers[id] = max(1, s.Slots)
		}
		if slices.Contains(s.Roles, "ps") {
			ps = append(ps, id)
		}
	}
	slices.Sort(ps)
	return workers, ps, members
}

// profiles returns the numeric profiles that members say they offer.
func (t *Trainer) profiles() map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string][]string{}
	for id, s := range t.members {
		out[id] = s.Profiles
	}
	return out
}

// leavers returns who has said that it will go.
func (t *Trainer) leavers() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := map[string]bool{}
	for id, s := range t.members {
		if s.Leaving {
			ids[id] = true
		}
	}
	return ids
}

func (t *Trainer) tellMembers() {
	for _, r := range t.snapshotRuns() {
		r.post(Event{Kind: Members})
	}
}

func (t *Trainer) snapshotRuns() []*run {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.runs))
}

func (t *Trainer) setLeading(leads bool) {
	t.mu.Lock()
	t.leading = leads
	t.signal()
	t.mu.Unlock()
	if f := t.cfg.Events.Led; f != nil {
		f(leads)
	}
}

// signal wakes whoever waits for a change. mu is held.
func (t *Trainer) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// run returns the run of a job while this trainer leads.
func (t *Trainer) run(job string) (*run, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return nil, fmt.Errorf("trainer: another one leads: %w", tidemill.ErrNotReady)
	}
	r := t.runs[job]
	if r == nil {
		return nil, fmt.Errorf("trainer: job %q is not running: %w", job, tidemill.ErrNotFound)
	}
	return r, nil
}

// localLink is a worker's link within the process; the gRPC edge wraps it too.
type localLink struct {
	t      *Trainer
	member string
	grants chan wire.Grant
	once   sync.Once
	done   chan struct{}
}

// linkBuffer is how many grants may wait for a worker; one that is further behind than the
// windows allow has stopped reading, and its link is broken.
const linkBuffer = 4096

// Connect implements wire.Coordinator.
func (t *Trainer) Connect(ctx context.Context, member string) (wire.Link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leading {
		return nil, fmt.Errorf("trainer: another one leads: %w", tidemill.ErrNotReady)
	}
	l := &localLink{t: t, member: member, grants: make(chan wire.Grant, linkBuffer), done: make(chan struct{})}
	t.links[l] = true
	context.AfterFunc(ctx, l.Close)
	return l, nil
}

func (l *localLink) Send(job string, r *wire.Report) error {
	select {
	case <-l.done:
		return errLink
	default:
	}
	run, err := l.t.run(job)
	if err != nil {
		return err
	}
	run.post(Event{Kind: ReportIn, Report: *r})
	return nil
}

var errLink = fmt.Errorf("trainer: the link is closed: %w", tidemill.ErrUnavailable)

func (l *localLink) Recv() (wire.Grant, error) {
	select {
	case g := <-l.grants:
		return g, nil
	case <-l.done:
		return wire.Grant{}, errLink
	}
}

// Close ends the link.
func (l *localLink) Close() {
	l.t.mu.Lock()
	delete(l.t.links, l)
	l.t.mu.Unlock()
	l.close()
}

func (l *localLink) close() { l.once.Do(func() { close(l.done) }) }

// grant sends a grant over every link of a member.
func (t *Trainer) grant(member string, g wire.Grant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range t.links {
		if l.member != member {
			continue
		}
		select {
		case l.grants <- g:
		default:
			delete(t.links, l)
			l.close()
		}
	}
}

// Submit creates a job. a carries spec, schema, cut, identity and lineage. A job of that name
// that is over is replaced: the new one is another lineage of the same model.
// tidemill.ErrExists: one that is not over is there.
func (t *Trainer) Submit(ctx context.Context, a tidemill.Assignment) error {
	a.State = tidemill.JobSubmitted
	value, err := json.Marshal(&a)
	if err != nil {
		return err
	}
	key := JobPrefix + a.Job
	revision, err := t.cfg.Records.Create(ctx, key, value)
	if err == nil {
		t.takenUp(ctx, a.Job, revision)
	}
	if !errors.Is(err, tidemill.ErrExists) {
		return err
	}
	e, err := t.cfg.Records.Get(ctx, key)
	if err != nil {
		return err
	}
	var was tidemill.Assignment
	if err := json.Unmarshal(e.Value, &was); err != nil {
		return fmt.Errorf("the record of job %q: %w: %w", a.Job, tidemill.ErrCorrupt, err)
	}
	if !isTerminal(was.State) || t.Busy(a.Job) {
		return taken(a.Job, was.State)
	}
	// Numbers go on, so that whoever still has the old record in hand sees a newer one.
	a.Seq, a.Generation = was.Seq, was.Generation
	if value, err = json.Marshal(&a); err != nil {
		return err
	}
	if revision, err = t.cfg.Records.Update(ctx, key, value, e.Revision); err == nil {
		t.takenUp(ctx, a.Job, revision)
	}
	return err
}

// takenUp waits until this trainer, if it leads, has seen a record that was written here, so that a
// command which follows finds the job. The record is stored, whatever becomes of the wait.
func (t *Trainer) takenUp(ctx context.Context, job string, revision uint64) {
	for {
		t.mu.Lock()
		over := !t.leading || t.known[job] >= revision
		changed := t.changed
		t.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Leads reports whether this trainer leads.
func (t *Trainer) Leads() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leading
}

// Leader returns the leading trainer as the lease store knows it, or ErrNotReady.
func Leader(ctx context.Context, sessions lease.Store) (tidemill.Member, error) {
	var m tidemill.Member
	e, err := sessions.Get(ctx, LeaderKey)
	if errors.Is(err, tidemill.ErrNotFound) {
		return m, fmt.Errorf("no trainer leads at present: %w", tidemill.ErrNotReady)
	}
	if err == nil {
		err = json.Unmarshal(e.Value, &m)
	}
	return m, err
}

// Members lists the processes that hold a session, by name.
func (t *Trainer) Members(ctx context.Context) ([]Session, error) {
	entries, err := t.cfg.Sessions.List(ctx, MemberPrefix)
	if err != nil {
		return nil, err
	}
	out := []Session{}
	for _, e := range entries {
		var s Session
		if err := json.Unmarshal(e.Value, &s); err != nil {
			return nil, fmt.Errorf("session %q: %w: %w", strings.TrimPrefix(e.Key, MemberPrefix), tidemill.ErrCorrupt, err)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Session) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Busy reports whether a job is running here, or its last candidates wait for a decision.
func (t *Trainer) Busy(job string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runs[job] != nil
}
