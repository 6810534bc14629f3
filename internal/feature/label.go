package feature

import (
	"fmt"
	"math"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// label turns the label column into numbers. Values are compared by their raw ids under
// category.seed, so numbers compare by value and text by its bytes.
type label struct {
	col     int
	kind    string
	atLeast *float64
	category
	values *idSet    // position in classes
	class  []float32 // label of each position
	rest   float32   // label of every other value; NaN: there is none
}

// canonLabel gives the canonical number of a label or vocabulary value as a column of
// non-text class cl would hold it.
func canonLabel(v string, cl class) (uint64, bool) {
	if cl == classBool {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return 0, false
		}
		if b {
			return 1, true
		}
		return 0, true
	}
	n, ok := canonText(v)
	if ok && (cl == classInt || cl == classTime) {
		// A fraction never occurs among whole numbers.
		f, err := strconv.ParseFloat(v, 64)
		ok = err == nil && f == math.Trunc(f)
	}
	return n, ok
}

// labelID is the raw id under seed of a value written in a spec.
func labelID(v string, seed uint64, cl class) (uint64, bool) {
	if cl == classText {
		return hashText(seed, []byte(v)), true
	}
	n, ok := canonLabel(v, cl)
	return hashNumber(seed, n), ok
}

func compileLabel(s *tidemill.LabelSpec, cl class) label {
	l := label{kind: s.Type, atLeast: s.AtLeast, category: newCategory(seedOf("label")), rest: float32(math.NaN())}
	if l.kind == "" {
		l.kind = tidemill.Binary
	}
	var ids []uint64
	add := func(v string, class float32) {
		if id, ok := labelID(v, l.seed, cl); ok {
			ids, l.class = append(ids, id), append(l.class, class)
		}
	}
	switch l.kind {
	case tidemill.Multiclass:
		for k, v := range s.Classes {
			add(v, float32(k))
		}
	case tidemill.Binary:
		positive, negative := s.Positive, s.Negative
		if len(positive)+len(negative) == 0 {
			positive, negative = []string{"1"}, []string{"0"}
		}
		for _, v := range positive {
			add(v, 1)
		}
		for _, v := range negative {
			add(v, 0)
		}
		if len(negative) == 0 {
			l.rest = 0
		} else if len(positive) == 0 {
			l.rest = 1
		}
	}
	l.values = newIDSet(ids)
	return l
}

// numeric reports whether labels come from the column's numbers, not from its values as such.
func (l *label) numeric() bool { return l.kind == tidemill.Regression || l.atLeast != nil }

// read writes the labels of arr to dst; NaN where a row has none.
func (l *label) read(dst []float32, w *Workspace, arr arrow.Array) error {
	nan := float32(math.NaN())
	if l.numeric() {
		x := grow(&w.x, len(dst))
		if err := loadNumbers(x, arr, &w.millis); err != nil {
			return err
		}
		for i, v := range x {
			switch {
			case !(math.Abs(v) <= math.MaxFloat32):
				dst[i] = nan
			case l.atLeast == nil:
				dst[i] = float32(v)
			case v >= *l.atLeast:
				dst[i] = 1
			default:
				dst[i] = 0
			}
		}
		fillNulls(dst, arr, nan)
		return nil
	}
	ids := grow(&w.elems, len(dst))
	if err := l.raw(ids, w, arr, 0); err != nil {
		return err
	}
	for i, id := range ids {
		switch k := l.values.get(id); {
		case id == l.null:
			dst[i] = nan
		case k >= 0:
			dst[i] = l.class[k]
		default:
			dst[i] = l.rest
		}
	}
	return nil
}

// Labels fills in.Labels and in.Weights from rows; without a weight column Weights is empty. A
// null weight counts as 1, so rows older than the column keep theirs. A row that Check would
// refuse is an error.
func (p *Plan) Labels(in *engine.Inputs, rows arrow.RecordBatch) error {
	w := p.borrow()
	defer p.pool.Put(w)
	n := int(rows.NumRows())
	arr, err := p.column(rows, p.label.col)
	if err != nil {
		return err
	}
	dst := grow(&in.Labels, n)
	if err := p.label.read(dst, w, arr); err != nil {
		return columnError(p.columns[p.label.col].Name, err)
	}
	for i, v := range dst {
		if v != v {
			return tidemill.Invalid("row %d has no usable label in column %q", "drop the rows that Check reports first", i, p.columns[p.label.col].Name)
		}
	}
	if p.weight < 0 {
		in.Weights = in.Weights[:0]
		return nil
	}
	arr, err = p.column(rows, p.weight)
	if err != nil {
		return err
	}
	x := grow(&w.x, n)
	if err := loadNumbers(x, arr, &w.millis); err != nil {
		return columnError(p.columns[p.weight].Name, err)
	}
	fillNulls(x, arr, 1)
	weights := grow(&in.Weights, n)
	for i, v := range x {
		if !(v >= 0 && v <= math.MaxFloat32) {
			return tidemill.Invalid("row %d has weight %v in column %q", "drop the rows that Check reports first", i, v, p.columns[p.weight].Name)
		}
		weights[i] = float32(v)
	}
	return nil
}

// value writes row i of arr for an error text, shortened.
func value(arr arrow.Array, i int) string {
	if bitmap, off := nulls(arr); bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
		return "null"
	}
	s := arr.ValueStr(i)
	if d, ok := arr.(*array.Dictionary); ok {
		if t, err := textsOfData(d.Data().Dictionary()); err == nil && d.GetValueIndex(i) < t.n {
			s = string(t.at(d.GetValueIndex(i)))
		}
	}
	const most = 40
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%q", s)
}
