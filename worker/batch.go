package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/rows"
	"github.com/tidemill/tidemill/internal/wire"
)

// batcher computes one batch at a time: rows to inputs, parameters to gradient, gradient to
// pushes; while a batch is pushed the next one may be prepared. Its buffers are reused. A ps
// keeps what a push refers to until the round is applied: gradients are not touched before the
// next batch's parameters have been pulled, and ids, which are needed for that pull,
// alternate between two sets of buffers.
type batcher struct {
	o      *loop
	m      *model.Model
	shards []int // ps number by shard
	home   int   // ps number of the home shard's owner

	cur       Batch
	*prepared           // of the current batch
	spare     *prepared // of the next batch, or of the one before
	state     *feature.State
	ws        *feature.Workspace
	scratch   engine.Scratch
	params    engine.Params
	step      engine.Stepper
	result    *engine.Result
	outs      []progress.Outcome
	tag       wire.Tag
	peers     []peer
	hot       *hotRows // nil: no row is kept from batch to batch
}

// prepared is what is known of a batch before its parameters are.
type prepared struct {
	rng   tidemill.Range
	ready bool  // rng was read
	err   error // why nothing is ready, once it was tried
	from  *readAhead
	parts []part // of from
	// made: in is of the parts' blocks, with all that a step needs. Otherwise it is made of rec,
	// its sparse half first and the rest in compute.
	made    bool
	rec     arrow.RecordBatch // the batch's rows without those put aside; with made, nil until asked for
	newest  int64             // with made, event time
	rowOf   []int64           // offset of each row; nil while dense from rng.First
	bad     []snapshot.BadRow
	in      *engine.Inputs // own or shared
	own     engine.Inputs  // of which all is the batcher's
	shared  engine.Inputs  // of which all but keys and offsets is a block's
	offsets []int32        // of shared
	look    []engine.Lookup
	sparse  bool  // in, look and asks are filled in
	asks    []ask // by ps
}

// ask is which rows of which tables one ps is asked for.
type ask struct {
	ids [][]uint64
	at  [][]int32 // by table: position of each id in Lookup.Unique; unused with one ps
}

func newPrepared(ps, tables int) *prepared {
	p := &prepared{asks: make([]ask, ps)}
	p.in = &p.own
	for i := range p.asks {
		p.asks[i] = ask{make([][]uint64, tables), make([][]int32, tables)}
	}
	return p
}

// peer is what goes to and comes from one parameter server.
type peer struct {
	grads [][]float32
	pull  wire.PullRequest
	reply wire.PullReply
	push  wire.PushRequest
}

func newBatcher(o *loop, a *tidemill.Assignment) *batcher {
	b := &batcher{o: o, m: o.m, state: o.m.Plan.NewState(), ws: o.m.Plan.NewWorkspace(), step: o.m.Engine.NewStepper()}
	number := map[string]int{}
	for i, id := range a.PSes() {
		number[id] = i
	}
	b.shards = make([]int, len(a.Shards))
	for s, owner := range a.Shards {
		b.shards[s] = number[owner.Member]
	}
	b.home = b.shards[tidemill.HomeShard(len(b.shards))]
	tables, tensors := b.m.Layout.Tables, b.m.Layout.Tensors
	b.params.Rows = make([][]float32, len(tables))
	b.params.Dense = make([][]float32, len(tensors))
	for k, t := range tensors {
		b.params.Dense[k] = make([]float32, t.Len())
	}
	b.peers = make([]peer, len(number))
	for i := range b.peers {
		b.peers[i].grads = make([][]float32, len(tables))
	}
	b.prepared, b.spare = newPrepared(len(b.peers), len(tables)), newPrepared(len(b.peers), len(tables))
	if Keeps(&a.Spec.Train) > 0 {
		b.hot = newHotRows(a.Spec.Train.HotRows, len(b.peers), tables)
	}
	return b
}

// kept returns the number of examples of the current batch.
func (b *batcher) kept() int { return b.in.N }

func (b *batcher) header() wire.Header {
	return wire.Header{Job: b.o.job, Generation: b.o.generation, Partition: b.o.partition, Epoch: b.o.epoch, Round: b.cur.Round, Routes: b.o.routes}
}

// begin makes cur the current batch, prepared now unless it was ahead.
func (b *batcher) begin(ctx context.Context, cur Batch) error {
	b.cur = cur
	b.prepared.release()
	b.prepared, b.spare = b.spare, b.prepared
	if b.rng == cur.Range && (b.ready || b.err != nil) {
		return b.err
	}
	return b.prepare(ctx, cur.Range)
}

// ahead prepares the batch after the current one, which is being pushed. It is called again when
// a push is repeated: what was read then is there already, and cannot be read twice. What it
// cannot do is left to begin, which says why.
func (b *batcher) ahead(ctx context.Context, rng tidemill.Range) {
	if b.m.Plan.Learns() && !b.m.Plan.SparseFrozen(b.state) || b.spare.rng == rng && (b.spare.ready || b.spare.err != nil) {
		return
	}
	current := b.prepared
	b.prepared = b.spare
	if err := b.prepare(ctx, rng); err != nil {
		b.prepared.release()
		if ctx.Err() == nil {
			b.rng, b.err = rng, err
		}
	}
	b.prepared = current
}

func (p *prepared) release() {
	if p.rec != nil {
		p.rec.Release()
		p.rec = nil
	}
	for i := range p.parts {
		p.from.drop(p.parts[i].block)
	}
	clear(p.parts)
	p.parts, p.ready, p.made = p.parts[:0], false, false
}

// prepare reads a batch's rows and puts aside those that cannot be used.
func (b *batcher) prepare(ctx context.Context, rng tidemill.Range) (err error) {
	b.prepared.release()
	b.err = nil
	b.from = b.o.in.rows
	if b.parts, err = b.from.next(ctx, b.parts, rng); err != nil {
		return err
	}
	b.rng, b.ready, b.bad, b.rowOf, b.sparse = rng, true, b.bad[:0], nil, false
	b.made = !slices.ContainsFunc(b.parts, func(p part) bool { return p.plan != b.m.Plan })
	if b.made {
		b.share()
		return b.lookups()
	}
	pieces := make([]tidemill.Batch, len(b.parts))
	for i := range b.parts {
		pieces[i] = b.parts[i].batch()
	}
	if slices.ContainsFunc(pieces, func(p tidemill.Batch) bool { return p.Offsets != nil }) {
		for _, p := range pieces {
			for i := range int(p.Rows.NumRows()) {
				b.rowOf = append(b.rowOf, p.Offset(i))
			}
		}
	}
	b.undecodable(pieces)
	if b.rec, err = joined(pieces); err != nil {
		return err
	}
	b.in = &b.own
	b.drop(b.m.Plan.Check(b.rec, true))
	if !b.m.Plan.Learns() || b.m.Plan.SparseFrozen(b.state) {
		return b.inputs()
	}
	return nil
}

// share makes in of the parts' blocks.
func (b *batcher) share() {
	b.newest = 0
	for i := range b.parts {
		b.newest = max(b.newest, b.parts[i].newest())
	}
	if len(b.parts) == 1 {
		b.in = &b.shared
		b.parts[0].view(b.in, &b.offsets)
		return
	}
	b.in = &b.own
	b.in.Reset(b.parts[0].in.Fields, b.parts[0].in.Width)
	for i := range b.parts {
		b.parts[i].add(b.in)
	}
}

// separate makes rec of what came with blocks, so that rows can be left out.
func (b *batcher) separate() (err error) {
	if !b.made {
		return nil
	}
	if b.rec, err = record(b.parts); err != nil {
		return err
	}
	b.made = false
	if b.in == &b.shared {
		b.own.Reset(b.shared.Fields, b.shared.Width)
		b.parts[0].add(&b.own)
		b.own.Keys = append(b.own.Keys, b.shared.Keys...)
		b.in = &b.own
	}
	return nil
}

// concat joins the pieces of a batch that was read in several.
func concat(pieces []tidemill.Batch) (arrow.RecordBatch, error) {
	// Pieces read before a column was added lack it; the newest has all.
	fit := rows.NewFitter(pieces[len(pieces)-1].Rows.Schema(), nil)
	parts := make([]arrow.RecordBatch, 0, len(pieces))
	defer func() {
		for _, p := range parts {
			p.Release()
		}
		for _, p := range pieces {
			p.Rows.Release()
		}
	}()
	for _, p := range pieces {
		part, err := fit.Fit(p.Rows)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	return rows.Concat(parts, nil)
}

// undecodable puts aside what the stream holds in the batch's range and could not read as rows.
func (b *batcher) undecodable(pieces []tidemill.Batch) {
	from := len(b.bad)
	for _, p := range pieces {
		for _, r := range p.Bad {
			b.bad = append(b.bad, snapshot.BadRow{Partition: b.o.partition, Offset: r.Offset, Cause: tidemill.BadDecode, Reason: r.Reason})
		}
	}
	b.tellBad(b.bad[from:])
}

// drop puts rows aside.
func (b *batcher) drop(bad []feature.BadRow) {
	if len(bad) == 0 {
		return
	}
	if b.rowOf == nil {
		for i := range b.rec.NumRows() {
			b.rowOf = append(b.rowOf, b.rng.First+i)
		}
	}
	rec := feature.Drop(b.rec, bad)
	b.rec.Release()
	b.rec = rec
	gone, from := map[int]bool{}, len(b.bad)
	for _, r := range bad {
		gone[r.Row] = true
		b.bad = append(b.bad, snapshot.BadRow{Partition: b.o.partition, Offset: b.rowOf[r.Row], Cause: r.Cause, Reason: r.Column + ": " + r.Reason})
	}
	keep := b.rowOf[:0]
	for i, off := range b.rowOf {
		if !gone[i] {
			keep = append(keep, off)
		}
	}
	b.rowOf = keep
	b.sparse = false
	b.tellBad(b.bad[from:])
}

// tellBad tells that rows were put aside.
func (b *batcher) tellBad(bad []snapshot.BadRow) {
	f := b.o.w.cfg.Events.Bad
	if f == nil || len(bad) == 0 {
		return
	}
	n := map[string]int{}
	for _, r := range bad {
		n[r.Cause]++
	}
	for _, cause := range tidemill.BadCauses() {
		if n[cause] > 0 {
			f(b.o.job, cause, n[cause])
		}
	}
}

// inputs fills in the sparse half of the inputs and who is asked for which rows.
func (b *batcher) inputs() error {
	if err := b.m.Plan.Sparse(b.ws, b.in, b.rec, b.state); err != nil {
		return err
	}
	return b.lookups()
}

// lookups fills in who is asked for which rows.
func (b *batcher) lookups() error {
	b.look = engine.Lookups(b.look, &b.scratch, b.in, b.m.Engine)
	for t := range b.look {
		b.scratch.Sort(&b.look[t], len(b.shards))
	}
	b.sparse = true
	if len(b.peers) == 1 {
		for t := range b.look {
			b.asks[0].ids[t] = b.look[t].Unique
		}
		return nil
	}
	v := len(b.shards)
	for i := range b.peers {
		for t := range b.look {
			b.asks[i].ids[t], b.asks[i].at[t] = b.asks[i].ids[t][:0], b.asks[i].at[t][:0]
		}
	}
	for t := range b.look {
		for k, id := range b.look[t].Unique {
			p := &b.asks[b.shards[tidemill.ShardOf(id, v)]]
			p.ids[t] = append(p.ids[t], id)
			p.at[t] = append(p.at[t], int32(k))
		}
	}
	return nil
}

// pull asks one ps for its rows. Different ps may be asked at the same time.
func (b *batcher) pull(ctx context.Context, i int, cur Batch) error {
	p := &b.peers[i]
	p.pull = wire.PullRequest{Header: b.header(), IDs: b.asks[i].ids, Bare: !b.sparse}
	if b.hot == nil || p.pull.Bare {
		return b.o.ps[i].Pull(ctx, &p.pull, &p.reply)
	}
	kept, err := b.hot.pull(ctx, b.o.ps[i], i, &cur, &p.pull, &p.reply)
	if f := b.o.w.cfg.Events.Kept; f != nil && kept > 0 && err == nil {
		f(b.o.job, kept)
	}
	return err
}

// compute makes predictions, outcomes and the gradient from what was pulled.
func (b *batcher) compute(ctx context.Context) error {
	if err := b.learned(); err != nil {
		return err
	}
	if !b.sparse {
		// What ids look like depended on the state that the pull brought.
		if err := b.inputs(); err != nil {
			return err
		}
		if err := b.pullAgain(ctx); err != nil {
			return err
		}
	}
	for {
		if err := b.gather(); err != nil {
			return err
		}
		if !b.made {
			if err := b.m.Plan.Numeric(b.ws, b.in, b.rec, b.state); err != nil {
				return err
			}
			if err := b.m.Plan.Labels(b.in, b.rec); err != nil {
				return err
			}
		}
		b.keys()
		b.result = b.step.Step(b.in, b.look, &b.params)
		if err := b.step.Err(); err != nil {
			return err
		}
		bad, err := b.notFinite()
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			break
		}
		b.drop(bad)
		if err := b.inputs(); err != nil {
			return err
		}
		if err := b.pullAgain(ctx); err != nil {
			return err
		}
	}
	if b.m.Spec.Train.Reduction == tidemill.ReduceSum {
		engine.Scale(b.result, float32(b.in.N))
	}
	engine.ClipNorm(b.result, b.m.Spec.Optimizer.ClipNorm)
	b.scatter()
	return b.tell()
}

// keys fills in what the random numbers of each example are functions of.
func (b *batcher) keys() {
	b.in.Keys = b.in.Keys[:0]
	if !b.m.Keyed() {
		return
	}
	for i := range b.in.N {
		off := b.rng.First + int64(i)
		if b.rowOf != nil {
			off = b.rowOf[i]
		}
		b.in.Keys = append(b.in.Keys, engine.Key(b.m.Spec.Seed, b.o.partition, off))
	}
}

// pullAgain asks for rows within the round whose parameters were just served: they cannot have
// changed, since this partition's push is still missing.
func (b *batcher) pullAgain(ctx context.Context) error {
	for i := range b.peers {
		for {
			err := b.pull(ctx, i, b.cur)
			if err == nil {
				break
			}
			if !errors.Is(err, tidemill.ErrNotReady) && !errors.Is(err, tidemill.ErrUnavailable) || !pause(ctx, retryFirst) {
				return err
			}
		}
	}
	return b.learned()
}

// learned takes over the transform state that came with the home shard's answer.
func (b *batcher) learned() error {
	if !b.m.Plan.Learns() {
		return nil
	}
	home := b.peers[b.home].reply.Home
	if home == nil {
		return fmt.Errorf("pull: the transform state is missing: %w", tidemill.ErrCorrupt)
	}
	return b.m.Plan.ReadState(b.state, home)
}

// gather lays the pulled rows and blocks out as the engine wants them.
func (b *batcher) gather() error {
	for t := range b.look {
		dim := b.m.Layout.Tables[t].Dim
		if len(b.peers) == 1 {
			b.params.Rows[t] = b.peers[0].reply.Rows[t]
		} else {
			n := len(b.look[t].Unique) * dim
			if cap(b.params.Rows[t]) < n {
				b.params.Rows[t] = make([]float32, n)
			}
			b.params.Rows[t] = b.params.Rows[t][:n]
			for i := range b.peers {
				p := &b.peers[i]
				at := b.asks[i].at[t]
				if len(p.reply.Rows[t]) != len(at)*dim {
					return fmt.Errorf("pull: %d values for %d rows of %d: %w", len(p.reply.Rows[t]), len(at), dim, tidemill.ErrCorrupt)
				}
				for k, at := range at {
					copy(b.params.Rows[t][int(at)*dim:(int(at)+1)*dim], p.reply.Rows[t][k*dim:(k+1)*dim])
				}
			}
		}
		if len(b.params.Rows[t]) != len(b.look[t].Unique)*dim {
			return fmt.Errorf("pull: %d values for %d rows of %d: %w", len(b.params.Rows[t]), len(b.look[t].Unique), dim, tidemill.ErrCorrupt)
		}
	}
	for i := range b.peers {
		for _, blk := range b.peers[i].reply.Blocks {
			if blk.Tensor >= len(b.params.Dense) || (blk.Index+1)*tidemill.BlockSize < len(blk.Values) ||
				blk.Index*tidemill.BlockSize+len(blk.Values) > len(b.params.Dense[blk.Tensor]) {
				return fmt.Errorf("pull: block %d of tensor %d does not fit: %w", blk.Index, blk.Tensor, tidemill.ErrCorrupt)
			}
			copy(b.params.Dense[blk.Tensor][blk.Index*tidemill.BlockSize:], blk.Values)
		}
	}
	return nil
}

func finite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

// scatter splits the gradient by ps.
func (b *batcher) scatter() {
	for i := range b.peers {
		p := &b.peers[i]
		for t := range b.look {
			if len(b.peers) == 1 {
				p.grads[t] = b.result.RowGrads[t]
				continue
			}
			dim := b.m.Layout.Tables[t].Dim
			g := p.grads[t][:0]
			for _, at := range b.asks[i].at[t] {
				g = append(g, b.result.RowGrads[t][int(at)*dim:(int(at)+1)*dim]...)
			}
			p.grads[t] = g
		}
		p.push = wire.PushRequest{
			Header: b.header(), Range: b.cur.Range, Floor: b.cur.Range.First, Members: b.cur.Members,
			Examples: int64(b.in.N), IDs: b.asks[i].ids, Grads: p.grads, Blocks: p.push.Blocks[:0],
		}
		for _, blk := range p.reply.Blocks {
			from := blk.Index * tidemill.BlockSize
			p.push.Blocks = append(p.push.Blocks, wire.Block{
				Tensor: blk.Tensor, Index: blk.Index, Values: b.result.DenseGrads[blk.Tensor][from : from+len(blk.Values)],
			})
		}
	}
}

// tell fills in what the batch changes beside parameters.
func (b *batcher) tell() error {
	outputs := b.m.Engine.Outputs()
	b.outs = b.outs[:0]
	for i := range b.in.N {
		b.outs = append(b.outs, progress.Judge(b.m.Spec.Label.Type, b.result.Predictions[i*outputs:(i+1)*outputs], b.in.Labels[i], b.result.Losses[i]))
	}
	b.tag.Outcomes = progress.AppendOutcomes(b.tag.Outcomes[:0], b.outs)
	b.tag.Transforms = b.tag.Transforms[:0]
	if b.m.Plan.Learns() {
		var err error
		if b.tag.Transforms, err = b.m.Plan.AppendDelta(b.tag.Transforms, b.ws, b.rec); err != nil {
			return err
		}
	}
	b.tag.EventMax = 0
	if b.made {
		b.tag.EventMax = b.newest
	} else if b.in.N > 0 {
		if _, newest, ok := b.m.Plan.EventTimes(b.rec); ok {
			b.tag.EventMax = newest
		}
	}
	b.tag.Bad = append([]snapshot.BadRow(nil), b.bad...)
	slices.SortFunc(b.tag.Bad, func(x, y snapshot.BadRow) int { return cmp.Compare(x.Offset, y.Offset) })
	b.peers[b.home].push.Tag = &b.tag
	return nil
}

// push sends one ps its share. Different ps may be sent to at the same time.
func (b *batcher) push(ctx context.Context, i int, _ Batch) error {
	return b.o.ps[i].Push(ctx, &b.peers[i].push)
}
