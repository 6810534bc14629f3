package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps"
)

// checks are the invariants, and what they remember. They look at the world from outside: at
// what is stored, applied, acknowledged and served, never at what a core says of itself.
type checks struct {
	owners    map[string]string // what and epoch → member
	names     map[string]bool   // of all that was ever created in the store
	manifests int
	fence     uint64            // largest generation that a fence record, or an assignment, begins
	term      uint64            // of leading: of whoever wrote the assignment last
	floors    map[floorOf]int64 // held by every ps below
	last      *entry            // newest manifest
	cut       tidemill.Cut      // its cut
	refs      map[int64][]shard // snapshot → its state by a serial computation of the schedule
	rounds    map[int64]int64
	newest    []*snapshot.Manifest          // as many as collectors keep, oldest first
	kept      map[string]*snapshot.Manifest // by acknowledged savepoint
	layers    int                           // blobs of older snapshots in newer ones
	collected int                           // objects

	champions map[int64]string // champion record → its writer
	crowned   string           // holder of the last fence in that chain
	published map[int64]bool   // versions
	why       map[string]bool  // reasons of champion records
}

func newChecks(w *World) checks {
	return checks{
		owners: map[string]string{}, names: map[string]bool{}, floors: map[floorOf]int64{}, refs: map[int64][]shard{0: emptyShards(w.cfg.Shards)}, rounds: map[int64]int64{},
		champions: map[int64]string{}, published: map[int64]bool{}, why: map[string]bool{}, kept: map[string]*snapshot.Manifest{},
	}
}

// assigned looks at a record that is about to be written.
func (c *checks) assigned(w *World, a tidemill.Assignment) {
	check := func(what string, i int, o tidemill.Owner) {
		if o.Member == "" {
			return
		}
		key := fmt.Sprintf("%s %d epoch %d", what, i, o.Epoch)
		if was, ok := c.owners[key]; ok && was != o.Member {
			_ = w.fail("%s belongs to %s and to %s", key, was, o.Member)
		}
		c.owners[key] = o.Member
	}
	for i, o := range a.Shards {
		check("shard", i, o)
	}
	for i, o := range a.Partitions {
		check("partition", i, o)
	}
	c.fence = max(c.fence, a.Generation)
	if a.Generation < w.records.asg.Generation {
		_ = w.fail("generation goes back from %d to %d", w.records.asg.Generation, a.Generation)
	}
}

// wrote looks at who is about to write the assignment: nobody whose successor has written it.
func (c *checks) wrote(w *World, by string, term uint64) {
	if term < c.term {
		_ = w.fail("%s, who led in term %d, replaces what was written in term %d", by, term, c.term)
	}
	c.term = term
}

// stored looks at what a member has just put into the store.
func (c *checks) stored(w *World, by string) {
	created, deleted := w.disk.take()
	ctx, b := context.Background(), w.disk.bucket
	for _, name := range created {
		if c.names[name] && isRecord(name) && !w.disk.lied {
			_ = w.fail("%s has replaced the record %s", by, name)
			return
		}
		c.names[name] = true
		parts := strings.Split(name, "/")
		switch {
		case !isRecord(name):
		case parts[0] == "jobs" && len(parts) == 5 && parts[2] == "snapshot":
			chain, _ := snapshot.Snapshots(b, jobName)
			n, _ := strconv.ParseInt(parts[3], 10, 64)
			m, err := snapshot.ReadManifest(ctx, chain, n)
			if err != nil {
				_ = w.fail("record %s: %v", name, err)
				return
			}
			c.committed(w, m, by)
		case parts[0] == "models" && parts[2] == "version":
			n, _ := strconv.ParseInt(parts[3], 10, 64)
			c.version(w, n)
		case parts[0] == "models" && parts[2] == "decision":
			n, _ := strconv.ParseInt(parts[3], 10, 64)
			d, err := snapshot.ReadDecision(ctx, b, modelName, n)
			if err != nil || len(d.Evidence) == 0 || d.Reason == "" || d.By == "" {
				_ = w.fail("a decision on version %d without its evidence: %+v %v", n, d, err)
			}
			w.say("version %d: %s", n, d.Decision)
		case parts[0] == "models" && parts[2] == "champion":
			n, _ := strconv.ParseInt(strings.TrimSuffix(parts[3], ".json"), 10, 64)
			c.champion(w, n, by)
		}
	}
	for _, name := range deleted {
		c.deleted(w, name)
	}
}

// committed looks at a new record of the snapshot chain.
func (c *checks) committed(w *World, m *snapshot.Manifest, by string) {
	if m.Fence != nil {
		w.say("%s fences the snapshots: %d", by, m.Number)
		c.fence = max(c.fence, m.Fence.Generation)
		return
	}
	if m.Generation < c.fence {
		_ = w.fail("%s has committed snapshot %d of generation %d, after generation %d began", by, m.Number, m.Generation, c.fence)
	}
	c.manifests++
	w.say("snapshot %d at %v round %d", m.Number, m.Cut, m.Round)
	for p := range c.cut {
		if p < len(m.Cut) && m.Cut[p] < c.cut[p] && !w.lied() {
			_ = w.fail("cut of partition %d goes back from %d to %d", p, c.cut[p], m.Cut[p])
		}
	}
	shards, err := readParts(context.Background(), w.disk.bucket, m.Parts, w.cfg.Shards, everything)
	if err != nil {
		_ = w.fail("snapshot %d is committed, and a blob that it names is not there: %v", m.Number, err)
		return
	}
	c.live(w, m)
	if w.broker.lied {
		c.last, c.cut = &entry{m, shards}, m.Cut
		return // what the rows were nobody knows any more
	}
	c.ledger(w, m, shards)
	if w.cfg.Staleness == 0 {
		c.serial(w, m, shards)
	}
	c.last, c.cut = &entry{m, shards}, m.Cut
}

// ledger counts every row below the cut.
func (c *checks) ledger(w *World, m *snapshot.Manifest, shards []shard) {
	if m.Examples != w.examples(m.Cut) {
		_ = w.fail("snapshot %d at %v has %d examples", m.Number, m.Cut, m.Examples)
	}
	want := map[uint64]int64{}
	for p := range m.Cut {
		if m.Cut[p] > int64(len(w.rows(p))) {
			_ = w.fail("snapshot %d cuts partition %d at %d, after its end", m.Number, p, m.Cut[p])
			return
		}
		for _, id := range w.rows(p)[w.first(p):m.Cut[p]] {
			want[id]++
		}
	}
	got := map[uint64]int64{}
	for i, s := range shards {
		for id, n := range s.count {
			if tidemill.ShardOf(id, w.cfg.Shards) != i {
				_ = w.fail("id %d lies in shard %d", id, i)
			}
			got[id] += n
		}
	}
	if maps.Equal(got, want) {
		return
	}
	for _, id := range sortedKeys(want) {
		if got[id] != want[id] {
			_ = w.fail("ledger of snapshot %d at %v: id %d was counted %d times and seen %d times", m.Number, m.Cut, id, got[id], want[id])
		}
	}
	_ = w.fail("ledger of snapshot %d at %v counts ids that were never seen", m.Number, m.Cut)
}

// serial computes the rounds of the manifest's schedule one after the other, from the parent's
// state, and compares every value.
func (c *checks) serial(w *World, m *snapshot.Manifest, shards []shard) {
	parent, ok := c.refs[m.Parent]
	if !ok {
		_ = w.fail("snapshot %d continues %d, which is no snapshot", m.Number, m.Parent)
		return
	}
	ref := make([]shard, len(parent))
	for i := range parent {
		ref[i] = parent[i].clone()
	}
	of := func(id uint64) shard { return ref[tidemill.ShardOf(id, len(ref))] }
	round := c.rounds[m.Parent]
	for _, run := range m.Schedule {
		if run.Round != round+1 {
			_ = w.fail("the schedule of snapshot %d goes from round %d to %d", m.Number, round, run.Round)
		}
		for k := range run.Rounds {
			grads := make([]uint64, len(run.Steps))
			rows := func(s snapshot.Step) []uint64 {
				first := s.First + k*s.Rows
				return w.rows(s.Partition)[first : first+s.Rows]
			}
			for i, s := range run.Steps {
				var pulled uint64
				for _, id := range rows(s) {
					pulled += of(id).pull(id)
				}
				grads[i] = gradientOf(pulled, s.First+k*s.Rows, s.Partition)
			}
			for i, s := range run.Steps {
				for j, id := range rows(s) {
					of(id).apply(id, grads[i], j)
				}
			}
		}
		round = run.Round + run.Rounds - 1
	}
	if round != m.Round {
		_ = w.fail("snapshot %d is of round %d, its schedule ends with %d", m.Number, m.Round, round)
	}
	for i := range ref {
		if !maps.Equal(ref[i].value, shards[i].value) {
			_ = w.fail("snapshot %d: the values of shard %d are not those of its schedule", m.Number, i)
			return
		}
	}
	c.refs[m.Number], c.rounds[m.Number] = ref, round
}

// version looks at a new version: it exists, so it has to be whole and exact.
func (c *checks) version(w *World, n int64) {
	files, err := snapshot.ReadVersion(context.Background(), w.disk.bucket, modelName, n)
	if err != nil {
		_ = w.fail("version %d exists and cannot be read: %v", n, err)
		return
	}
	if w.broker.lied {
		return
	}
	want := map[uint64]float32{}
	for p, next := range files.Version.Cut {
		for _, id := range w.rows(p)[w.first(p):next] {
			want[id]++
		}
	}
	got := map[uint64]float32{}
	for i, id := range files.Tables[0].IDs {
		got[id] = files.Tables[0].Weights[i]
	}
	if !maps.Equal(got, want) {
		_ = w.fail("version %d at %v does not count what is below its cut", n, files.Version.Cut)
	}
}

// champion looks at a new champion record.
func (c *checks) champion(w *World, n int64, by string) {
	ctx, b := context.Background(), w.disk.bucket
	chain, _ := snapshot.Champions(b, modelName)
	rec, err := snapshot.ReadChampion(ctx, chain, n)
	if err != nil {
		_ = w.fail("champion record %d: %v", n, err)
		return
	}
	c.champions[n] = by
	if rec.Kind == snapshot.ChampionFence {
		w.say("%s fences the champions: %d", by, n)
		c.crowned = by
		return
	}
	w.say("%s publishes version %d", by, rec.Version)
	if by != c.crowned {
		_ = w.fail("%s has published version %d, after %s had fenced it", by, rec.Version, c.crowned)
	}
	if _, err := snapshot.ReadVersion(ctx, b, modelName, rec.Version); err != nil && !w.disk.lied {
		_ = w.fail("version %d is published and cannot be read: %v", rec.Version, err)
	}
	ds, err := snapshot.ReadDecisions(ctx, b, modelName, rec.Version)
	if err != nil && !w.disk.lied {
		_ = w.fail("version %d is published, and its decisions cannot be read: %v", rec.Version, err)
	}
	if !slices.ContainsFunc(ds, func(d tidemill.Decision) bool {
		return d.Decision == tidemill.Published && d.By == rec.By && d.Reason == rec.Why
	}) && !w.disk.lied {
		_ = w.fail("version %d is published by %s because of %q, and no decision says so", rec.Version, rec.By, rec.Why)
	}
	c.published[rec.Version] = true
	c.why[rec.Why] = true
}

// served looks at what a replica has begun to serve.
func (c *checks) served(w *World, n *node, version int64) {
	if !c.published[version] {
		_ = w.fail("%s serves version %d, which was never published", n.name, version)
	}
}

// answered looks at the version that a prediction names.
func (c *checks) answered(w *World, from string, version int64) {
	if !c.published[version] {
		_ = w.fail("%s answers from version %d, which was never published", from, version)
	}
}

// final takes the newest manifest for the job's result.
func (c *checks) final(w *World) bool {
	if c.last == nil {
		_ = w.fail("the job has finished without a snapshot")
		return true
	}
	for _, n := range w.roles("t") {
		if n.trainer != nil && n.trainer.val != nil && n.trainer.val.done {
			w.final = c.last
			return true
		}
	}
	return false
}

// end looks at what has to be the case once everything is over.
func (c *checks) end(w *World) {
	if w.disk.lied || w.broker.lied || w.final == nil {
		return
	}
	for p := range c.cut {
		if c.cut[p] != int64(len(w.rows(p))) && !w.cfg.Bounded {
			_ = w.fail("the job has finished at %v, and partition %d has %d rows", c.cut, p, len(w.rows(p)))
		}
	}
	for _, key := range sortedKeys(w.clients.produced) {
		a := w.clients.produced[key]
		if r := a.rng; r.Next > int64(len(w.log[a.partition])) || !slices.Equal(w.log[a.partition][r.First:r.Next], a.rows) {
			_ = w.fail("rows %v of partition %d were acknowledged and are not there", r, a.partition)
		}
	}
	for _, why := range sortedKeys(w.clients.promoted) {
		if !c.why[why] {
			_ = w.fail("a promotion was acknowledged and is in no champion record: %s", why)
		}
	}
	for _, name := range sortedKeys(w.clients.submitted) {
		if _, ok := w.kv.other[name]; !ok && name != jobName {
			_ = w.fail("job %s was acknowledged and has no record", name)
		}
	}
	for _, name := range sortedKeys(c.kept) {
		c.whole(w, c.kept[name], "savepoint "+name+" was acknowledged")
	}
	for _, m := range c.newest {
		c.whole(w, m, "it is one of the newest")
	}
	ctx, b := context.Background(), w.disk.bucket
	numbers, err := snapshot.ListVersions(ctx, b, modelName)
	if err != nil {
		_ = w.fail("versions cannot be listed: %v", err)
	}
	offered := int64(0)
	for _, n := range numbers {
		v, err := snapshot.ReadVersionRecord(ctx, b, modelName, n)
		if err != nil {
			_ = w.fail("version %d: %v", n, err)
		}
		offered = max(offered, v.Snapshot)
		if _, err := snapshot.ReadDecision(ctx, b, modelName, n); err != nil {
			_ = w.fail("version %d has no decision: %v", n, err)
		}
	}
	// The last snapshot of all becomes a version, whoever has to make it.
	if m := c.last.manifest; m.Examples > 0 && offered != m.Number {
		_ = w.fail("the last snapshot is %d, the last version was made of %d", c.last.manifest.Number, offered)
	}
}

// floorOf names a partition in a generation.
type floorOf struct {
	generation uint64
	partition  int
}

// acked looks at a batch that a worker believes is held by every ps.
func (c *checks) acked(w *World, l *loop, p int, next int64) {
	at := floorOf{l.generation, p}
	c.floors[at] = max(c.floors[at], next)
	for _, id := range l.pss {
		n, incarnation := w.member(id)
		if n == nil || n.ps == nil || n.incarnation != incarnation {
			continue
		}
		if g, ready := n.ps.core.Generation(); g != l.generation || !ready {
			continue
		}
		if have := max(w.first(p), n.ps.watch.next[p], n.ps.watch.held[p]); have < next {
			_ = w.fail("offsets of partition %d below %d are acknowledged, and %s has those below %d", p, next, id, have)
		}
	}
}

// strayTries is how often, a millisecond apart, stray looks for its moment.
const strayTries = 200

// stray sends a ps a push that overlaps what it has applied last, as no worker should: whatever
// becomes of it, it may not be acknowledged. It waits for a moment at which some server may still
// lack that batch, since what all have is skipped unseen.
func (w *World) stray(n *node, partition, tries int) {
	if n.ps == nil || partition >= len(n.ps.asg.Partitions) {
		return
	}
	all := n.ps.watch.ranges[partition]
	if len(all) == 0 || all[len(all)-1].Next <= w.checks.floors[floorOf{n.ps.watch.generation, partition}] {
		if tries > 1 {
			w.on(n, n.incarnation, ms, func() { w.stray(n, partition, tries-1) })
		}
		return
	}
	r := all[len(all)-1]
	switch w.rng.IntN(3) {
	case 0:
		r.Next++
	case 1:
		r.First--
	default:
		r.Next--
	}
	if r.Empty() || r.First < 0 {
		return
	}
	n.ps.ask(ps.Event{
		Kind: ps.Push, Generation: n.ps.asg.Generation, Partition: partition, Routes: n.ps.asg.Routes(), Epoch: n.ps.asg.Partitions[partition].Epoch,
		Round: n.ps.core.Round() + 1, Range: r, Floor: r.First, Examples: r.Next - r.First,
		Payload: gradient{generation: n.ps.asg.Generation},
	}, nil, func(any, error) {})
}

// psWatch watches one ps: what it applies and acknowledges, in its present generation.
type psWatch struct {
	generation uint64
	next       map[int]int64  // partition → applied below
	held       map[int]int64  // partition → acknowledged below
	epochs     map[int]uint64 // partition → epoch that has fenced the others
	ranges     map[int][]tidemill.Range
}

func (x *psWatch) restored(p *psNode, a tidemill.Assignment) { x.began(p, a.Generation, a.Cut) }

// began: p stands at a cut, by a restore or with the first shard that it took over.
func (x *psWatch) began(p *psNode, generation uint64, cut tidemill.Cut) {
	*x = psWatch{generation, map[int]int64{}, map[int]int64{}, map[int]uint64{}, map[int][]tidemill.Range{}}
	for i, next := range cut {
		x.next[i], x.held[i] = next, next
	}
}

func (x *psWatch) fenced(p *psNode, ev *ps.Event) {
	if ev.Generation != x.generation {
		_ = p.w.fail("%s lets generation %d fence, and is in %d", p.n.id(), ev.Generation, x.generation)
	}
	if ev.Epoch < x.epochs[ev.Partition] {
		_ = p.w.fail("%s lets epoch %d of partition %d fence, after epoch %d had", p.n.id(), ev.Epoch, ev.Partition, x.epochs[ev.Partition])
	}
	x.epochs[ev.Partition] = ev.Epoch
}

func (x *psWatch) accepted(p *psNode, ev *ps.Event) {
	if ev.Generation != x.generation {
		_ = p.w.fail("%s accepts a push of generation %d in generation %d", p.n.id(), ev.Generation, x.generation)
	}
	if ev.Epoch < x.epochs[ev.Partition] {
		_ = p.w.fail("%s accepts a push of epoch %d of partition %d, after epoch %d had fenced it", p.n.id(), ev.Epoch, ev.Partition, x.epochs[ev.Partition])
	}
	// What is acknowledged as applied was applied as it is, or every server has gone past it.
	if r := ev.Range; r.First < x.next[ev.Partition] && !slices.Contains(x.ranges[ev.Partition], r) && r.Next > p.w.checks.floors[floorOf{x.generation, ev.Partition}] {
		_ = p.w.fail("%s acknowledges %v of partition %d, and has applied %v", p.n.id(), r, ev.Partition, x.ranges[ev.Partition])
	}
	x.held[ev.Partition] = max(x.held[ev.Partition], ev.Range.Next)
}

func (x *psWatch) applied(p *psNode, e *ps.Effect, g gradient) {
	if g.generation != x.generation {
		_ = p.w.fail("%s applies a push of generation %d in generation %d", p.n.id(), g.generation, x.generation)
	}
	if _, known := x.next[e.Partition]; !known { // it has joined since
		x.next[e.Partition] = p.w.first(e.Partition)
	}
	if e.Range.First != x.next[e.Partition] {
		_ = p.w.fail("%s applies %v of partition %d, and had applied everything below %d", p.n.id(), e.Range, e.Partition, x.next[e.Partition])
	}
	x.next[e.Partition] = e.Range.Next
	x.ranges[e.Partition] = append(x.ranges[e.Partition], e.Range)
}

func (x *psWatch) captured(p *psNode, ev *ps.Event) {
	if ev.Generation != x.generation {
		_ = p.w.fail("%s captures a snapshot of generation %d in generation %d", p.n.id(), ev.Generation, x.generation)
	}
	for i, next := range ev.Cut {
		if have, known := x.next[i]; known && have != next || !known && next != p.w.first(i) {
			_ = p.w.fail("%s captures a snapshot at %v, and has applied partition %d below %d", p.n.id(), ev.Cut, i, x.next[i])
		}
	}
}
