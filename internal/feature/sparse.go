package feature

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Workspace is the scratch memory of one goroutine's calls on one Plan. It grows to the
// largest batch seen and keeps no reference to a batch's rows.
type Workspace struct {
	plan   *Plan
	schema *arrow.Schema // that index belongs to
	index  []int         // plan column → batch column, or -1

	x      []float64
	millis []int64
	labels []float32
	dict   []uint64   // ids of a dictionary's values
	elems  []uint64   // ids of a list column's elements
	fields []fieldIDs // per sparse field
	crossA []uint64
	crossB []uint64

	// What the state last used with this workspace had frozen: no delta needs to carry
	// samples for it any more.
	quantileFrozen []bool
	vocabFrozen    []bool
}

// NewWorkspace returns an empty workspace for p.
func (p *Plan) NewWorkspace() *Workspace {
	return &Workspace{
		plan:           p,
		index:          make([]int, len(p.columns)),
		fields:         make([]fieldIDs, len(p.fields)),
		quantileFrozen: make([]bool, len(p.quantiles)),
		vocabFrozen:    make([]bool, len(p.vocabs)),
	}
}

// bind finds the plan's columns in the schema of rows.
func (w *Workspace) bind(p *Plan, rows arrow.RecordBatch) error {
	if w.plan != p {
		return tidemill.Invalid("a workspace of another plan", "make one with this plan's NewWorkspace")
	}
	if s := rows.Schema(); s != w.schema {
		next := -1
		for i := range p.columns {
			hint := p.columns[i].hint
			if hint >= s.NumFields() || s.Field(hint).Name != p.columns[i].Name {
				hint = next + 1 // clients tend to send columns in the plan's order
			}
			next = findColumn(s, p.columns[i].Name, hint)
			w.index[i] = next
		}
		w.schema = s
	}
	return nil
}

// column returns plan column col of rows.
func (w *Workspace) column(rows arrow.RecordBatch, col int) (arrow.Array, error) {
	i := w.index[col]
	if i < 0 {
		return nil, w.plan.missing(col)
	}
	return rows.Column(i), nil
}

// use notes what st has frozen. st may be nil where the plan learns nothing.
func (w *Workspace) use(p *Plan, st *State) error {
	if !p.Learns() {
		return nil
	}
	if st == nil || st.plan.fingerprint != p.fingerprint {
		return tidemill.Invalid("the transform state is missing or of another plan", "load it with this plan's LoadState")
	}
	for i := range st.quantiles {
		w.quantileFrozen[i] = st.quantiles[i].frozen
	}
	for i := range st.vocabs {
		w.vocabFrozen[i] = st.vocabs[i].frozen
	}
	return nil
}

// Sparse resets in and fills N, IDs and Offsets for rows; Values stays empty, as every
// value is 1. st is only read, and may be nil where the plan learns nothing.
func (p *Plan) Sparse(w *Workspace, in *engine.Inputs, rows arrow.RecordBatch, st *State) error {
	in.Reset(len(p.fields), len(p.dense))
	if err := w.bind(p, rows); err != nil {
		return err
	}
	if err := w.use(p, st); err != nil {
		return err
	}
	n := int(rows.NumRows())
	single := true
	for i := range p.fields {
		f := &p.fields[i]
		if f.role == roleCross {
			continue // after the fields that it crosses
		}
		out := &w.fields[i]
		arr, err := w.column(rows, f.col)
		if err != nil {
			return err
		}
		switch f.role {
		case roleBucket:
			err = f.buckets64(out, w, arr, st)
		case roleCategory:
			ids := grow(&out.ids, n)
			if err = f.category.raw(ids, w, arr, 0); err == nil {
				f.category.final(ids, st)
			}
		case roleMulti:
			single = false
			if err = f.multi.raw(out, w, arr); err == nil {
				f.multi.final(out, st)
			}
		}
		if err != nil {
			return columnError(p.columns[f.col].Name, err)
		}
	}
	for i := range p.fields {
		if f := &p.fields[i]; f.role == roleCross {
			cross(&w.fields[i], w, f.seed, n, f.parts)
		}
	}
	in.N = n
	if single {
		return w.interleave(in)
	}
	return w.compress(in)
}

// buckets64 writes the bucket ids of a numeric column.
func (f *field) buckets64(out *fieldIDs, w *Workspace, arr arrow.Array, st *State) error {
	ids := grow(&out.ids, arr.Len())
	edges, table := f.edges, f.ids
	if f.learn >= 0 {
		q := &st.quantiles[f.learn]
		edges, table = q.edges, q.ids
		if !q.frozen {
			for i := range ids {
				ids[i] = f.unknown
			}
			if !f.imputes {
				fillNulls(ids, arr, f.null)
			}
			return nil
		}
	}
	x := grow(&w.x, len(ids))
	if err := f.number.load(x, w, arr); err != nil {
		return err
	}
	f.number.standardize(x, arr, st)
	bucketize(ids, x, edges, table, f.null)
	if !f.imputes {
		fillNulls(ids, arr, f.null)
	}
	return nil
}

// tooMany is the error for a batch whose ids cannot be counted in 32 bits.
func tooMany(n int) error {
	return tidemill.Invalid("a batch of %d rows has more than %d ids", "use smaller batches", n, math.MaxInt32)
}

// interleave lays out fields of one id per row.
func (w *Workspace) interleave(in *engine.Inputs) error {
	total := in.N * in.Fields
	if total > math.MaxInt32 {
		return tooMany(in.N)
	}
	ids := grow(&in.IDs, total)
	for f := range w.fields {
		j := f
		for _, id := range w.fields[f].ids[:in.N] {
			ids[j] = id
			j += in.Fields
		}
	}
	offs := grow(&in.Offsets, total+1)
	for i := range offs {
		offs[i] = int32(i)
	}
	return nil
}

// compress lays out fields of any number of ids per row.
func (w *Workspace) compress(in *engine.Inputs) error {
	total := 0
	for f := range w.fields {
		total += len(w.fields[f].ids)
	}
	if total > math.MaxInt32 {
		return tooMany(in.N)
	}
	ids, offs := in.IDs[:0], in.Offsets[:1]
	for i := range in.N {
		for f := range w.fields {
			if fd := &w.fields[f]; len(fd.offs) == 0 {
				ids = append(ids, fd.ids[i])
			} else {
				ids = append(ids, fd.ids[fd.offs[i]:fd.offs[i+1]]...)
			}
			offs = append(offs, int32(len(ids)))
		}
	}
	in.IDs, in.Offsets = ids, offs
	return nil
}

// Numeric fills in.Dense with the dense numbers of rows, [N × Width]. It comes after Sparse,
// which resets in, and may use a newer state: the one that came with the pull. st is only
// read, and may be nil where the plan learns nothing.
func (p *Plan) Numeric(w *Workspace, in *engine.Inputs, rows arrow.RecordBatch, st *State) error {
	if err := w.bind(p, rows); err != nil {
		return err
	}
	if err := w.use(p, st); err != nil {
		return err
	}
	n := int(rows.NumRows())
	in.N, in.Width = n, len(p.dense)
	dst := grow(&in.Dense, n*in.Width)
	for j := range p.dense {
		d := &p.dense[j]
		arr, err := w.column(rows, d.col)
		if err != nil {
			return err
		}
		x := grow(&w.x, n)
		if err := d.load(x, w, arr); err != nil {
			return columnError(p.columns[d.col].Name, err)
		}
		d.standardize(x, arr, st)
		store(dst, x, j, in.Width)
	}
	return nil
}
