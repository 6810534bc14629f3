package file

import (
	"errors"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// timestamps of text are microseconds in UTC: nanoseconds end in the year 2262.
var timestampType = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

// inference gathers what the first rows say about each column.
type inference struct {
	names []string
	at    map[string]int
	cols  []evidence
	given map[string]arrow.DataType
	rows  int
}

// evidence counts what a column's values could be.
type evidence struct {
	values, ints, floats, bools, times int // texts that parse so; ints count as floats too
	notFinite                          int
	typ                                arrow.DataType // set by formats that know it
}

func newInference(names []string, given map[string]arrow.DataType) *inference {
	in := &inference{at: make(map[string]int), given: given}
	for _, n := range names {
		in.column(n)
	}
	return in
}

// column returns the index of the column called name, added when it is new.
func (in *inference) column(name string) int {
	i, ok := in.at[name]
	if !ok {
		i = len(in.names)
		in.at[name] = i
		in.names = append(in.names, name)
		in.cols = append(in.cols, evidence{})
	}
	return i
}

// text shows a value of column i as text; an empty one says nothing.
func (in *inference) text(i int, b []byte) {
	if len(b) == 0 {
		return
	}
	e := &in.cols[i]
	e.values++
	if notFinite(b) {
		e.notFinite++
		return
	}
	if numeric(b) {
		if _, err := strconv.ParseInt(str(b), 10, 64); err == nil {
			e.ints++
			e.floats++
			return
		}
		// A number too large for 64 bits is still written as one: its row is a bad row.
		if _, err := strconv.ParseFloat(str(b), 64); (err == nil || errors.Is(err, strconv.ErrRange)) && !wholeNumber(b) {
			e.floats++
		}
		return
	}
	switch lower(b) {
	case "true", "false":
		e.bools++
		return
	}
	if len(b) >= len("2006-01-02T15:04:05Z") && b[4] == '-' {
		if _, err := parseTime(b); err == nil {
			e.times++
		}
	}
}

// wholeNumber reports digits alone: an id beyond 64 bits, which a float would round.
func wholeNumber(b []byte) bool {
	for i, c := range b {
		if (c < '0' || c > '9') && !(i == 0 && (c == '-' || c == '+')) {
			return false
		}
	}
	return true
}

// typed shows that column i has values of type t; int64 gives way to float64, and any other
// contradiction leaves the first type standing.
func (in *inference) typed(i int, t arrow.DataType) {
	e := &in.cols[i]
	if e.typ == nil || widens(e.typ, t) {
		e.typ = t
	}
}

func widens(from, to arrow.DataType) bool {
	if from.ID() == arrow.INT64 && to.ID() == arrow.FLOAT64 {
		return true
	}
	l, ok := from.(*arrow.ListType)
	m, ok2 := to.(*arrow.ListType)
	return ok && ok2 && widens(l.Elem(), m.Elem())
}

func (e evidence) decide() arrow.DataType {
	// A NaN among numbers does not make the column text: the row is a bad one.
	plain := e.values - e.notFinite
	switch {
	case e.typ != nil:
		return e.typ
	case plain == 0:
		return arrow.BinaryTypes.String
	case e.ints == plain && e.notFinite == 0:
		return arrow.PrimitiveTypes.Int64
	case e.floats == plain:
		return arrow.PrimitiveTypes.Float64
	case e.bools == e.values:
		return arrow.FixedWidthTypes.Boolean
	case e.times == e.values:
		return timestampType
	}
	return arrow.BinaryTypes.String
}

func (in *inference) schema() (*arrow.Schema, error) {
	if len(in.names) == 0 {
		return nil, tidemill.Invalid("the rows have no columns", "")
	}
	fields := make([]arrow.Field, len(in.names))
	for i, n := range in.names {
		t := in.given[n]
		if t == nil {
			t = in.cols[i].decide()
		}
		fields[i] = arrow.Field{Name: n, Type: t, Nullable: true}
	}
	return arrow.NewSchema(fields, nil), nil
}
