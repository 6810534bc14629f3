package tidemill_test

import (
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// A batch with gaps and bad records, cut anywhere, says the same in its parts as in one piece.
func TestBatchSlice(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "offset", Type: arrow.PrimitiveTypes.Int64}}, nil)
	rapid.Check(t, func(rt *rapid.T) {
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		first := rapid.Int64Range(0, 100).Draw(rt, "first")
		// What lies at each offset: 0 a row, 1 a bad record, 2 nothing.
		kinds := rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 1, 2}), 1, 30).Draw(rt, "kinds")
		b := tidemill.Batch{Range: tidemill.Range{First: first, Next: first + int64(len(kinds))}, Offsets: []int64{}}
		build := array.NewRecordBuilder(mem, schema)
		for i, k := range kinds {
			at := first + int64(i)
			switch k {
			case 0:
				build.Field(0).(*array.Int64Builder).Append(at)
				b.Offsets = append(b.Offsets, at)
			case 1:
				b.Bad = append(b.Bad, tidemill.BadRecord{Offset: at})
			}
		}
		b.Rows = build.NewRecordBatch()
		build.Release()
		if len(b.Offsets) == len(kinds) {
			b.Offsets = nil
		}
		var rows, bad []int64
		for at := b.Range.First; at < b.Range.Next; {
			next := min(b.Range.Next, at+rapid.Int64Range(1, 9).Draw(rt, "step"))
			part := b.Slice(tidemill.Range{First: at, Next: next})
			ids := part.Rows.Column(0).(*array.Int64)
			for i := range ids.Len() {
				if part.Offset(i) != ids.Value(i) || ids.Value(i) < at || ids.Value(i) >= next {
					rt.Fatalf("row %d of %v has offset %d and stands for %d", i, part.Range, part.Offset(i), ids.Value(i))
				}
				rows = append(rows, ids.Value(i))
			}
			for _, r := range part.Bad {
				bad = append(bad, r.Offset)
			}
			part.Rows.Release()
			at = next
		}
		b.Rows.Release()
		mem.AssertSize(t, 0)
		var wantRows, wantBad []int64
		for i, k := range kinds {
			switch k {
			case 0:
				wantRows = append(wantRows, first+int64(i))
			case 1:
				wantBad = append(wantBad, first+int64(i))
			}
		}
		if !slices.Equal(rows, wantRows) || !slices.Equal(bad, wantBad) {
			rt.Fatalf("rows %v bad %v, want %v and %v", rows, bad, wantRows, wantBad)
		}
	})
}
