package rows

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Take returns rows[idx[0]], rows[idx[1]], … Each index must lie in [0, rows.NumRows()). The
// caller releases the result. Runs of neighbouring indices are sliced, not copied, when they
// cover idx.
func Take(rows arrow.RecordBatch, idx []int, mem memory.Allocator) (arrow.RecordBatch, error) {
	if len(idx) > 0 && idx[len(idx)-1]-idx[0] == len(idx)-1 && contiguous(idx) {
		return rows.NewSlice(int64(idx[0]), int64(idx[0]+len(idx))), nil
	}
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	cols := make([]arrow.Array, rows.NumCols())
	defer func() {
		for _, c := range cols {
			if c != nil {
				c.Release()
			}
		}
	}()
	for i := range cols {
		c, err := take(rows.Column(i), idx, mem)
		if err != nil {
			return nil, err
		}
		cols[i] = c
	}
	return array.NewRecordBatch(rows.Schema(), cols, int64(len(idx))), nil
}

func contiguous(idx []int) bool {
	for i := 1; i < len(idx); i++ {
		if idx[i] != idx[i-1]+1 {
			return false
		}
	}
	return true
}

func take(a arrow.Array, idx []int, mem memory.Allocator) (arrow.Array, error) {
	switch a := a.(type) {
	case *array.String:
		b := array.NewStringBuilder(mem)
		defer b.Release()
		b.Reserve(len(idx))
		for _, i := range idx {
			if a.IsNull(i) {
				b.AppendNull()
			} else {
				b.Append(a.Value(i))
			}
		}
		return b.NewArray(), nil
	case *array.Boolean:
		b := array.NewBooleanBuilder(mem)
		defer b.Release()
		b.Reserve(len(idx))
		for _, i := range idx {
			if a.IsNull(i) {
				b.AppendNull()
			} else {
				b.UnsafeAppend(a.Value(i))
			}
		}
		return b.NewArray(), nil
	}
	if w, ok := a.DataType().(arrow.FixedWidthDataType); ok && a.DataType().ID() != arrow.FIXED_SIZE_LIST && w.BitWidth()%8 == 0 && len(a.Data().Children()) == 0 {
		return takeFixed(a, idx, w.BitWidth()/8, mem), nil
	}
	return takeSlices(a, idx, mem)
}

// takeFixed gathers values of width bytes.
func takeFixed(a arrow.Array, idx []int, width int, mem memory.Allocator) arrow.Array {
	data := a.Data()
	values := memory.NewResizableBuffer(mem)
	defer values.Release()
	values.Resize(len(idx) * width)
	dst := values.Bytes()
	src := data.Buffers()[1].Bytes()[data.Offset()*width:]
	switch width {
	case 8:
		for k, i := range idx {
			*(*[8]byte)(dst[k*8:]) = *(*[8]byte)(src[i*8:])
		}
	case 4:
		for k, i := range idx {
			*(*[4]byte)(dst[k*4:]) = *(*[4]byte)(src[i*4:])
		}
	default:
		for k, i := range idx {
			copy(dst[k*width:(k+1)*width], src[i*width:(i+1)*width])
		}
	}
	var valid *memory.Buffer
	nulls := 0
	if a.NullN() > 0 {
		valid = memory.NewResizableBuffer(mem)
		defer valid.Release()
		valid.Resize(int(bitutil.BytesForBits(int64(len(idx)))))
		clear(valid.Bytes())
		for k, i := range idx {
			if a.IsValid(i) {
				bitutil.SetBit(valid.Bytes(), k)
			} else {
				nulls++
			}
		}
	}
	d := array.NewData(a.DataType(), len(idx), []*memory.Buffer{valid, values}, nil, nulls, 0)
	defer d.Release()
	return array.MakeFromData(d)
}

// takeSlices joins runs; it serves the nested types.
func takeSlices(a arrow.Array, idx []int, mem memory.Allocator) (arrow.Array, error) {
	if len(idx) == 0 {
		return array.NewSlice(a, 0, 0), nil
	}
	var parts []arrow.Array
	defer func() {
		for _, p := range parts {
			p.Release()
		}
	}()
	for at := 0; at < len(idx); {
		end := at + 1
		for end < len(idx) && idx[end] == idx[end-1]+1 {
			end++
		}
		parts = append(parts, array.NewSlice(a, int64(idx[at]), int64(idx[end-1]+1)))
		at = end
	}
	return array.Concatenate(parts, mem)
}
