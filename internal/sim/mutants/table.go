package main

// mutant is a deliberately broken variant of the product: small exact replacements in its
// source, and what must notice.
type mutant struct {
	name  string
	edits []edit
	args  []string // of the schedules: those that concern it
	// roles: what is broken lies outside the cores, and whole roles must notice.
	roles bool
}

// edit replaces old, which must occur exactly once in file, by new.
type edit struct {
	file, old, new string
}

// mutants are the broken variants.
var mutants = []mutant{
	{"acknowledge before apply", []edit{{"ps/core.go",
		`		c.apply(e, ev.Floor)
		c.emit(Effect{Kind: Accept, ID: ev.ID})
		c.finishSnapshot()
`, `		n := len(c.out)
		c.apply(e, ev.Floor)
		late := slices.Clone(c.out[n:])
		c.out = c.out[:n]
		c.emit(Effect{Kind: Accept, ID: ev.ID})
		c.finishSnapshot()
		c.out = append(c.out, late...)
`}}, nil, false},
	{"no epoch check", []edit{{"ps/core.go",
		`	if !c.has(ev) {
		return false
	}
	if ev.Epoch < c.epochs[ev.Partition] {`,
		`	if !c.has(ev) {
		return false
	}
	if false {`}}, nil, false},
	{"no generation check", []edit{
		{"ps/core.go", `	case ev.Generation < c.generation:`, `	case false:`},
		{"ps/core.go", `	case ev.Generation > c.generation:`, `	case false && ev.ID > 0:`},
		// A map of shards belongs to a generation: its check hides the lack of the other.
		{"ps/core.go", `	case ev.Routes < c.routes:`, `	case false && ev.ID > 1:`},
		{"ps/core.go", `	case ev.Routes > c.routes:`, `	case false && ev.ID > 2:`}}, nil, false},
	{"manifest before blobs", []edit{{"trainer/core.go",
		`			c.bar.marked[ev.Member] = true
`, `			c.bar.marked[ev.Member] = true
			c.written(ev)
`}}, nil, false},
	{"version before blobs", []edit{{"internal/snapshot/version.go",
		`	if err := g.Wait(); err != nil {
		return err
	}
	for _, info := range blobs {`,
		`	_ = g.Wait()
	for _, info := range blobs {`}}, nil, false},
	{"marks outside the snapshot", []edit{
		{"ps/core.go", `	c.ledger = make([]mark, len(ev.Epochs))
`, `	c.grow(len(ev.Epochs) - 1)
`},
		{"ps/core.go", `		c.ledger[p] = mark{floor: next, next: next}
`, `		if c.ledger[p].next < next {
			c.ledger[p] = mark{floor: next, next: next}
		}
`}}, nil, false},
	{"successor without fence", []edit{{"worker/core.go",
		`			if c.wait == 0 {
				c.join()`,
		`			if c.wait == c.cfg.PS-1 {
				for i := range c.held {
					c.held[i] = ev.Held
				}
				c.join()`}}, nil, false},
	{"rewind without fence record", []edit{
		{"internal/snapshot/manifest.go", `	return c.Append(ctx, m.Number, data)`,
			`	if m.Fence != nil {
		return nil
	}
	return c.Append(ctx, m.Number, data)`},
		{"trainer/core.go", `	c.number, c.base = ev.Number, r.Snapshot`, `	c.number, c.base = ev.Number-1, r.Snapshot`}}, nil, false},
	{"floor advanced too early", []edit{{"ps/core.go",
		`	m.next = e.rng.Next
`, `	m.next = e.rng.Next
	m.trim(m.next)
`}}, nil, false},
	{"overlapping range skipped silently", []edit{{"ps/core.go",
		`	return false, true
}`, `	return true, false
}`}}, nil, false},
	{"GC by age alone", []edit{{"internal/snapshot/retain.go",
		`		if ok && number <= last && !needed[name] {`, `		if ok && number < last-2 {`}}, nil, false},
	{"commit without all parts", []edit{{"trainer/core_rounds.go",
		`len(b.written) == len(c.psIDs) && !b.commits`, `len(b.written) > 0 && !b.commits`}}, nil, false},
	{"serving an unpublished version", []edit{{"serving/core.go",
		`	return rec.Version, true`, `	return rec.Version + 1, true`}}, nil, false},
	{"duplicate push applied twice", []edit{{"ps/core.go",
		`m.holds(ev.Range); applied {`, `m.holds(ev.Range); applied && ev.ID == 0 {`}}, nil, false},
	{"torn round not noticed", []edit{
		{"worker/core.go", `			if h.Applied > least {`, `			if h.Applied > least && c.phase == phaseNew {`},
		{"ps/core.go", `	if ev.Round <= c.round {
		// Only`, `	if ev.Round <= c.round {
		c.emit(Effect{Kind: Serve, ID: ev.ID})
		return
		// Only`}}, []string{"-staleness", "0"}, false},
	{"pull served before its round", []edit{{"ps/core.go",
		`	if c.staleness != 0 || ev.Round == c.round+1 {`, `	if c.staleness != 0 || ev.Round >= c.round+1 {`}}, nil, false},
	{"round applied in order of arrival", []edit{{"ps/core.go",
		`	c.gathered = slices.Insert(c.gathered, at, e)`, `	c.gathered = append(c.gathered, e)`}}, nil, false},
	{"rewind keeps the schedule", []edit{{"trainer/core.go",
		`	c.bar, c.tail, c.sched, c.rows, c.wanted = nil, nil, nil, 0, false`, `	c.bar, c.tail, c.rows, c.wanted = nil, nil, 0, false`}}, nil, false},
	{"rewind within the generation", []edit{{"trainer/core.go",
		`	c.asg.Generation = max(c.asg.Generation, r.Generation) + 1`, `	c.asg.Generation = max(c.asg.Generation, r.Generation, 1)`}}, nil, false},
	{"capture before the cut", []edit{{"ps/core.go",
		`		if p >= len(c.ledger) || c.ledger[p].next < next {
			return
		}`, `		if p >= len(c.ledger) {
			return
		}`}}, nil, false},
	{"partition moves within its epoch", []edit{{"trainer/core.go",
		`			*o = tidemill.Owner{Member: m, Epoch: seq}
			changed = true`, `			*o = tidemill.Owner{Member: m, Epoch: max(1, o.Epoch)}
			changed = true`}}, nil, false},
	{"records can be replaced", []edit{{"internal/snapshot/chain.go",
		`IfNotExist: true}`, `IfNotExist: false}`}}, nil, false},
	{"GC keeps a snapshot's own blobs only", []edit{{"internal/snapshot/retain.go",
		`		for _, b := range r.Blobs {
			needed[b] = true
		}
	}
	taken.Below`, `		for _, b := range r.Blobs {
			if n, ok := folderOf(b, prefix); ok && n == r.Number {
				needed[b] = true
			}
		}
	}
	taken.Below`}}, nil, false},
	{"savepoint of what was collected", []edit{{"internal/snapshot/savepoint.go",
		`	if err := stillWhole(ctx, b, m); err != nil {`, `	if err := stillWhole(ctx, b, m); err != nil && false {`}}, nil, false},
	{"base of the newest layer alone", []edit{{"internal/snapshot/table.go",
		`	for _, b := range base {`, `	for _, b := range base[max(0, len(base)-1):] {`}}, nil, false},
	{"job taken up unconfirmed", []edit{{"internal/sim/trainer.go",
		`	lease.confirm(func() {`, `	func(f func()) { f() }(func() {`}}, nil, false},
	{"insert on pull", []edit{{"ps/table.go",
		`		t.layout.Init.Fill(dst, t.seed, t.name, id, 0)
		return`, `		t.layout.Init.Fill(dst, t.seed, t.name, id, 0)
		t.add(id, t.initial(id, 0))
		return`}}, nil, true},
	{"deposed run stays deposed", []edit{{"trainer/lead.go",
		`	if !r.deposed && l.seen`, `	if r.deposed || l.seen`}}, nil, true},
	{"decision without evidence", []edit{{"trainer/gate/book.go",
		`By: "gate", Evidence: checks,`, `By: "gate", Evidence: checks[:0],`}}, nil, false},
}

// quick are the variants that CI proves each time.
var quick = []string{"acknowledge before apply", "successor without fence", "commit without all parts"}
