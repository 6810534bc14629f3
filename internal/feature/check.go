package feature

import (
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// BadRow is a row that cannot be used, and why.
type BadRow struct {
	Row    int // index in the batch
	Column string
	Reason string
	Cause  string // tidemill.BadValue, BadLabel, BadWeight or BadTime
}

// Check returns the rows that cannot be used, in increasing order, each once with the first
// reason found; nil when all are fine, without allocating. Numbers must be finite (and fit a
// float32 unless clip or log1p bounds them) and text must be UTF-8. With training set the
// label must be usable, the weight finite and ≥ 0, and a time written as text readable. A
// column that is missing or of a wrong type is not a row's fault: Sparse, Numeric and Labels
// report it.
func (p *Plan) Check(rows arrow.RecordBatch, training bool) []BadRow {
	w := p.borrow()
	defer p.pool.Put(w)
	var bad []BadRow
	for i := range p.columns {
		c := &p.columns[i]
		if !c.feature {
			continue
		}
		arr, err := p.column(rows, i)
		if err != nil {
			continue
		}
		switch arr := arr.(type) {
		case *array.Float64:
			bad = checkFloats(bad, c, arr, arr.Float64Values())
		case *array.Float32:
			bad = checkFloats(bad, c, arr, arr.Float32Values())
		case *array.Float16:
			x := grow(&w.x, arr.Len())
			for k, v := range arr.Values() {
				x[k] = float64(v.Float32())
			}
			bad = checkFloats(bad, c, arr, x)
		default:
			if c.text {
				bad = checkText(bad, c, arr)
			}
		}
	}
	if training {
		bad = p.checkLabel(bad, w, rows)
		bad = p.checkWeight(bad, w, rows)
		bad = p.checkTime(bad, rows)
	}
	if len(bad) > 1 {
		slices.SortStableFunc(bad, func(a, b BadRow) int { return a.Row - b.Row })
		bad = slices.CompactFunc(bad, func(a, b BadRow) bool { return a.Row == b.Row })
	}
	return bad
}

// valid reports whether row i is not null in bitmap.
func valid(bitmap []byte, off, i int) bool {
	return bitmap == nil || bitutil.BitIsSet(bitmap, off+i)
}

func checkFloats[T float32 | float64](bad []BadRow, c *planColumn, arr arrow.Array, x []T) []BadRow {
	limit := math.MaxFloat64
	if c.bounded {
		limit = math.MaxFloat32
	}
	fine := true
	for _, v := range x {
		fine = fine && math.Abs(float64(v)) <= limit
	}
	if fine {
		return bad
	}
	bitmap, off := nulls(arr)
	for i, v := range x {
		f := float64(v)
		switch {
		case math.Abs(f) <= limit || !valid(bitmap, off, i):
		case finite(f):
			bad = append(bad, BadRow{Row: i, Column: c.Name, Reason: fmt.Sprintf("%v is too large for a 32-bit number; clip it, or use log1p", f), Cause: tidemill.BadValue})
		default:
			bad = append(bad, BadRow{Row: i, Column: c.Name, Reason: fmt.Sprintf("%v is not a finite number", f), Cause: tidemill.BadValue})
		}
	}
	return bad
}

func checkText(bad []BadRow, c *planColumn, arr arrow.Array) []BadRow {
	bitmap, off := nulls(arr)
	add := func(i int) {
		bad = append(bad, BadRow{Row: i, Column: c.Name, Reason: "the text is not UTF-8", Cause: tidemill.BadValue})
	}
	if l, ok := listsOf(arr); ok {
		t, err := textsOf(l.child)
		if err != nil {
			return bad // of dictionaries: their text is checked where it was made
		}
		inner, innerOff := nulls(l.child)
		for i := range arr.Len() {
			if !valid(bitmap, off, i) {
				continue
			}
			lo, hi := l.at(i)
			for k := lo; k < hi; k++ {
				if valid(inner, innerOff, k) && !utf8.Valid(t.at(k)) {
					add(i)
					break
				}
			}
		}
		return bad
	}
	if d, ok := arr.(*array.Dictionary); ok {
		t, err := textsOfData(d.Data().Dictionary())
		if err != nil {
			return bad
		}
		for i := range d.Len() {
			if !valid(bitmap, off, i) {
				continue
			}
			if k := d.GetValueIndex(i); k < t.n && !utf8.Valid(t.at(k)) {
				add(i)
			}
		}
		return bad
	}
	t, err := textsOf(arr)
	if err != nil {
		return bad
	}
	if all, ok := t.span(); ok && ascii(all) {
		return bad
	}
	for i := range t.n {
		if valid(bitmap, off, i) && !utf8.Valid(t.at(i)) {
			add(i)
		}
	}
	return bad
}

func (p *Plan) checkLabel(bad []BadRow, w *Workspace, rows arrow.RecordBatch) []BadRow {
	arr, err := p.column(rows, p.label.col)
	if err != nil {
		return bad
	}
	labels := grow(&w.labels, arr.Len())
	if err := p.label.read(labels, w, arr); err != nil {
		return bad
	}
	for i, v := range labels {
		if v != v {
			reason := fmt.Sprintf("label %s is none of those the spec lists", value(arr, i))
			if bitmap, off := nulls(arr); !valid(bitmap, off, i) {
				reason = "the label is null"
			} else if p.label.numeric() {
				reason = fmt.Sprintf("label %s is not a finite 32-bit number", value(arr, i))
			}
			bad = append(bad, BadRow{Row: i, Column: p.columns[p.label.col].Name, Reason: reason, Cause: tidemill.BadLabel})
		}
	}
	return bad
}

func (p *Plan) checkWeight(bad []BadRow, w *Workspace, rows arrow.RecordBatch) []BadRow {
	if p.weight < 0 {
		return bad
	}
	arr, err := p.column(rows, p.weight)
	if err != nil {
		return bad
	}
	x := grow(&w.x, arr.Len())
	if err := loadNumbers(x, arr, &w.millis); err != nil {
		return bad
	}
	fillNulls(x, arr, 1)
	for i, v := range x {
		if !(v >= 0 && v <= math.MaxFloat32) {
			bad = append(bad, BadRow{Row: i, Column: p.columns[p.weight].Name, Reason: fmt.Sprintf("weight %v is not a finite number ≥ 0", v), Cause: tidemill.BadWeight})
		}
	}
	return bad
}

func (p *Plan) checkTime(bad []BadRow, rows arrow.RecordBatch) []BadRow {
	if p.time < 0 || p.columns[p.time].class != classText {
		return bad
	}
	arr, err := p.column(rows, p.time)
	if err != nil {
		return bad
	}
	eachText(arr, func(i int, text []byte) {
		if _, err := time.Parse(time.RFC3339, string(text)); err != nil {
			bad = append(bad, BadRow{Row: i, Column: p.columns[p.time].Name, Reason: fmt.Sprintf("%s is not an RFC 3339 time", value(arr, i)), Cause: tidemill.BadTime})
		}
	})
	return bad
}

// eachText calls f for each row of a text column that is not null.
func eachText(arr arrow.Array, f func(i int, text []byte)) {
	bitmap, off := nulls(arr)
	if d, ok := arr.(*array.Dictionary); ok {
		t, err := textsOfData(d.Data().Dictionary())
		for i := 0; err == nil && i < d.Len(); i++ {
			if k := d.GetValueIndex(i); valid(bitmap, off, i) && k < t.n {
				f(i, t.at(k))
			}
		}
		return
	}
	t, err := textsOf(arr)
	for i := 0; err == nil && i < t.n; i++ {
		if valid(bitmap, off, i) {
			f(i, t.at(i))
		}
	}
}

// Drop returns rows without the bad ones, which are in increasing order as Check gives them.
// The caller releases the result, and still owns rows.
func Drop(rows arrow.RecordBatch, bad []BadRow) arrow.RecordBatch {
	if len(bad) == 0 {
		rows.Retain()
		return rows
	}
	type run struct{ lo, hi int64 }
	var runs []run
	next := int64(0)
	for _, b := range bad {
		if r := int64(b.Row); r > next {
			runs = append(runs, run{next, r})
		}
		next = int64(b.Row) + 1
	}
	if n := rows.NumRows(); next < n {
		runs = append(runs, run{next, n})
	}
	switch len(runs) {
	case 0:
		return rows.NewSlice(0, 0)
	case 1:
		return rows.NewSlice(runs[0].lo, runs[0].hi)
	}
	var total int64
	for _, r := range runs {
		total += r.hi - r.lo
	}
	cols := make([]arrow.Array, rows.NumCols())
	for i := range cols {
		parts := make([]arrow.Array, len(runs))
		for k, r := range runs {
			parts[k] = array.NewSlice(rows.Column(i), r.lo, r.hi)
		}
		col, err := array.Concatenate(parts, memory.DefaultAllocator)
		for _, part := range parts {
			part.Release()
		}
		if err != nil {
			// Slices of one array always concatenate, short of a type that Arrow cannot copy.
			panic("feature: " + err.Error())
		}
		cols[i] = col
	}
	out := array.NewRecordBatch(rows.Schema(), cols, total)
	for _, col := range cols {
		col.Release()
	}
	return out
}
