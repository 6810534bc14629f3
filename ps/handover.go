package ps

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// arrival is a shard that is on its way here. It belongs to the goroutine that fetches it, one
// at a time, until the core installs or discards it.
type arrival struct {
	model  *model.Model
	shard  *shard
	since  []*wire.Since      // by table: what came of it with the rest; nil: nothing
	cancel context.CancelFunc // ends the fetch that is under way
}

// handout is a shard that another ps copies: what has changed since it was last asked for, by
// table. Guarded by the job's mu.
type handout struct {
	shard *shard
	since []*changes
}

// giving is a part of a shard's state, frozen.
type giving struct {
	copy     uint64
	images   []*image
	only     []*changes // by table: what to send; nil: all rows
	blocks   []snapshot.Block
	aux      map[string][]byte
	overflow []int64
	ledger   *wire.Ledger
	since    []*changes
	stored   []*wire.Since // by table
}

// Passes over a shard while training goes on: another one as long as more than fewRows rows
// have changed during the last, and that helps.
const (
	fewRows    = 4096
	mostPasses = 6
)

// pieceValues is about how many float32 travel in one piece.
const pieceValues = 1 << 16

// Adopt implements wire.PS.
func (s *Server) Adopt(ctx context.Context, req *wire.AdoptRequest) error {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return err
	}
	ev := &Event{Kind: Adopt, Generation: req.Generation, Routes: req.Routes, Shard: req.Shard}
	if req.Rest {
		ev.Kind, ev.Round, ev.Cut = Settle, req.Round, req.Cut
	}
	return j.do(ctx, ev, &call{done: make(chan error, 1)})
}

// Copy implements wire.PS.
func (s *Server) Copy(ctx context.Context, req *wire.CopyRequest, piece func(*wire.Piece) error) error {
	j, err := s.own(req.Job, req.Generation)
	if err != nil {
		return err
	}
	ev := &Event{Kind: Copy, Generation: req.Generation, Routes: req.Routes, Shard: req.Shard, Copy: req.Copy}
	if req.Rest {
		ev.Kind, ev.Round, ev.Cut = CopyRest, req.Round, req.Cut
	}
	c := &call{done: make(chan error, 1)}
	if err := j.do(ctx, ev, c); err != nil {
		return err
	}
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		c.giving.release()
	}()
	left := func() (n int64) {
		j.mu.Lock()
		defer j.mu.Unlock()
		for _, d := range c.giving.since {
			n += int64(d.len())
		}
		return n
	}
	return c.giving.send(left, piece)
}

// give freezes what Effect e is to send of a shard. mu is held.
func (j *job) give(e *Effect) (*giving, error) {
	sh := j.shards[e.Shard]
	h := j.handouts[e.Shard]
	if e.Kind == Give && e.Whole {
		j.forget(e.Shard)
		h = &handout{shard: sh}
		for _, t := range sh.tables {
			c := &changes{}
			t.track(c)
			h.since = append(h.since, c)
		}
		j.handouts[e.Shard] = h
	}
	g := &giving{copy: e.Copy, since: h.since, ledger: e.Ledger}
	for i, t := range sh.tables {
		g.images = append(g.images, t.capture(&j.mu))
		if !e.Whole {
			g.only = append(g.only, h.since[i].take())
		}
		g.overflow = append(g.overflow, t.overflow)
	}
	if e.Kind == Give {
		return g, nil
	}
	for _, t := range sh.tables {
		g.stored = append(g.stored, t.compared())
	}
	for _, b := range sh.blocks {
		b.shared = true
		g.blocks = append(g.blocks, b.Block)
	}
	g.aux = sh.admissions()
	if sh.home != nil {
		aux, _, err := sh.home.capture()
		if err != nil {
			g.release()
			return nil, err
		}
		maps.Copy(aux, g.aux)
		g.aux = aux
	}
	return g, nil
}

// release lets go of what was frozen. The job's mu is held.
func (g *giving) release() {
	for _, m := range g.images {
		m.release()
	}
}

// forget stops noting what changes in a shard. mu is held.
func (j *job) forget(shard int) {
	h := j.handouts[shard]
	if h == nil {
		return
	}
	for i, t := range h.shard.tables {
		t.untrack(h.since[i])
	}
	delete(j.handouts, shard)
}

// send passes the frozen state on in pieces, each with memory of its own.
func (g *giving) send(left func() int64, piece func(*wire.Piece) error) error {
	for t, m := range g.images {
		most := max(1, pieceValues/m.width)
		rows := make([]uint32, 0, most)
		flush := func() error {
			p := &wire.Piece{Copy: g.copy, Table: t, Rows: make([]float32, len(rows)*m.width)}
			for _, row := range rows {
				p.IDs = append(p.IDs, m.id(int(row)))
			}
			m.Copy(p.Rows, rows)
			rows = rows[:0]
			return piece(p)
		}
		if g.only != nil {
			// Before the rows, since some may have come back.
			for gone := range slices.Chunk(g.only[t].gone, pieceValues/2) {
				if err := piece(&wire.Piece{Copy: g.copy, Table: t, Removed: gone}); err != nil {
					return err
				}
			}
		}
		for row := range g.numbers(t) {
			if rows = append(rows, uint32(row)); len(rows) == most {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if len(rows) > 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if g.ledger == nil {
		return piece(&wire.Piece{Copy: g.copy, Left: left()})
	}
	for t, s := range g.stored {
		if s != nil {
			if err := piece(&wire.Piece{Copy: g.copy, Table: t, Since: s}); err != nil {
				return err
			}
		}
	}
	const some = 16
	for blocks := range slices.Chunk(g.blocks, some) {
		if err := piece(&wire.Piece{Copy: g.copy, Blocks: blocks}); err != nil {
			return err
		}
	}
	return piece(&wire.Piece{Copy: g.copy, Aux: g.aux, Overflow: g.overflow, Ledger: g.ledger})
}

// numbers yields the rows of a table that are to be sent.
func (g *giving) numbers(table int) iter.Seq[int] {
	if g.only != nil {
		return g.only[table].rows.rows()
	}
	return g.images[table].numbers()
}

// put sets the row of id, which may be new.
func (t *table) put(id uint64, values []float32) {
	if row := t.find(id); row >= 0 {
		t.writable(row)
		t.store(row, values)
		return
	}
	t.add(id, values)
}

// fetch carries out Fetch and FetchRest. It returns at once; the core hears how it ended. mu is
// held.
func (s *Server) fetch(ctx context.Context, j *job, a *tidemill.Assignment, e Effect) {
	ctx, cancel := context.WithCancel(ctx)
	r := j.arrivals[e.Shard]
	if e.Kind == Fetch {
		if r != nil {
			r.cancel() // it goes on alone, and nobody hears of it
		}
		r = &arrival{}
		j.arrivals[e.Shard] = r
	}
	r.cancel = cancel
	var m *model.Model
	if len(j.owned) > 0 {
		m = j.model
	}
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		defer cancel()
		ev := &Event{Kind: Fetched, ID: e.ID, Shard: e.Shard, Copy: e.Copy}
		if e.Kind == FetchRest {
			ev.Kind = Settled
		}
		if ev.Err = s.receive(ctx, r, m, a, &e, ev); ev.Err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("a shard could not be taken over", "job", a.Job, "shard", e.Shard, "err", ev.Err)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.step(ev)
	}()
}

// receive fills r from the shard's owner, and ev's Copy or Ledger.
func (s *Server) receive(ctx context.Context, r *arrival, m *model.Model, a *tidemill.Assignment, e *Effect, ev *Event) error {
	owner, ok := a.Members[a.Shards[e.Shard].Member]
	if !ok || s.cfg.Peer == nil {
		return fmt.Errorf("ps: shard %d has no owner that could be asked: %w", e.Shard, tidemill.ErrUnavailable)
	}
	peer, err := s.cfg.Peer(ctx, owner)
	if err != nil {
		return err
	}
	if e.Kind == Fetch {
		if m == nil {
			schema, err := model.DecodeSchema(a.Schema)
			if err != nil {
				return err
			}
			if m, err = model.CompileIn(ctx, s.cfg.Bucket, &a.Spec, schema, engine.Options{Profile: a.Profile}); err != nil {
				return err
			}
		}
		r.model, r.shard, r.since = m, newShard(m, e.Shard, len(a.Shards)), make([]*wire.Since, len(m.Layout.Tables))
	}
	req := &wire.CopyRequest{
		Job: a.Job, Generation: a.Generation, Routes: a.Routes(), Shard: e.Shard, Copy: e.Copy,
		Rest: e.Kind == FetchRest, Round: e.Round, Cut: e.Cut,
	}
	before := int64(-1)
	for pass := 1; ; pass++ {
		var left int64
		err := peer.Copy(ctx, req, func(p *wire.Piece) error {
			ev.Copy, left, ev.Ledger = p.Copy, p.Left, p.Ledger
			return r.take(p)
		})
		if err != nil {
			return err
		}
		req.Copy = ev.Copy
		if req.Rest {
			if ev.Ledger == nil {
				return fmt.Errorf("ps: the rest of shard %d came without its ledger: %w", e.Shard, tidemill.ErrCorrupt)
			}
			return nil
		}
		if left <= fewRows || pass == mostPasses || before >= 0 && left > before/2 {
			return nil
		}
		before = left
	}
}

// take adds a piece to the arriving shard.
func (r *arrival) take(p *wire.Piece) error {
	if p.Table < 0 || p.Table > len(r.shard.tables) || p.Table == len(r.shard.tables) && (len(p.IDs)+len(p.Removed) > 0 || p.Since != nil) {
		return fmt.Errorf("ps: handover: rows of table %d of %d: %w", p.Table, len(r.shard.tables), tidemill.ErrCorrupt)
	}
	for _, id := range p.Removed {
		t := r.shard.tables[p.Table]
		if row := t.find(id); row >= 0 { // it may have come and gone between two answers
			t.remove(row)
		}
	}
	if len(p.IDs) > 0 {
		t := r.shard.tables[p.Table]
		if len(p.Rows) != len(p.IDs)*t.width {
			return fmt.Errorf("ps: handover: %d values for %d rows of %d: %w", len(p.Rows), len(p.IDs), t.width, tidemill.ErrCorrupt)
		}
		for i, id := range p.IDs {
			t.put(id, p.Rows[i*t.width:(i+1)*t.width])
		}
	}
	if p.Since != nil && r.since != nil {
		r.since[p.Table] = p.Since
	}
	l := newLoader(r.model, make([]*shard, r.shard.number+1))
	l.shards[r.shard.number] = r.shard
	for _, b := range p.Blocks {
		if err := l.Block(r.shard.number, b); err != nil {
			return err
		}
	}
	for name, data := range p.Aux {
		if err := l.Aux(r.shard.number, name, data); err != nil {
			return err
		}
	}
	if p.Overflow != nil {
		if len(p.Overflow) != len(r.shard.tables) {
			return fmt.Errorf("ps: handover: overflow of %d tables of %d: %w", len(p.Overflow), len(r.shard.tables), tidemill.ErrCorrupt)
		}
		for i, n := range p.Overflow {
			r.shard.tables[i].overflow = n
		}
	}
	return nil
}

// discard drops what was fetched of a shard. mu is held.
func (j *job) discard(shard int) {
	if r := j.arrivals[shard]; r != nil {
		r.cancel()
		delete(j.arrivals, shard)
	}
}

// install makes an arrived shard part of the job; whole says that nothing is known of what the
// snapshots hold of it. mu is held.
func (j *job) install(number int, whole bool) {
	r := j.arrivals[number]
	delete(j.arrivals, number)
	if len(j.owned) == 0 {
		j.model, j.shards, j.fault = r.model, make([]*shard, len(j.assigned.Shards)), nil
	}
	for i, t := range r.shard.tables {
		if whole || i >= len(r.since) || r.since[i] == nil || !t.resume(r.since[i]) {
			t.since.forget()
		}
	}
	j.set(number, r.shard)
}

// set makes a shard this ps's, or no longer (nil). mu is held.
func (j *job) set(number int, s *shard) {
	j.shards[number] = s
	j.owned = j.owned[:0]
	for _, s := range j.shards {
		if s != nil {
			j.owned = append(j.owned, s)
		}
	}
}
