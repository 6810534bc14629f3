package carry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// What becomes of something.
const (
	Carried     = "carried"
	Initialised = "initialised" // it begins as in a new job
	Dropped     = "dropped"
	Refused     = "refused" // the two do not fit; Why says how, and what to do
)

// Item is what becomes of one thing.
type Item struct {
	What   string `json:"what"` // "feature price", "tensor dense", "sparse optimizer", …
	Action string `json:"action"`
	// Trained: something that was learned is lost.
	Trained bool   `json:"trained,omitempty"`
	Why     string `json:"why,omitempty"`
}

func (i Item) String() string {
	if i.Why == "" {
		return i.What + ": " + i.Action
	}
	return i.What + ": " + i.Action + ", " + i.Why
}

// Source is the snapshot that a job starts from.
type Source struct {
	Model    *model.Model
	Topic    string
	Identity string // of the topic
	Cut      tidemill.Cut
	// Retired are features of earlier specs whose rows may still be in the tables.
	Retired []snapshot.RetiredFeature
}

// Target is the job that starts.
type Target struct {
	Model    *model.Model
	Topic    string
	Identity string
	// First and Next bound what the topic holds.
	First, Next tidemill.Cut
	// Begin is where the spec says to begin; Says: it says so itself, not by default.
	Begin   tidemill.Cut
	Says    bool
	Offsets bool // it says so by offsets
}

// Plan says what becomes of everything. It is a pure function of New's arguments.
type Plan struct {
	// Items: what is refused, then what is dropped, initialised and carried.
	Items []Item `json:"items"`

	from, to   *model.Model
	topic      string
	identity   string // of the topic
	sameStream bool
	begin      tidemill.Cut
	tables     []int // new table by old one; -1: dropped
	tensors    []tensorMove
	keepSparse []bool // by old table: optimizer state stays
	keepDense  bool
	same       map[string]bool // features whose learned state stays
	retired    []snapshot.RetiredFeature
}

// tensorMove is how a new tensor comes to its values.
type tensorMove struct {
	from int   // old tensor; -1: initial values
	rows []int // old row by new one, -1: initial values; nil: all as they are
}

// New decides.
func New(from Source, to Target) *Plan {
	p := &Plan{from: from.Model, to: to.Model, topic: to.Topic, identity: to.Identity, same: map[string]bool{}}
	p.position(from, to)
	p.label()
	p.features(from.Retired)
	p.layoutTables()
	p.layoutTensors()
	p.optimizers()
	p.averages()
	p.rest()
	order := map[string]int{Refused: 0, Dropped: 1, Initialised: 2, Carried: 3}
	slices.SortStableFunc(p.Items, func(a, b Item) int { return order[a.Action] - order[b.Action] })
	return p
}

// Begin returns the cut from which the new job reads.
func (p *Plan) Begin() tidemill.Cut { return p.begin.Clone() }

// SameStream reports whether the new job goes on in the old one's stream.
func (p *Plan) SameStream() bool { return p.sameStream }

// Retired returns the features whose rows may be left in the tables though the spec lacks them.
func (p *Plan) Retired() []snapshot.RetiredFeature { return slices.Clone(p.retired) }

// With returns the items of an action.
func (p *Plan) With(action string) []Item {
	var out []Item
	for _, i := range p.Items {
		if i.Action == action {
			out = append(out, i)
		}
	}
	return out
}

// Losses returns the items by which something trained is lost.
func (p *Plan) Losses() []Item {
	var out []Item
	for _, i := range p.Items {
		if i.Trained {
			out = append(out, i)
		}
	}
	return out
}

// Err returns why the plan cannot be carried out, or nil; it wraps tidemill.ErrInvalid.
func (p *Plan) Err() error {
	var lines []string
	for _, i := range p.With(Refused) {
		lines = append(lines, i.What+": "+i.Why)
	}
	if len(lines) == 0 {
		return nil
	}
	return tidemill.Invalid("the job cannot start from this snapshot:\n%s", "", strings.Join(lines, "\n"))
}

func (p *Plan) add(action, what, why string, args ...any) {
	p.Items = append(p.Items, Item{What: what, Action: action, Why: fmt.Sprintf(why, args...)})
}

// lose adds the loss of something trained.
func (p *Plan) lose(what, why string, args ...any) {
	p.Items = append(p.Items, Item{What: what, Action: Dropped, Trained: true, Why: fmt.Sprintf(why, args...)})
}

// position decides where the new job begins to read.
func (p *Plan) position(from Source, to Target) {
	const what = "position"
	p.sameStream = from.Topic == to.Topic && from.Identity == to.Identity
	if !p.sameStream {
		p.begin = to.Begin.Clone()
		why := fmt.Sprintf("topic %s is another stream than the snapshot's, %s", to.Topic, from.Topic)
		if from.Topic == to.Topic {
			why = fmt.Sprintf("topic %s was made again since the snapshot", to.Topic)
		}
		if !to.Says {
			p.add(Refused, what, "%s; say with stream.from where to begin, earliest or latest", why)
			return
		}
		p.add(Initialised, what, "%s; training begins at %v", why, []int64(p.begin))
		return
	}
	p.begin = from.Cut.Clone()
	for i := len(p.begin); i < len(to.First); i++ {
		p.begin = append(p.begin, to.First[i]) // partitions added since
	}
	if to.Offsets && !slices.Equal(p.begin, to.Begin) {
		p.add(Refused, what, "stream.offsets says %v and the snapshot ends at %v: rows would be trained twice, or never; leave stream.offsets out", []int64(to.Begin), []int64(p.begin))
		return
	}
	if len(p.begin) > len(to.First) {
		p.add(Refused, what, "the snapshot has %d partitions and the topic %d", len(from.Cut), len(to.First))
		return
	}
	for i, o := range p.begin {
		if o < to.First[i] {
			p.add(Refused, what, "the stream no longer holds offsets %d to %d of partition %d; start from a later snapshot", o, to.First[i]-1, i)
			return
		}
		if o > to.Next[i] {
			p.add(Refused, what, "partition %d ends at %d, before the snapshot's %d: rows were lost", i, to.Next[i], o)
			return
		}
	}
	p.add(Carried, what, "training goes on at %v", []int64(p.begin))
}

// label compares what is predicted.
func (p *Plan) label() {
	const what = "label"
	a, b := p.from.Spec, p.to.Spec
	const remedy = "another target is another model: train it from the start"
	classOf := func(l tidemill.LabelSpec) string {
		s := fmt.Sprintf("%q %q", l.Positive, l.Negative)
		if l.AtLeast != nil {
			s += fmt.Sprintf(" %v", *l.AtLeast)
		}
		return s
	}
	loss := func(s *tidemill.Spec) string {
		// Both are losses of a value, and the value means the same.
		if s.Architecture.Loss == "huber" {
			return "squared"
		}
		return s.Architecture.Loss
	}
	switch {
	case a.Label.Type != b.Label.Type:
		p.add(Refused, what, "its type was %s and is %s; %s", a.Label.Type, b.Label.Type, remedy)
	case a.Label.Column != b.Label.Column:
		p.add(Refused, what, "its column was %s and is %s; %s", a.Label.Column, b.Label.Column, remedy)
	case widened(a.Label, b.Label):
		p.add(Carried, what, "values are known that were bad rows before")
	case classOf(a.Label) != classOf(b.Label):
		p.add(Refused, what, "other values are positive; %s", remedy)
	case !slices.Equal(a.Label.Classes, b.Label.Classes):
		p.add(Refused, what, "its classes were %v and are %v; %s", a.Label.Classes, b.Label.Classes, remedy)
	case loss(a) != loss(b):
		p.add(Refused, what, "the loss was %s and is %s, so that a score means something else; %s", a.Architecture.Loss, b.Architecture.Loss, remedy)
	}
}

// widened reports whether b lists values that were bad rows for a, and all others mean in both
// the same.
func widened(a, b tidemill.LabelSpec) bool {
	holds := func(all, some []string) bool {
		return !slices.ContainsFunc(some, func(v string) bool { return !slices.Contains(all, v) })
	}
	// With one list only every other value is of the other class, and none is bad.
	both := len(a.Positive) > 0 && len(a.Negative) > 0
	return both && a.AtLeast == nil && b.AtLeast == nil && holds(b.Positive, a.Positive) && holds(b.Negative, a.Negative) &&
		len(b.Positive)+len(b.Negative) > len(a.Positive)+len(a.Negative)
}

// features compares what ids and numbers mean.
func (p *Plan) features(retired []snapshot.RetiredFeature) {
	was, err := feature.Senses(p.from.Spec, p.from.Schema)
	if err == nil {
		var now []feature.Sense
		if now, err = feature.Senses(p.to.Spec, p.to.Schema); err == nil {
			p.compare(was, now, retired)
		}
	}
	if err != nil { // both specs were compiled before
		p.add(Refused, "features", "%v", err)
	}
}

func (p *Plan) compare(was, now []feature.Sense, retired []snapshot.RetiredFeature) {
	find := func(list []feature.Sense, name string) *feature.Sense {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
		return nil
	}
	const rename = "give it another name to have it begin anew"
	for i := range now {
		f := &now[i]
		what := "feature " + f.Name
		old := find(was, f.Name)
		if old == nil {
			k := slices.IndexFunc(retired, func(r snapshot.RetiredFeature) bool { return r.Name == f.Name })
			if k < 0 || f.Dense {
				p.add(Initialised, what, "the snapshot lacks it")
				continue
			}
			if d := (feature.Sense{Name: f.Name, Means: retired[k].Means}).Differs(*f); d != "" {
				p.add(Refused, what, "an earlier spec had a feature of this name, whose rows are still in the tables: %s; %s", d, rename)
				continue
			}
			p.add(Carried, what, "an earlier spec had it, and its rows are still there")
			continue
		}
		if d := old.Differs(*f); d != "" {
			p.add(Refused, what, "%s; %s", d, rename)
			continue
		}
		why := ""
		if old.Merges != f.Merges {
			why = "its values keep their ids; others share one, or are left out"
		}
		p.add(Carried, what, "%s", why)
		switch {
		case old.Learns == "" && f.Learns == "":
		case old.Learns == f.Learns && old.Merges == f.Merges:
			p.same[f.Name] = true
			p.add(Carried, "what "+f.Name+" learned", "%s", f.Learns)
		default:
			if old.Learns != "" {
				p.lose("what "+f.Name+" learned", "it learned %s", old.Learns)
			}
			if f.Learns != "" {
				p.add(Initialised, "what "+f.Name+" learns", "%s", f.Learns)
			}
		}
	}
	for _, f := range was {
		if find(now, f.Name) != nil {
			continue
		}
		if f.Dense {
			p.lose("feature "+f.Name, "the spec lacks it, and its weights go")
			continue
		}
		p.lose("feature "+f.Name, "the spec lacks it; its rows stay in the tables, where nobody looks them up")
		p.retired = append(p.retired, snapshot.RetiredFeature{Name: f.Name, Means: slices.Clone(f.Means)})
	}
	for _, r := range retired {
		if find(now, r.Name) == nil {
			p.retired = append(p.retired, r)
		}
	}
}

// layoutTables decides on tables.
func (p *Plan) layoutTables() {
	p.tables = make([]int, len(p.from.Layout.Tables))
	for i, old := range p.from.Layout.Tables {
		p.tables[i] = slices.IndexFunc(p.to.Layout.Tables, func(t snapshot.TableLayout) bool { return t.Name == old.Name })
		what := "table " + old.Name
		if p.tables[i] < 0 {
			p.lose(what, "architecture %s has no such table", p.to.Spec.Architecture.Kind)
			continue
		}
		t := p.to.Layout.Tables[p.tables[i]]
		if t.Dim != old.Dim {
			p.add(Refused, what, "its rows had %d values and would have %d; keep architecture.dim and the classes, or train from the start", old.Dim, t.Dim)
			continue
		}
		var notes []string
		if t.Init != old.Init || p.from.Spec.Seed != p.to.Spec.Seed {
			notes = append(notes, "rows that were never trained begin with other values")
		}
		if t.Admit.After > 0 {
			notes = append(notes, "ids without a row are counted anew")
		}
		if t.Values != old.Values && t.Values != "" {
			notes = append(notes, "weights are rounded to "+t.Values)
		}
		if t.Uses && !old.Uses {
			notes = append(notes, "rows begin to count their uses")
		}
		if t.MaxRows != old.MaxRows && t.MaxRows > 0 {
			notes = append(notes, fmt.Sprintf("no row is admitted while it holds more than %d", t.MaxRows))
		}
		if p.shards(p.from) != p.shards(p.to) && old.MaxRows > 0 {
			notes = append(notes, "rows that ids of a full shard shared are dropped with the shard")
		}
		p.add(Carried, what, "%s", strings.Join(notes, "; "))
	}
	for _, t := range p.to.Layout.Tables {
		if !slices.ContainsFunc(p.from.Layout.Tables, func(o snapshot.TableLayout) bool { return o.Name == t.Name }) {
			p.add(Initialised, "table "+t.Name, "the snapshot lacks it")
		}
	}
}

func (p *Plan) shards(m *model.Model) int {
	if m.Spec.Shards == 0 {
		return tidemill.DefaultShards
	}
	return m.Spec.Shards
}

// optimizers decides whether optimizer state stays.
func (p *Plan) optimizers() {
	decide := func(what string, a, b tidemill.OptimizerChoice, oldRule, newRule any, state int) bool {
		switch {
		case a.Kind == b.Kind && (a.Kind != tidemill.FTRL || oldRule == newRule):
			why := ""
			if oldRule != newRule {
				why = "its state stays; the new parameters hold from here on"
			}
			p.add(Carried, what, "%s", why)
			return true
		case a.Kind == b.Kind:
			// FTRL derives each weight from its state and its parameters.
			p.lose(what+" state", "with other parameters it would stand for other weights; the weights stay, and it is derived from them anew")
		case state > 0:
			p.lose(what+" state", "the optimizer was %s and is %s; the weights stay", a.Kind, b.Kind)
		default:
			p.add(Initialised, what, "it was %s, which keeps no state, and is %s", a.Kind, b.Kind)
		}
		return false
	}
	a, b := p.from.Spec.Optimizer, p.to.Spec.Optimizer
	p.keepSparse = make([]bool, len(p.tables))
	one := len(a.Tables)+len(b.Tables) == 0 // one choice for all tables, and one decision
	for t, to := range p.tables {
		if to < 0 {
			continue
		}
		name, what := p.from.Layout.Tables[t].Name, "sparse optimizer"
		if !one {
			what = "optimizer of table " + name
		}
		was, is := p.from.Sparse[t].Rule, p.to.Sparse[to].Rule
		p.keepSparse[t] = decide(what, choice(a, name), choice(b, p.to.Layout.Tables[to].Name), was, is, was.StateLen(1))
		if one {
			for k := range p.keepSparse {
				p.keepSparse[k] = p.keepSparse[t]
			}
			break
		}
	}
	if len(p.from.Layout.Tensors) > 0 {
		p.keepDense = decide("dense optimizer", a.Dense, b.Dense, p.from.Dense.Rule, p.to.Dense.Rule, p.from.Dense.StateLen(1))
	}
}

// choice is the optimizer of a table.
func choice(o tidemill.OptimizerSpec, table string) tidemill.OptimizerChoice {
	if c, ok := o.Tables[table]; ok {
		return c
	}
	return o.Sparse
}

// averages decides on averaged weights.
func (p *Plan) averages() {
	const what = "averaged weights"
	a, b := p.from.Spec.Optimizer.Average, p.to.Spec.Optimizer.Average
	switch {
	case a == nil && b == nil:
	case a == nil:
		p.add(Initialised, what, "they begin as the weights are")
	case b == nil:
		p.lose(what, "the spec has none; what is served are the weights themselves")
	case *a == *b:
		p.add(Carried, what, "")
	default:
		p.add(Carried, what, "brought up to the snapshot with decay %v, then %v", a.Decay, b.Decay)
	}
}

// rest decides on what is kept beside parameters.
func (p *Plan) rest() {
	if !p.sameStream {
		p.add(Initialised, "progressive metrics", "they are of another stream")
		return
	}
	p.add(Carried, "progressive metrics", "")
	if p.from.Spec.Time.Column != p.to.Spec.Time.Column {
		p.add(Initialised, "watermark", "event time is another column's")
	}
}
