package feature

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Column is an input column that a model needs when predicting.
type Column struct {
	Name string
	Type arrow.DataType // as in the stream; a batch may use another type of the same class
}

// Plan is a spec's transforms compiled against a schema. It is immutable and safe for
// concurrent use.
type Plan struct {
	columns []planColumn
	dense   []number
	fields  []field

	denseNames        []string // by dense
	standardizedNames []string // by standardized

	shape  engine.Shape
	label  label
	weight int // index in columns, or -1
	time   int // index in columns, or -1

	// What is learned, in the order of the features that learn it.
	standardized []number // number.moments is the index here
	quantiles    []quantilePlan
	vocabs       []vocabPlan
	fingerprint  uint64
	moving       bool // some ids depend on running moments, which never freeze

	logs []float64 // of all numbers; nil where none takes logarithms

	pool sync.Pool // of *Workspace, for the calls that take none
}

// planColumn is a column that some part of the plan reads.
type planColumn struct {
	Column
	hint    int   // its index in the schema that the plan was compiled against
	class   class // of its type
	feature bool  // read when predicting
	utf8    bool
	text    bool
	// A row whose value is larger than a float32 can hold is bad: some feature uses it as it is.
	bounded bool
}

// field is one sparse field.
type field struct {
	name string
	role role
	col  int // index in Plan.columns; -1 for a cross
	seed uint64

	number // roleBucket
	edges  []float64
	ids    []uint64
	learn  int // index of the learned quantiles, or -1

	multi // roleCategory (its category) and roleMulti

	parts []int // roleCross: indices in Plan.fields
}

type quantilePlan struct {
	field   int
	buckets int
	rows    int
}

type vocabPlan struct {
	field int
	rows  int
	size  int
}

// Compile checks s against schema and returns its plan. The error lists every problem; each
// wraps tidemill.ErrInvalid.
func Compile(s *tidemill.Spec, schema *arrow.Schema) (*Plan, error) {
	if schema == nil {
		return nil, tidemill.Invalid("a plan needs the schema of topic %q", "", s.Stream.Topic)
	}
	if problems := Problems(s, schema); len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			errs[i] = &tidemill.InputError{What: p.Path + ": " + p.What, Remedy: p.Remedy}
		}
		return nil, errors.Join(errs...)
	}
	p := &Plan{weight: -1, time: -1}
	p.label = compileLabel(&s.Label, classOf(schema.Field(findColumn(schema, s.Label.Column, 0)).Type))
	p.label.col = p.use(schema, s.Label.Column)
	if s.Weight != "" {
		p.weight = p.use(schema, s.Weight)
	}
	if s.Time.Column != "" {
		p.time = p.use(schema, s.Time.Column)
	}
	byName := make(map[string]int)
	for i := range s.Features {
		f := s.Features[i] // a copy, so that the spec stays as it is
		f.Bucketize, f.Vocabulary, f.MultiHot = clone(f.Bucketize), clone(f.Vocabulary), clone(f.MultiHot)
		Defaults(&f)
		p.add(schema, &f, byName)
	}
	for i := range s.Features {
		f := s.Features[i]
		Defaults(&f)
		for _, part := range f.Cross {
			x := &p.fields[byName[f.Name]]
			x.parts = append(x.parts, byName[part])
		}
	}
	p.shape.Fields, p.shape.Width, p.shape.Outputs = len(p.fields), len(p.dense), max(1, len(s.Label.Classes))
	p.shape.DenseNames = slices.Clone(p.denseNames)
	for i := range p.fields {
		f := &p.fields[i]
		p.shape.FieldNames = append(p.shape.FieldNames, f.name)
		p.shape.IsCross = append(p.shape.IsCross, f.role == roleCross)
		p.moving = p.moving || f.role == roleBucket && f.moments >= 0
	}
	p.fingerprint = p.learnedFingerprint(s)
	return p, nil
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// use returns the index of the named column in p.columns, adding it if need be.
func (p *Plan) use(schema *arrow.Schema, name string) int {
	for i := range p.columns {
		if p.columns[i].Name == name {
			return i
		}
	}
	hint := findColumn(schema, name, 0)
	t := schema.Field(hint).Type
	p.columns = append(p.columns, planColumn{
		Column: Column{Name: name, Type: t}, hint: hint, class: classOf(t), utf8: isUTF8(t),
	})
	return len(p.columns) - 1
}

// add compiles one feature whose defaults are filled in.
func (p *Plan) add(schema *arrow.Schema, f *tidemill.FeatureSpec, byName map[string]int) {
	fd := field{name: f.Name, col: -1, learn: -1, seed: seedOf(f.Name)}
	fd.category.learned, fd.moments = -1, -1
	if len(f.Cross) > 0 {
		fd.role, fd.seed = roleCross, special(fd.seed, tagCross)
		byName[f.Name] = len(p.fields)
		p.fields = append(p.fields, fd)
		return
	}
	fd.col = p.use(schema, f.Column)
	c := &p.columns[fd.col]
	c.feature = true
	fd.role = roleOf(f, c.class)
	switch fd.role {
	case roleDense:
		n := newNumber(f, fd.col)
		p.logarithms(&n)
		if f.Standardize != nil {
			p.standardize(&n, f.Name)
		}
		c.bounded = c.bounded || !n.bounded()
		p.dense, p.denseNames = append(p.dense, n), append(p.denseNames, f.Name)
		return
	case roleBucket:
		fd.category = newCategory(fd.seed) // for its null and unknown ids
		fd.number = newNumber(f, fd.col)
		p.logarithms(&fd.number)
		if f.Standardize != nil {
			p.standardize(&fd.number, f.Name)
			c.bounded = c.bounded || !fd.number.bounded()
		}
		if f.Bucketize.Quantiles > 0 {
			fd.learn = len(p.quantiles)
			p.quantiles = append(p.quantiles, quantilePlan{field: len(p.fields), buckets: f.Bucketize.Quantiles, rows: f.Bucketize.LearnRows})
		} else {
			fd.edges = fixedEdges(f.Bucketize)
			fd.ids = bucketIDs(nil, fd.seed, len(fd.edges))
		}
	default:
		c.text = c.text || c.utf8
		fd.category = newCategory(fd.seed)
		if f.Hash != nil {
			fd.buckets = f.Hash.Buckets
		}
		if v := f.Vocabulary; v != nil && v.LearnRows > 0 {
			fd.learned = len(p.vocabs)
			p.vocabs = append(p.vocabs, vocabPlan{field: len(p.fields), rows: v.LearnRows, size: v.MaxSize})
		} else if v != nil {
			fd.vocab = vocabulary(v.Values, fd.seed, c.Type)
		}
		if m := f.MultiHot; m != nil {
			fd.separator, fd.max = []byte(m.Separator), m.Max
		}
	}
	byName[f.Name] = len(p.fields)
	p.fields = append(p.fields, fd)
}

// logarithms gives n the plan's table, where it takes logarithms.
func (p *Plan) logarithms(n *number) {
	if !n.log1p {
		return
	}
	if p.logs == nil {
		p.logs = logTable()
	}
	n.logs = p.logs
}

// standardize gives n running moments of its own.
func (p *Plan) standardize(n *number, name string) {
	n.moments = len(p.standardized)
	p.standardized, p.standardizedNames = append(p.standardized, *n), append(p.standardizedNames, name)
}

// vocabulary returns the raw ids of values as a column of type t has them.
func vocabulary(values []string, seed uint64, t arrow.DataType) *idSet {
	cl := classOf(t)
	if cl == classList {
		cl = classOf(t.(arrow.ListLikeType).Elem())
	}
	ids := make([]uint64, 0, len(values))
	for _, v := range values {
		if id, ok := labelID(v, seed, cl); ok {
			ids = append(ids, id)
		}
	}
	return newIDSet(ids)
}

// learnedFingerprint hashes everything that decides what learned state means.
func (p *Plan) learnedFingerprint(s *tidemill.Spec) uint64 {
	h := xxh3.New()
	_, _ = fmt.Fprintf(h, "tidemill transforms %d %d %d\n", len(p.standardized), len(p.quantiles), len(p.vocabs))
	for i := range s.Features {
		f := &s.Features[i]
		quantiles := f.Bucketize != nil && f.Bucketize.Quantiles > 0
		vocab := f.Vocabulary != nil && f.Vocabulary.LearnRows > 0
		if f.Standardize == nil && !quantiles && !vocab {
			continue
		}
		d := tidemill.FeatureSpec{Name: f.Name, Column: f.Column, Impute: f.Impute, Clip: f.Clip, Log1p: f.Log1p,
			Standardize: f.Standardize, Bucketize: clone(f.Bucketize), Vocabulary: clone(f.Vocabulary), MultiHot: clone(f.MultiHot)}
		Defaults(&d)
		_, _ = fmt.Fprintf(h, "%q %q %v %v %v %v", d.Name, d.Column, d.Impute != nil, d.Clip, d.Log1p, d.Standardize != nil)
		if d.Impute != nil {
			_, _ = fmt.Fprintf(h, " %v", *d.Impute)
		}
		if quantiles {
			_, _ = fmt.Fprintf(h, " quantiles %d %d", d.Bucketize.Quantiles, d.Bucketize.LearnRows)
		}
		if vocab {
			_, _ = fmt.Fprintf(h, " vocabulary %d %d", d.Vocabulary.LearnRows, d.Vocabulary.MaxSize)
			if d.MultiHot != nil {
				_, _ = fmt.Fprintf(h, " %q %d", d.MultiHot.Separator, d.MultiHot.Max)
			}
		}
		_, _ = fmt.Fprintln(h)
	}
	return h.Sum64()
}

// borrow returns a workspace from the plan's pool; the caller puts it back.
func (p *Plan) borrow() *Workspace {
	if w, ok := p.pool.Get().(*Workspace); ok {
		return w
	}
	return p.NewWorkspace()
}

// Shape says what the plan gives to an engine.
func (p *Plan) Shape() engine.Shape { return p.shape }

// Columns returns the columns needed to predict, in the order the features first name them.
// The label is never among them, the weight and time columns only where a feature reads them.
func (p *Plan) Columns() []Column {
	var cols []Column
	for i := range p.columns {
		if p.columns[i].feature {
			cols = append(cols, p.columns[i].Column)
		}
	}
	return cols
}

// Learns reports whether any transform learns from the rows it sees.
func (p *Plan) Learns() bool { return len(p.standardized)+len(p.quantiles)+len(p.vocabs) > 0 }

// SparseFrozen reports whether ids no longer depend on state that can still change, so that
// Sparse may run ahead of the state. st may be nil where nothing is learned.
func (p *Plan) SparseFrozen(st *State) bool {
	if p.moving {
		return false
	}
	if len(p.quantiles)+len(p.vocabs) == 0 {
		return true
	}
	if st == nil {
		return false
	}
	for i := range st.quantiles {
		if !st.quantiles[i].frozen {
			return false
		}
	}
	for i := range st.vocabs {
		if !st.vocabs[i].frozen {
			return false
		}
	}
	return true
}

// findColumn returns the index of the named field, or -1. It looks from hint on first: columns
// mostly come in an expected order.
func findColumn(schema *arrow.Schema, name string, hint int) int {
	n := schema.NumFields()
	if hint >= n {
		hint = 0
	}
	for i := hint; i < n; i++ {
		if schema.Field(i).Name == name {
			return i
		}
	}
	for i := range hint {
		if schema.Field(i).Name == name {
			return i
		}
	}
	return -1
}

// missing is the error for a batch without a column that the plan needs.
func (p *Plan) missing(col int) error {
	return tidemill.Invalid("column %q is missing", "send every column that the model needs", p.columns[col].Name)
}

// column returns column col of rows.
func (p *Plan) column(rows arrow.RecordBatch, col int) (arrow.Array, error) {
	i := findColumn(rows.Schema(), p.columns[col].Name, p.columns[col].hint)
	if i < 0 {
		return nil, p.missing(col)
	}
	return rows.Column(i), nil
}
