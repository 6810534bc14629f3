package rows

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
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
