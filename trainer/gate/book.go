package gate

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
)

// MaxUnderTest is how many candidates a Book tests at a time.
const MaxUnderTest = 8

// Serving names a version that serves, or served, with the cut it was trained to.
type Serving struct {
	Version int64
	Cut     tidemill.Cut
}

// Config is what a Book starts from.
type Config struct {
	Model      string
	Partitions int
	Gate       tidemill.GateSpec
	// Champion serves now; Version 0: nothing does. Anchor is what creep is measured against;
	// Version 0 means the champion itself.
	Champion, Anchor Serving
	// Window is the number of scored rows remembered, over all partitions; 0 means twice
	// MaxExamples. When it is full the row that arrived first goes, and counts no more for
	// a candidate that had not come to it yet. A row takes about 60 bytes.
	Window int
}

// Book judges the candidates of one model, several at a time. It is a step function: feed it
// events, carry out the outcomes. Equal sequences of events give equal outcomes; how the rows
// of a partition are chopped into Rows events makes no difference. It belongs to one
// goroutine.
//
// A candidate's rows are those beyond the component-wise maximum of its cut and those of the
// champion and the anchor. They are counted in the order in which the Book first saw them,
// whichever model was scored on them first, and each one only when all who are compared have
// been scored on it. When the champion changes, whoever is still under test starts again
// against the new one, on the remembered rows.
type Book struct {
	cfg        Config
	win        *window
	champion   Serving
	anchor     Serving // Version equals champion's when they are the same
	candidates []*candidate
	waiting    *candidate // the newest one that found no free place
	out        []Outcome
}

type candidate struct {
	version int64
	cut     tidemill.Cut
	facts   Facts
	seq     int64   // sequence number of the next row to look at
	idx     []int64 // absolute index of each partition's next row at seq

	loss, champion, anchor, prior tally
}

type tally struct {
	sum float64
	n   int64
}

func (t *tally) add(x float32) {
	if finite(float64(x)) {
		t.sum += float64(x)
		t.n++
	}
}

// NewBook returns a Book, or ErrInvalid.
func NewBook(cfg Config) (*Book, error) {
	if cfg.Partitions < 1 {
		return nil, tidemill.Invalid("a gate over %d partitions", "a stream has at least one", cfg.Partitions)
	}
	cfg.Gate = withDefaults(cfg.Gate)
	if cfg.Window <= 0 {
		cfg.Window = int(min(2*cfg.Gate.MaxExamples, 1<<24))
	}
	if cfg.Champion.Version != 0 && cfg.Anchor.Version == 0 {
		cfg.Anchor = cfg.Champion
	}
	if cfg.Champion.Version == 0 {
		cfg.Anchor = Serving{}
	}
	for _, s := range []Serving{cfg.Champion, cfg.Anchor} {
		if s.Version != 0 && len(s.Cut) > cfg.Partitions {
			return nil, tidemill.Invalid("version %d has a cut of %d partitions, the stream has %d", "", s.Version, len(s.Cut), cfg.Partitions)
		}
	}
	b := &Book{cfg: cfg, win: newWindow(cfg.Partitions, cfg.Window), champion: cfg.Champion, anchor: cfg.Anchor}
	b.keepLosses()
	return b, nil
}

// Step takes one event and returns the decisions that follow from it, in order. An event that
// cannot be right is refused with ErrInvalid and changes nothing.
func (b *Book) Step(e Event) ([]Outcome, error) {
	b.out = nil
	var err error
	switch e := e.(type) {
	case Offer:
		err = b.offer(e)
	case Rows:
		err = b.rows(e)
	case ByHand:
		err = b.byHand(e)
	case End:
		b.end()
	default:
		err = tidemill.Invalid("unknown event %T", "", e)
	}
	if err == nil {
		b.advance()
	}
	out := b.out
	b.out = nil
	return out, err
}

// Champion is the version that serves, 0 if none does.
func (b *Book) Champion() Serving { return b.champion }

// Anchor is the version that creep is measured against, 0 if nothing serves.
func (b *Book) Anchor() Serving { return b.anchor }

func (b *Book) offer(e Offer) error {
	switch {
	case e.Version <= 0:
		return tidemill.Invalid("version %d was offered", "versions count from 1", e.Version)
	case len(e.Cut) != b.cfg.Partitions:
		return tidemill.Invalid("version %d has a cut of %d partitions, the stream has %d", "", e.Version, len(e.Cut), b.cfg.Partitions)
	case e.Version == b.champion.Version || b.find(e.Version) != nil || b.waiting != nil && b.waiting.version == e.Version:
		return tidemill.Invalid("version %d was offered twice", "a version is offered once", e.Version)
	}
	c := &candidate{version: e.Version, cut: e.Cut.Clone(), facts: Facts{Mechanics: e.Mechanics}}
	b.restart(c)
	if e.Version < b.champion.Version {
		b.supersede(c, fmt.Sprintf("version %d serves already", b.champion.Version))
		return nil
	}
	switch decision, at := c.facts.verdict(b.cfg.Gate); {
	case decision == tidemill.Published:
		b.publish(c)
		return nil
	case decision == tidemill.Rejected, at != CheckRows:
		b.decide(c, decision, "")
		return nil
	}
	if len(b.candidates) < MaxUnderTest {
		b.admit(c)
		return nil
	}
	// Full: none under test is displaced, and only the newest of the others is worth a test.
	older := b.waiting
	if older != nil && older.version > c.version {
		older, c = c, older
	}
	b.waiting = c
	if older != nil {
		b.supersede(older, fmt.Sprintf("%d candidates were under test, and version %d was offered before one was decided", MaxUnderTest, c.version))
	}
	return nil
}

func (b *Book) admit(c *candidate) {
	b.win.model(c.version, c.cut)
	b.restart(c)
	i, _ := slices.BinarySearchFunc(b.candidates, c.version, func(x *candidate, v int64) int { return int(x.version - v) })
	b.candidates = slices.Insert(b.candidates, i, c)
}

func (b *Book) find(version int64) *candidate {
	for _, c := range b.candidates {
		if c.version == version {
			return c
		}
	}
	return nil
}

// restart makes c begin again against the present champion and anchor, at the oldest row kept.
func (b *Book) restart(c *candidate) {
	g := b.cfg.Gate
	c.loss, c.champion, c.anchor, c.prior = tally{}, tally{}, tally{}, tally{}
	f := Facts{Mechanics: c.facts.Mechanics, Prior: Rival{Test: NewTest(g.Alpha, g.Clip, 0)}}
	if b.champion.Version != 0 {
		f.Champion = Rival{Version: b.champion.Version, Test: NewTest(g.Alpha, g.Clip, g.Margin)}
		f.Superior = NewTest(g.Alpha, g.Clip, 0)
		if b.anchor.Version != b.champion.Version {
			f.Anchor = Rival{Version: b.anchor.Version, Test: NewTest(g.Alpha, g.Clip, g.Margin)}
		}
	}
	c.facts = f
	c.idx = make([]int64, b.cfg.Partitions)
	b.toFirst(c)
}

func (b *Book) toFirst(c *candidate) {
	c.seq = b.win.first
	for p := range c.idx {
		c.idx[p] = b.win.parts[p].base
	}
}

func (b *Book) rows(e Rows) error {
	if err := b.checkRows(e); err != nil {
		return err
	}
	p := &b.win.parts[e.Partition]
	n := len(e.Offsets)
	if e.Offsets == nil {
		n = int(e.Range.Next - e.Range.First)
	}
	for i := range n {
		offset := e.Range.First + int64(i)
		if e.Offsets != nil {
			offset = e.Offsets[i]
		}
		row := 0
		if offset >= p.next {
			row = b.win.append(e.Partition, offset, storable(e.Prior[i]))
			p.next = offset + 1
		} else if row = p.find(offset); row == len(p.offsets) || p.offsets[row] != offset {
			continue // it has left the window
		}
		for version, losses := range e.Losses {
			if c := p.losses[version]; c != nil && isUnscored(c.loss[row]) {
				c.loss[row] = storable(losses[i])
			}
		}
		b.advance()
		b.win.trim()
	}
	p.next = max(p.next, e.Range.Next)
	return nil
}

func (b *Book) checkRows(e Rows) error {
	if e.Partition < 0 || e.Partition >= b.cfg.Partitions {
		return tidemill.Invalid("rows of partition %d, the stream has %d", "", e.Partition, b.cfg.Partitions)
	}
	if e.Range.First < 0 || e.Range.Next < e.Range.First {
		return tidemill.Invalid("rows of range %v", "a range starts at 0 or above and does not end before it starts", e.Range)
	}
	n := e.Range.Next - e.Range.First
	last := e.Range.First - 1
	if e.Offsets != nil {
		n = int64(len(e.Offsets))
		for _, o := range e.Offsets {
			if o <= last || o >= e.Range.Next {
				return tidemill.Invalid("offset %d after %d in range %v", "offsets increase within their range", o, last, e.Range)
			}
			last = o
		}
	} else {
		last = e.Range.Next - 1
	}
	for v, l := range e.Losses {
		if int64(len(l)) != n {
			return tidemill.Invalid("%d losses of version %d for %d rows", "", len(l), v, n)
		}
	}
	p := &b.win.parts[e.Partition]
	if last >= p.next && int64(len(e.Prior)) != n {
		return tidemill.Invalid("%d prior losses for %d rows", "rows that are new need the prior's loss", len(e.Prior), n)
	}
	if e.Range.First > p.next {
		for _, c := range b.candidates {
			if from := max(p.next, b.from(c, e.Partition)); from < e.Range.First {
				return tidemill.Invalid("rows %v of partition %d are missing, version %d is judged on them",
					"score from the offsets that Wants gives", tidemill.Range{First: from, Next: e.Range.First}, e.Partition, c.version)
			}
		}
	}
	return nil
}

// advance lets every candidate take the rows it can, the one furthest behind first, and
// carries out what is decided on the way.
func (b *Book) advance() {
	for {
		var next *candidate
		for _, c := range b.candidates {
			if c.seq < b.win.first {
				b.toFirst(c)
			}
			if (next == nil || c.seq < next.seq) && b.ready(c) {
				next = c
			}
		}
		if next == nil {
			return
		}
		if b.take(next) {
			b.judge(next)
		}
	}
}

// ready reports whether c's next row is there, and scored by all who are compared on it.
func (b *Book) ready(c *candidate) bool {
	if c.seq >= b.win.end() {
		return false
	}
	part := b.win.at(c.seq)
	p := &b.win.parts[part]
	row := p.row(c.idx[part])
	if p.offsets[row] < b.from(c, part) {
		return true
	}
	for _, v := range [...]int64{c.version, b.champion.Version, b.anchor.Version} {
		if v != 0 && isUnscored(p.losses[v].loss[row]) {
			return false
		}
	}
	return true
}

// from is the first offset of a partition that counts for c.
func (b *Book) from(c *candidate, part int) int64 {
	return max(c.cut[part], lower(b.champion.Cut, part), lower(b.anchor.Cut, part))
}

// take moves c over its next row, and reports whether the row counted.
func (b *Book) take(c *candidate) bool {
	part := b.win.at(c.seq)
	p := &b.win.parts[part]
	row := p.row(c.idx[part])
	c.seq++
	c.idx[part]++
	if p.offsets[row] < b.from(c, part) {
		return false
	}
	loss := p.losses[c.version].loss[row]
	c.loss.add(loss)
	c.prior.add(p.prior[row])
	f := &c.facts
	f.Rows++
	f.Prior.Test.Add(p.prior[row], loss)
	if f.Champion.Test != nil {
		champion := p.losses[b.champion.Version].loss[row]
		anchor := p.losses[b.anchor.Version].loss[row]
		c.champion.add(champion)
		c.anchor.add(anchor)
		f.Champion.Test.Add(champion, loss)
		f.Superior.Add(anchor, loss)
		if f.Anchor.Test != nil {
			f.Anchor.Test.Add(anchor, loss)
		}
	}
	return true
}

// settled returns c's facts with their means.
func (c *candidate) settled() Facts {
	f := c.facts
	f.Loss = mean(c.loss.sum, c.loss.n)
	f.Prior.Loss = mean(c.prior.sum, c.prior.n)
	f.Champion.Loss = mean(c.champion.sum, c.champion.n)
	f.Anchor.Loss = mean(c.anchor.sum, c.anchor.n)
	return f
}

func (b *Book) judge(c *candidate) {
	if c.facts.Rows < b.cfg.Gate.MinExamples {
		return
	}
	f := c.settled()
	switch decision, _ := f.verdict(b.cfg.Gate); decision {
	case tidemill.Published:
		b.publish(c)
	case tidemill.Rejected:
		b.decide(c, decision, "")
		b.drop(c)
		b.fill()
	}
}

// decide records a decision on c with the evidence as it stands; why replaces the reason.
func (b *Book) decide(c *candidate, decision, why string) {
	_, reason, checks := Decide(b.cfg.Gate, c.settled())
	if why != "" {
		reason = why
	}
	b.out = append(b.out, Outcome{Decision: tidemill.Decision{
		Model: b.cfg.Model, Version: c.version, Decision: decision, Reason: reason, By: "gate", Evidence: checks,
	}})
}

func (b *Book) supersede(c *candidate, why string) { b.decide(c, tidemill.Superseded, why) }

func (b *Book) publish(c *candidate) {
	anchor := b.anchor
	if b.champion.Version == 0 || c.facts.Superior != nil && c.facts.Superior.Crossed() {
		anchor = Serving{c.version, c.cut}
	}
	b.decide(c, tidemill.Published, "")
	o := &b.out[len(b.out)-1]
	o.Champion = &tidemill.Champion{
		Model: b.cfg.Model, Version: c.version, Anchor: anchor.Version, Kind: KindGate, By: "gate", Why: o.Decision.Reason,
	}
	b.enthrone(Serving{c.version, c.cut}, anchor)
}

// enthrone makes a version the champion: older candidates are superseded, newer ones start
// again against it.
func (b *Book) enthrone(champion, anchor Serving) {
	keep := b.candidates[:0:0]
	for _, c := range b.candidates {
		switch {
		case c.version < champion.Version:
			b.supersede(c, fmt.Sprintf("version %d was published first", champion.Version))
		case c.version > champion.Version:
			keep = append(keep, c)
		}
	}
	b.candidates = keep
	if w := b.waiting; w != nil && w.version <= champion.Version {
		b.waiting = nil
		if w.version < champion.Version {
			b.supersede(w, fmt.Sprintf("version %d was published first", champion.Version))
		}
	}
	b.champion, b.anchor = champion, anchor
	b.keepLosses()
	for _, c := range b.candidates {
		b.restart(c)
	}
	b.fill()
}

// keepLosses remembers losses of exactly the versions that are compared.
func (b *Book) keepLosses() {
	needed := map[int64]bool{}
	for _, s := range [...]Serving{b.champion, b.anchor} {
		if s.Version != 0 {
			needed[s.Version] = true
			b.win.model(s.Version, s.Cut)
		}
	}
	for _, c := range b.candidates {
		needed[c.version] = true
	}
	for v := range b.win.parts[0].losses {
		if !needed[v] {
			b.win.forget(v)
		}
	}
}

func (b *Book) drop(c *candidate) {
	b.candidates = slices.DeleteFunc(b.candidates, func(x *candidate) bool { return x == c })
	b.keepLosses()
}

// fill gives a free place to the candidate that waits for one.
func (b *Book) fill() {
	if b.waiting != nil && len(b.candidates) < MaxUnderTest {
		c := b.waiting
		b.waiting = nil
		b.admit(c)
	}
}

func (b *Book) byHand(e ByHand) error {
	switch {
	case e.Version <= 0 || len(e.Cut) != b.cfg.Partitions:
		return tidemill.Invalid("version %d with a cut of %d partitions cannot be made champion", "name a stored version", e.Version, len(e.Cut))
	case e.Kind != KindPromote && e.Kind != KindRollback:
		return tidemill.Invalid("a decision by hand of kind %q", "promote or rollback", e.Kind)
	case e.By == "" || e.Why == "":
		return tidemill.Invalid("a %s without who or why", "both are recorded", e.Kind)
	}
	spec := b.cfg.Gate
	spec.Mode = tidemill.GateOff // leaves the mechanical checks
	decision, reason, checks := Decide(spec, Facts{Mechanics: e.Mechanics})
	if decision != tidemill.Published {
		return tidemill.Invalid("version %d cannot be made champion: %s", "no hand skips this check", e.Version, reason)
	}
	checks[len(checks)-1].Detail = e.Kind + " by hand: no evidence was asked for"
	s := Serving{e.Version, e.Cut.Clone()}
	b.out = append(b.out, Outcome{
		Decision: tidemill.Decision{Model: b.cfg.Model, Version: e.Version, Decision: tidemill.Published, Reason: e.Why, By: e.By, Evidence: checks},
		Champion: &tidemill.Champion{Model: b.cfg.Model, Version: e.Version, Anchor: e.Version, Kind: e.Kind, By: e.By, Why: e.Why},
	})
	b.enthrone(s, s)
	return nil
}

func (b *Book) end() {
	left := b.candidates
	if b.waiting != nil {
		left = append(left, b.waiting)
		slices.SortFunc(left, func(x, y *candidate) int { return int(x.version - y.version) })
	}
	for _, c := range left {
		f := c.settled()
		_, reason, _ := Decide(b.cfg.Gate, f)
		b.decide(c, tidemill.Held, "the stream ended: "+reason)
	}
	b.candidates, b.waiting = nil, nil
	b.keepLosses()
}
