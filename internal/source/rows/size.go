package rows

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Size estimates how many bytes Encode makes of rows, never less than it makes.
func Size(rows arrow.RecordBatch) int {
	n := 256
	for _, c := range rows.Columns() {
		n += arraySize(c)
	}
	return n
}

func pad8(n int) int { return (n + 7) &^ 7 }

// arraySize counts buffers, padded to 8 bytes, and the metadata that describes them. The
// slack of 64 bytes per buffer is what the Arrow writer may leave untrimmed.
func arraySize(a arrow.Array) int {
	const perBuffer = 16 + 64
	n := a.Len()
	size := 16 + 2*perBuffer
	if a.NullN() > 0 {
		size += pad8((n + 7) / 8)
	}
	switch a := a.(type) {
	case *array.Boolean:
		size += pad8((n + 7) / 8)
	case array.BinaryLike:
		width := 4
		switch a.DataType().ID() {
		case arrow.LARGE_STRING, arrow.LARGE_BINARY:
			width = 8
		}
		size += perBuffer + pad8((n+1)*width)
		if n > 0 {
			size += pad8(len(a.ValueBytes()))
		}
	case array.ListLike:
		values := a.ListValues()
		var lo, hi int64
		if n > 0 {
			lo, _ = a.ValueOffsets(0)
			_, hi = a.ValueOffsets(n - 1)
		}
		size += pad8((n + 1) * 8)
		child := array.NewSlice(values, lo, hi)
		size += arraySize(child)
		child.Release()
	case *array.Struct:
		for i := range a.NumField() {
			size += arraySize(a.Field(i))
		}
	default:
		if w, ok := a.DataType().(arrow.FixedWidthDataType); ok {
			size += pad8(n * w.BitWidth() / 8)
		}
	}
	return size
}

// Split cuts rows into pieces of at most maxBytes by Size, in order, as few as halving
// finds. A single row larger than maxBytes is a piece of its own: the stream will refuse it
// with its own words. The caller releases the pieces; rows is untouched.
func Split(rows arrow.RecordBatch, maxBytes int) []arrow.RecordBatch {
	if rows.NumRows() == 0 {
		return nil
	}
	size := Size(rows)
	if size <= maxBytes || rows.NumRows() == 1 {
		rows.Retain()
		return []arrow.RecordBatch{rows}
	}
	// Aim for equal pieces, then check each: rows differ in size.
	pieces := int64(size/maxBytes + 1)
	step := max(1, (rows.NumRows()+pieces-1)/pieces)
	if step == rows.NumRows() {
		step = (step + 1) / 2
	}
	var out []arrow.RecordBatch
	for at := int64(0); at < rows.NumRows(); at += step {
		part := rows.NewSlice(at, min(at+step, rows.NumRows()))
		out = append(out, Split(part, maxBytes)...)
		part.Release()
	}
	return out
}
