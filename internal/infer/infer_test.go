package infer

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// A time is the same whatever unit the rows have it in: serving's column may have another.
func TestTimesAreText(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 30, 15, 250_000_000, time.UTC)
	for _, unit := range []arrow.TimeUnit{arrow.Second, arrow.Millisecond, arrow.Microsecond, arrow.Nanosecond} {
		b := array.NewTimestampBuilder(memory.DefaultAllocator, &arrow.TimestampType{Unit: unit})
		v, err := arrow.TimestampFromTime(at, unit)
		if err != nil {
			t.Fatal(err)
		}
		b.Append(v)
		col := b.NewArray()
		datatype, raw, err := encode(col)
		col.Release()
		b.Release()
		want := at
		if unit == arrow.Second {
			want = at.Truncate(time.Second)
		}
		if text := want.Format(time.RFC3339Nano); err != nil || datatype != "BYTES" || int(binary.LittleEndian.Uint32(raw)) != len(text) || string(raw[4:]) != text {
			t.Errorf("%v: %s %q, %v; want %s", unit, datatype, raw, err, text)
		}
	}
}
