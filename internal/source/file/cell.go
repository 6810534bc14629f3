package file

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// cell is one parsed value on its way into a builder. Slices are valid until the next record.
type cell struct {
	null   bool
	i      int64
	u      uint64
	f      float64
	s      []byte
	list   bool // the value was a list; ints, floats or texts hold it
	ints   []int64
	floats []float64
	texts  [][]byte
}

func (c *cell) reset() {
	c.null, c.list = false, false
	c.ints, c.floats, c.texts = c.ints[:0], c.floats[:0], c.texts[:0]
}

// parseFunc parses the text of one value that is not null; it returns what is wrong, or "".
type parseFunc func(text []byte, c *cell) string

// str views b as a string for parsers that keep nothing.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// clip shortens a value for a message.
func clip(b []byte) string {
	const most = 40
	if len(b) > most {
		return strconv.Quote(string(b[:most])) + "…"
	}
	return strconv.Quote(string(b))
}

// numeric reports whether b has only the characters of a decimal number: Go's parser also
// takes hexadecimal, underscores, NaN and infinities.
func numeric(b []byte) bool {
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9', c == '.', c == '-', c == '+', c == 'e', c == 'E':
		default:
			return false
		}
	}
	return len(b) > 0
}

// notFinite reports whether b writes a NaN or an infinity, in any of the usual ways.
func notFinite(b []byte) bool {
	if len(b) > 9 || len(b) < 3 {
		return false
	}
	if b[0] == '+' || b[0] == '-' {
		b = b[1:]
	}
	switch lower(b) {
	case "nan", "inf", "infinity":
		return true
	}
	return false
}

func lower(b []byte) string {
	var out [9]byte
	if len(b) > len(out) {
		return ""
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		out[i] = c
	}
	return string(out[:len(b)])
}

func parseInt(bits int) parseFunc {
	return func(b []byte, c *cell) string {
		v, err := strconv.ParseInt(str(b), 10, bits)
		if err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return fmt.Sprintf("%s does not fit into %d bits", clip(b), bits)
			}
			return fmt.Sprintf("whole number expected, found %s", clip(b))
		}
		c.i = v
		return ""
	}
}

func parseUint(bits int) parseFunc {
	return func(b []byte, c *cell) string {
		v, err := strconv.ParseUint(str(b), 10, bits)
		if err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return fmt.Sprintf("%s does not fit into %d bits", clip(b), bits)
			}
			return fmt.Sprintf("whole number from 0 on expected, found %s", clip(b))
		}
		c.u = v
		return ""
	}
}

func parseFloat(bits int) parseFunc {
	return func(b []byte, c *cell) string {
		if !numeric(b) {
			return fmt.Sprintf("number expected, found %s", clip(b))
		}
		v, err := strconv.ParseFloat(str(b), bits)
		if err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return fmt.Sprintf("%s is too large for %d bits", clip(b), bits)
			}
			return fmt.Sprintf("number expected, found %s", clip(b))
		}
		c.f = v
		return ""
	}
}

func parseBool(b []byte, c *cell) string {
	switch lower(b) {
	case "true", "1":
		c.i = 1
	case "false", "0":
		c.i = 0
	default:
		return fmt.Sprintf("true or false expected, found %s", clip(b))
	}
	return ""
}

func parseText(b []byte, c *cell) string {
	c.s = b
	return ""
}

func parseTime(b []byte) (time.Time, error) { return time.Parse(time.RFC3339Nano, str(b)) }

func parseTimestamp(unit arrow.TimeUnit) parseFunc {
	return func(b []byte, c *cell) string {
		t, err := parseTime(b)
		if err != nil {
			return fmt.Sprintf("time as in 2006-01-02T15:04:05Z expected, found %s", clip(b))
		}
		ts, err := arrow.TimestampFromTime(t, unit)
		if err != nil {
			return fmt.Sprintf("time %s does not fit", clip(b))
		}
		c.i = int64(ts)
		return ""
	}
}

func parseDate(b []byte, c *cell) string {
	t, err := time.Parse(time.DateOnly, str(b))
	if err != nil {
		return fmt.Sprintf("date as in 2006-01-02 expected, found %s", clip(b))
	}
	c.i = int64(arrow.Date32FromTime(t))
	return ""
}

func parseNoList([]byte, *cell) string { return "list expected" }

// parserOf returns how text becomes a value of type t, or nil when it cannot. Lists are
// filled by the formats that have them.
func parserOf(t arrow.DataType) parseFunc {
	switch t := t.(type) {
	case *arrow.Int8Type, *arrow.Int16Type, *arrow.Int32Type, *arrow.Int64Type:
		return parseInt(t.(arrow.FixedWidthDataType).BitWidth())
	case *arrow.Uint8Type, *arrow.Uint16Type, *arrow.Uint32Type, *arrow.Uint64Type:
		return parseUint(t.(arrow.FixedWidthDataType).BitWidth())
	case *arrow.Float32Type:
		return parseFloat(32)
	case *arrow.Float64Type:
		return parseFloat(64)
	case *arrow.BooleanType:
		return parseBool
	case *arrow.StringType, *arrow.LargeStringType:
		return parseText
	case *arrow.TimestampType:
		return parseTimestamp(t.Unit)
	case *arrow.Date32Type:
		return parseDate
	case *arrow.ListType:
		switch t.Elem().ID() {
		case arrow.INT64, arrow.FLOAT64, arrow.FLOAT32, arrow.STRING:
			return parseNoList
		}
	}
	return nil
}

// adder returns what appends a cell to b, whose type parserOf knows.
func adder(b array.Builder) func(*cell) {
	var add func(*cell)
	switch b := b.(type) {
	case *array.Int8Builder:
		add = func(c *cell) { b.Append(int8(c.i)) }
	case *array.Int16Builder:
		add = func(c *cell) { b.Append(int16(c.i)) }
	case *array.Int32Builder:
		add = func(c *cell) { b.Append(int32(c.i)) }
	case *array.Int64Builder:
		add = func(c *cell) { b.Append(c.i) }
	case *array.Uint8Builder:
		add = func(c *cell) { b.Append(uint8(c.u)) }
	case *array.Uint16Builder:
		add = func(c *cell) { b.Append(uint16(c.u)) }
	case *array.Uint32Builder:
		add = func(c *cell) { b.Append(uint32(c.u)) }
	case *array.Uint64Builder:
		add = func(c *cell) { b.Append(c.u) }
	case *array.Float32Builder:
		add = func(c *cell) { b.Append(float32(c.f)) }
	case *array.Float64Builder:
		add = func(c *cell) { b.Append(c.f) }
	case *array.BooleanBuilder:
		add = func(c *cell) { b.Append(c.i != 0) }
	case *array.StringBuilder:
		add = func(c *cell) { b.BinaryBuilder.Append(c.s) }
	case *array.LargeStringBuilder:
		add = func(c *cell) { b.BinaryBuilder.Append(c.s) }
	case *array.TimestampBuilder:
		add = func(c *cell) { b.Append(arrow.Timestamp(c.i)) }
	case *array.Date32Builder:
		add = func(c *cell) { b.Append(arrow.Date32(c.i)) }
	case *array.ListBuilder:
		switch v := b.ValueBuilder().(type) {
		case *array.Int64Builder:
			add = func(c *cell) { b.Append(true); v.AppendValues(c.ints, nil) }
		case *array.Float64Builder:
			add = func(c *cell) { b.Append(true); v.AppendValues(c.floats, nil) }
		case *array.Float32Builder:
			add = func(c *cell) {
				b.Append(true)
				for _, f := range c.floats {
					v.Append(float32(f))
				}
			}
		case *array.StringBuilder:
			add = func(c *cell) {
				b.Append(true)
				for _, s := range c.texts {
					v.BinaryBuilder.Append(s)
				}
			}
		}
	}
	return func(c *cell) {
		if c.null {
			b.AppendNull()
		} else {
			add(c)
		}
	}
}
