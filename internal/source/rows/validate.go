package rows

import (
	"fmt"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"

	"github.com/tidemill/tidemill"
)

// Validate checks that every value of rec can be read without leaving its buffers. The
// Arrow reader checks most fixed-width values when it makes an array, and little else.
func Validate(rec arrow.RecordBatch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("values do not hold together: %v", p)
		}
	}()
	for i, c := range rec.Columns() {
		if int64(c.Len()) != rec.NumRows() {
			return fmt.Errorf("column %q has %d values in %d rows", rec.ColumnName(i), c.Len(), rec.NumRows())
		}
		if err := validateArray(c, 0); err != nil {
			return fmt.Errorf("column %q: %w", rec.ColumnName(i), err)
		}
	}
	return nil
}

func validateArray(a arrow.Array, depth int) error {
	if depth > maxDepth+1 {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	d := a.Data()
	bits := int(bitutil.BytesForBits(int64(d.Offset() + d.Len())))
	if n := a.NullN(); n < 0 || n > a.Len() {
		return fmt.Errorf("%d nulls in %d values", n, a.Len())
	}
	if a.NullN() > 0 {
		if len(a.NullBitmapBytes()) < bits {
			return fmt.Errorf("%d nulls and %d bytes of validity for %d values", a.NullN(), len(a.NullBitmapBytes()), a.Len())
		}
		if set := bitutil.CountSetBits(a.NullBitmapBytes(), d.Offset(), d.Len()); d.Len()-set != a.NullN() {
			return fmt.Errorf("%d nulls stated, %d marked", a.NullN(), d.Len()-set)
		}
	}
	switch a := a.(type) {
	case *array.Boolean:
		if a.Len() > 0 && (d.Buffers()[1] == nil || d.Buffers()[1].Len() < bits) {
			return fmt.Errorf("%d booleans do not fit their buffer", a.Len())
		}
	// Text that is not UTF-8 is a bad value in a sound array: whoever uses the column puts the
	// row aside, and its neighbours are fine.
	case *array.String:
		if err := a.Validate(); err != nil {
			return err
		}
		if a.Len() > 0 {
			return ascending(arrow.Int32Traits.CastFromBytes(d.Buffers()[1].Bytes())[d.Offset() : d.Offset()+d.Len()+1])
		}
	case *array.LargeString:
		if err := a.Validate(); err != nil {
			return err
		}
		if a.Len() > 0 {
			return ascending(arrow.Int64Traits.CastFromBytes(d.Buffers()[1].Bytes())[d.Offset() : d.Offset()+d.Len()+1])
		}
	case interface{ ValidateFull() error }:
		if err := a.ValidateFull(); err != nil {
			return err
		}
	default:
		if w, ok := a.DataType().(arrow.FixedWidthDataType); ok && len(d.Children()) == 0 && a.Len() > 0 {
			if need := (d.Offset() + d.Len()) * w.BitWidth() / 8; d.Buffers()[1] == nil || d.Buffers()[1].Len() < need {
				return fmt.Errorf("%d values do not fit their buffer", a.Len())
			}
		}
	}
	switch a := a.(type) {
	case array.ListLike:
		return validateArray(a.ListValues(), depth+1)
	case *array.Struct:
		for i := range a.NumField() {
			if a.Field(i).Len() < a.Len() {
				return fmt.Errorf("field %d of a struct has %d values of %d", i, a.Field(i).Len(), a.Len())
			}
			if err := validateArray(a.Field(i), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// ascending checks offsets of which the last is known to lie within its values.
func ascending[T int32 | int64](offsets []T) error {
	if offsets[0] < 0 {
		return fmt.Errorf("an offset is %d", offsets[0])
	}
	for i := 1; i < len(offsets); i++ {
		if offsets[i] < offsets[i-1] {
			return fmt.Errorf("offset %d is %d after %d", i, offsets[i], offsets[i-1])
		}
	}
	return nil
}

// CheckText refuses rows with text that is not UTF-8 with tidemill.ErrInvalid, naming the first
// one's column and row. Streams call it before they keep rows.
func CheckText(rec arrow.RecordBatch) error {
	for i, c := range rec.Columns() {
		if row := firstBadText(c); row >= 0 {
			return tidemill.Invalid("column %q, row %d of %d: the text is not UTF-8", "convert it, or make the column binary", rec.ColumnName(i), row+1, rec.NumRows())
		}
	}
	return nil
}

// firstBadText returns the first value of a that is or holds text which is not UTF-8, or -1.
func firstBadText(a arrow.Array) int {
	text := func(n int, at func(int) string) int {
		for i := range n {
			if a.IsValid(i) && !utf8.ValidString(at(i)) {
				return i
			}
		}
		return -1
	}
	switch a := a.(type) {
	case *array.String:
		return text(a.Len(), a.Value)
	case *array.LargeString:
		return text(a.Len(), a.Value)
	case *array.Dictionary:
		bad := firstBadText(a.Dictionary())
		for i := range a.Len() {
			if bad >= 0 && a.IsValid(i) && badWithin(a.Dictionary(), int64(a.GetValueIndex(i)), int64(a.GetValueIndex(i))+1) {
				return i
			}
		}
	case array.ListLike:
		if firstBadText(a.ListValues()) < 0 {
			return -1
		}
		for i := range a.Len() {
			lo, hi := a.ValueOffsets(i)
			if a.IsValid(i) && badWithin(a.ListValues(), lo, hi) {
				return i
			}
		}
	case *array.Struct:
		for f := range a.NumField() {
			if row := firstBadText(a.Field(f)); row >= 0 {
				return row
			}
		}
	}
	return -1
}

// badWithin reports whether values [lo, hi) of a have text that is not UTF-8.
func badWithin(a arrow.Array, lo, hi int64) bool {
	part := array.NewSlice(a, lo, hi)
	defer part.Release()
	return firstBadText(part) >= 0
}
