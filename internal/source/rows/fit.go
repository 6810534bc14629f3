package rows

import (
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// Fitter fits record batches to one schema. It is safe for concurrent use and remembers the
// last schema it saw, so that a steady producer costs a pointer comparison.
type Fitter struct {
	target *arrow.Schema
	mem    memory.Allocator

	mu   sync.Mutex
	last *arrow.Schema // guarded by mu
	idx  []int         // guarded by mu; nil where last equals target
}

// NewFitter returns a Fitter to target, which Check has accepted. Columns of nulls come from
// mem; nil means Go's heap.
func NewFitter(target *arrow.Schema, mem memory.Allocator) *Fitter {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	return &Fitter{target: target, mem: mem}
}

// Schema is what Fit fits to.
func (f *Fitter) Schema() *arrow.Schema { return f.target }

func (f *Fitter) plan(s *arrow.Schema) (idx []int, same bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s == f.last {
		return f.idx, f.idx == nil, nil
	}
	if Same(f.target, s) {
		f.last, f.idx = s, nil
		return nil, true, nil
	}
	idx, err = match(f.target, s)
	if err != nil {
		return nil, false, err
	}
	f.last, f.idx = s, idx
	return idx, false, nil
}

// Fit returns rows with the columns of the target: reordered, and null where rows has none.
// A column that the target lacks, another type, or a null in a column that is not nullable
// is refused with tidemill.ErrInvalid. The caller releases the result; rows is untouched.
func (f *Fitter) Fit(rows arrow.RecordBatch) (arrow.RecordBatch, error) {
	idx, same, err := f.plan(rows.Schema())
	if err != nil {
		return nil, err
	}
	for i, t := range f.target.Fields() {
		if t.Nullable {
			continue
		}
		at := i
		if !same {
			at = idx[i]
		}
		if c := rows.Column(at); c.NullN() > 0 {
			return nil, tidemill.Invalid("column %q is not nullable and %d of %d rows have none", "fill it", t.Name, c.NullN(), c.Len())
		}
	}
	if same {
		if rows.Schema() == f.target {
			rows.Retain()
			return rows, nil
		}
		return array.NewRecordBatch(f.target, rows.Columns(), rows.NumRows()), nil
	}
	cols := make([]arrow.Array, len(idx))
	for i, at := range idx {
		if at >= 0 {
			cols[i] = rows.Column(at)
			continue
		}
		cols[i] = array.MakeArrayOfNull(f.mem, f.target.Field(i).Type, int(rows.NumRows()))
		defer cols[i].Release()
	}
	return array.NewRecordBatch(f.target, cols, rows.NumRows()), nil
}

// Concat joins batches of one schema, in order. The caller releases the result and still
// owns the parts. One part is returned as it is.
func Concat(parts []arrow.RecordBatch, mem memory.Allocator) (arrow.RecordBatch, error) {
	if len(parts) == 1 {
		parts[0].Retain()
		return parts[0], nil
	}
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	var n int64
	for _, p := range parts {
		n += p.NumRows()
	}
	schema := parts[0].Schema()
	cols := make([]arrow.Array, schema.NumFields())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	same := make([]arrow.Array, len(parts))
	for i := range cols {
		for j, p := range parts {
			same[j] = p.Column(i)
		}
		c, err := array.Concatenate(same, mem)
		if err != nil {
			return nil, err
		}
		cols[i] = c
	}
	return array.NewRecordBatch(schema, cols, n), nil
}
