package ps

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/optim"
)

// Names in a snapshot: of the home shard's notes, and of what a shard has counted.
const (
	auxNotes  = "notes"
	auxCounts = "counts"
)

// job is one job in this process. mu guards everything below it; every request builds an
// event, steps the core and carries out its effects under mu.
type job struct {
	name   string
	log    *slog.Logger
	record func(job string, ev *Event, effects []Effect) // nil: not recorded

	mu             sync.Mutex
	core           *Core
	assigned       tidemill.Assignment
	model          *model.Model
	shards         []*shard // by number; nil where another ps is the owner
	owned          []*shard
	calls          map[uint64]*call
	nextID         uint64
	restore        func(generation uint64) // starts bringing the state to the generation's cut
	pulled, pushed int64                   // rows, over all shards that were ever here
	fetch          func(e Effect)          // starts a Fetch or FetchRest
	arrivals       map[int]*arrival        // by shard
	handouts       map[int]*handout        // by shard
	cuts           []int                   // of the request under way (shares)
	// fault, once set, answers everything: the state of this generation cannot be used.
	fault error
}

// shard is the atom of ownership: its part of every table, its dense blocks, and in the home
// shard what the job learns beside parameters.
type shard struct {
	number int
	tables []*table
	blocks []*block
	home   *home // nil but in the home shard
	// Rows read for pulls, and rows that pushes were applied to, since the shard came here.
	pulled, pushed int64
}

// home is what the home shard keeps beside parameters.
type home struct {
	transforms *feature.State
	public     []byte // its public form, rebuilt when stale
	stale      bool
	progress   *progress.State
	notes      notes
}

// notes are small facts that a snapshot keeps.
type notes struct {
	EventMax []int64 `json:"event_max,omitempty"` // by partition
	// Bad lists the rows put aside that are not known to be in the dead-letter topic.
	Bad []snapshot.BadRow `json:"bad,omitempty"`
	// BadCounts counts all rows ever put aside, by cause.
	BadCounts map[string]int64 `json:"bad_counts,omitempty"`
}

// putAside notes rows of one batch.
func (n *notes) putAside(bad []snapshot.BadRow) {
	if len(bad) > 0 && n.BadCounts == nil {
		n.BadCounts = map[string]int64{}
	}
	for _, r := range bad {
		n.Bad = append(n.Bad, r)
		n.BadCounts[r.Cause]++
	}
}

// settle forgets the rows below the cut: they are in the dead-letter topic.
func (n *notes) settle(cut tidemill.Cut) {
	n.Bad = slices.DeleteFunc(n.Bad, func(r snapshot.BadRow) bool { return cut.Covers(r.Partition, r.Offset) })
}

// counts is what a shard has counted; it is in snapshots unless all of it is zero.
type counts struct {
	Overflow []int64 `json:"overflow"` // by table
}

// call is a request waiting for its effect.
type call struct {
	done  chan error
	push  *wire.PushRequest
	pull  *wire.PullRequest
	snap  *wire.SnapshotRequest
	reply *wire.PullReply
	held  wire.Held
	image *capture
	// Of a Copy.
	giving *giving
}

func newShard(m *model.Model, number, v int) *shard {
	s := &shard{number: number}
	for t, l := range m.Layout.Tables {
		s.tables = append(s.tables, newTable(l, m.Sparse[t].Rule, m.Decay(), m.Spec.Seed, number, v))
	}
	for t, l := range m.Layout.Tensors {
		for b := range l.Blocks() {
			if tidemill.BlockShard(l.Name, b, v) == number {
				s.blocks = append(s.blocks, newBlock(m, t, b))
			}
		}
	}
	if number == tidemill.HomeShard(v) {
		s.home = &home{transforms: m.Plan.NewState(), progress: progress.New(m.Spec.Label.Type), stale: true}
	}
	return s
}

// step runs one event and its effects. mu is held. What panics in it breaks this job, and no
// other.
func (j *job) step(ev *Event) {
	var c *call // being answered
	defer func() {
		if p := recover(); p != nil {
			err := j.broken(p)
			if c != nil {
				c.done <- err
			}
		}
	}()
	effects := j.core.Step(ev)
	if j.record != nil {
		j.record(j.name, ev, effects)
	}
	for _, e := range effects {
		switch e.Kind {
		case Restore:
			j.fault = nil // of the generation before
			j.restore(e.Generation)
		case Apply:
			j.apply(e.Payload.(*wire.PushRequest), e.Before)
		case Fetch, FetchRest:
			j.fetch(e)
		case Discard:
			j.discard(e.Shard)
		case Install:
			j.install(e.Shard, e.Whole)
		case Drop:
			j.set(e.Shard, nil)
		case Forget:
			j.forget(e.Shard)
		default:
			if c = j.calls[e.ID]; c == nil {
				continue // its caller gave up waiting
			}
			delete(j.calls, e.ID)
			var err error
			switch e.Kind {
			case Refuse:
				err = e.Err
			case Serve:
				err = j.read(c.pull, c.reply)
			case Fenced:
				c.held = e.Held
			case Capture:
				if h := j.homeShard(); h != nil {
					h.notes.settle(c.snap.Settled)
				}
				c.image, err = j.capture(e.Base, e.Attempt)
			case Give, GiveRest:
				c.giving, err = j.give(&e)
			}
			c.done <- err
			c = nil
		}
	}
}

// broken notes that an event panicked: the state of this generation cannot be used any more, and
// everybody who waits for it is told. It returns what they are told. mu is held.
func (j *job) broken(panicked any) error {
	j.log.Error("an event panicked; the job is out of order until it goes back to a cut", "job", j.name, "panic", panicked, "stack", string(debug.Stack()))
	j.fault = fmt.Errorf("ps: the parameter server's code panicked and has to be mended, its log has the place: %w: %v", tidemill.ErrCorrupt, panicked)
	for id, c := range j.calls {
		delete(j.calls, id)
		c.done <- j.fault
	}
	return j.fault
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan error, 1)} }}

// begin steps an event whose answer goes to c. An error means that c gets none.
func (j *job) begin(ev *Event, c *call) (err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = j.broken(p)
		}
	}()
	if c.push != nil {
		// Under the same lock as the step, so that nothing is restored in between.
		if j.core.Admits(ev.Generation, ev.Routes) {
			if err := j.check(c.push); err != nil {
				return err
			}
		}
	}
	j.nextID++
	ev.ID = j.nextID
	j.calls[ev.ID] = c
	j.step(ev)
	return nil
}

// do runs an event that has an answer and waits for it.
func (j *job) do(ctx context.Context, ev *Event, c *call) error {
	if err := j.begin(ev, c); err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	default:
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		j.mu.Lock()
		delete(j.calls, ev.ID)
		j.mu.Unlock()
		select { // answered meanwhile: the answer counts
		case err := <-c.done:
			return err
		default:
			return fmt.Errorf("ps: %w: %w", tidemill.ErrUnavailable, ctx.Err())
		}
	}
}

// read serves a pull from the current state. mu is held.
func (j *job) read(req *wire.PullRequest, into *wire.PullReply) error {
	into.Home = nil
	if h := j.homeShard(); h != nil && j.model.Plan.Learns() {
		if h.stale {
			var err error
			if h.public, err = h.transforms.AppendPublic(nil); err != nil {
				return err
			}
			h.stale = false
		}
		into.Home = h.public
	}
	if req.Bare {
		return nil
	}
	if len(req.IDs) != len(j.model.Layout.Tables) {
		return fmt.Errorf("ps: pull of %d tables, the model has %d: %w", len(req.IDs), len(j.model.Layout.Tables), tidemill.ErrInvalid)
	}
	for len(into.Rows) < len(req.IDs) {
		into.Rows = append(into.Rows, nil)
	}
	into.Rows = into.Rows[:len(req.IDs)]
	for t, ids := range req.IDs {
		dim := j.model.Layout.Tables[t].Dim
		rows := slices.Grow(into.Rows[t][:0], len(ids)*dim)[:len(ids)*dim]
		into.Rows[t] = rows
		j.pulled += int64(len(ids))
		if !j.readTable(t, rows, ids) {
			return fmt.Errorf("ps: id of a shard that another ps owns: %w", tidemill.ErrFenced)
		}
	}
	n := 0
	for _, s := range j.owned {
		for _, b := range s.blocks {
			if n == len(into.Blocks) {
				into.Blocks = append(into.Blocks, wire.Block{})
			}
			d := &into.Blocks[n]
			d.Tensor, d.Index = b.Tensor, b.Block.Block
			d.Values = append(d.Values[:0], b.Weight...)
			n++
		}
	}
	into.Blocks = into.Blocks[:n]
	return nil
}

// check refuses a push that does not fit the model before it reaches the core, so that a
// buffered entry can always be applied.
func (j *job) check(req *wire.PushRequest) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("ps: push: "+format+": %w", append(args, tidemill.ErrInvalid)...)
	}
	tables := j.model.Layout.Tables
	if len(req.IDs) != len(tables) || len(req.Grads) != len(tables) {
		return bad("%d tables, the model has %d", len(req.IDs), len(tables))
	}
	if req.Range.Empty() || req.Examples < 0 {
		return bad("range %v with %d examples", req.Range, req.Examples)
	}
	for t, ids := range req.IDs {
		if len(req.Grads[t]) != len(ids)*tables[t].Dim {
			return bad("table %q has %d values for %d rows of %d", tables[t].Name, len(req.Grads[t]), len(ids), tables[t].Dim)
		}
		for _, id := range ids {
			if j.shards[tidemill.ShardOf(id, len(j.shards))] == nil {
				return bad("an id of a shard that another ps owns")
			}
		}
	}
	for _, b := range req.Blocks {
		own := j.block(b.Tensor, b.Index)
		if own == nil || len(own.Weight) != len(b.Values) {
			return bad("block %d of tensor %d with %d values", b.Index, b.Tensor, len(b.Values))
		}
	}
	if req.Tag != nil && j.homeShard() == nil {
		return bad("a tag, and another ps owns the home shard")
	}
	return nil
}

func (j *job) block(tensor, index int) *block {
	if tensor < 0 || tensor >= len(j.model.Layout.Tensors) {
		return nil
	}
	s := j.shards[tidemill.BlockShard(j.model.Layout.Tensors[tensor].Name, index, len(j.shards))]
	if s == nil {
		return nil
	}
	for _, b := range s.blocks {
		if b.Tensor == tensor && b.Block.Block == index {
			return b
		}
	}
	return nil
}

func (j *job) homeShard() *home {
	if s := j.shards[tidemill.HomeShard(len(j.shards))]; s != nil {
		return s.home
	}
	return nil
}

// apply applies a push. mu is held; check has passed.
func (j *job) apply(req *wire.PushRequest, before int64) {
	k := req.Examples
	for t, ids := range req.IDs {
		scale := optim.Scale(j.model.Sparse[t].Schedule, before)
		j.pushed += int64(len(ids))
		j.updateTable(t, ids, req.Grads[t], scale, before, k)
	}
	for _, s := range j.owned {
		for _, t := range s.tables {
			t.expire(before, k)
		}
	}
	scale := optim.Scale(j.model.Dense.Schedule, before)
	decay := j.model.Decay()
	for _, b := range req.Blocks {
		rule := j.model.TensorRule(b.Tensor)
		if _, moving := rule.(optim.Moving); moving && k == 0 {
			continue // a batch without examples says nothing of their statistics
		}
		j.block(b.Tensor, b.Index).apply(rule, b.Values, scale, decay, before, k)
	}
	if req.Tag != nil {
		if err := j.homeShard().apply(req); err != nil {
			j.fault = err
		}
	}
}

func (h *home) apply(req *wire.PushRequest) error {
	tag := req.Tag
	if len(tag.Transforms) > 0 {
		if err := h.transforms.Merge(tag.Transforms); err != nil {
			return fmt.Errorf("ps: transform state: %w", err)
		}
		h.stale = true
	}
	if err := h.progress.Add(req.Partition, req.Range.First, tag.Outcomes); err != nil {
		return err
	}
	for len(h.notes.EventMax) <= req.Partition {
		h.notes.EventMax = append(h.notes.EventMax, 0)
	}
	h.notes.EventMax[req.Partition] = max(h.notes.EventMax[req.Partition], tag.EventMax)
	h.notes.putAside(tag.Bad)
	return nil
}

func (h *home) capture() (map[string][]byte, *wire.Home, error) {
	state, err := h.transforms.AppendBinary(nil)
	if err != nil {
		return nil, nil, err
	}
	public, err := h.transforms.AppendPublic(nil)
	if err != nil {
		return nil, nil, err
	}
	prog, err := h.progress.AppendBinary(nil)
	if err != nil {
		return nil, nil, err
	}
	facts, err := json.Marshal(&h.notes)
	if err != nil {
		return nil, nil, err
	}
	bad := slices.Clone(h.notes.Bad)
	slices.SortFunc(bad, func(a, b snapshot.BadRow) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	aux := map[string][]byte{snapshot.AuxTransforms: state, snapshot.AuxProgress: prog, auxNotes: facts}
	return aux, &wire.Home{
		Progress: prog, Transforms: public,
		EventMax: slices.Clone(h.notes.EventMax), Bad: bad, BadCounts: maps.Clone(h.notes.BadCounts),
	}, nil
}
