package produce

import (
	"encoding/binary"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// dealer sends rows to partitions.
type dealer struct {
	n   int // partitions
	key int // column, or -1
}

func newDealer(schema *arrow.Schema, partitions int, keyColumn string) (dealer, error) {
	d := dealer{n: partitions, key: -1}
	if keyColumn == "" {
		return d, nil
	}
	at := schema.FieldIndices(keyColumn)
	if len(at) == 0 {
		var names []string
		for _, f := range schema.Fields() {
			names = append(names, f.Name)
		}
		remedy := "name one of the input's columns"
		if near := tidemill.Nearest(keyColumn, names); near != "" {
			remedy = "did you mean \"" + near + "\"?"
		}
		return d, tidemill.Invalid("there is no key column %q", remedy, keyColumn)
	}
	d.key = at[0]
	switch t := schema.Field(d.key).Type; t.ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.BINARY, arrow.LARGE_BINARY, arrow.BOOL,
		arrow.INT8, arrow.INT16, arrow.INT32, arrow.INT64, arrow.UINT8, arrow.UINT16, arrow.UINT32, arrow.UINT64,
		arrow.FLOAT32, arrow.FLOAT64, arrow.TIMESTAMP, arrow.DATE32:
	default:
		return d, tidemill.Invalid("key column %q has type %s", "use one of numbers, text or times", keyColumn, t)
	}
	return d, nil
}

// deal returns the rows of rec, whose first one has input index first, by partition: those
// with an input index of at least from[p], in order.
func (d dealer) deal(rec arrow.RecordBatch, first int64, from []int64) (byPart [][]int, skipped int64) {
	byPart = make([][]int, d.n)
	var hash func(i int) uint64
	if d.key >= 0 {
		hash = hasher(rec.Column(d.key))
	}
	for i := range int(rec.NumRows()) {
		p := int((first + int64(i)) % int64(d.n))
		if hash != nil {
			p = int(hash(i) % uint64(d.n))
		}
		if first+int64(i) < from[p] {
			skipped++
			continue
		}
		byPart[p] = append(byPart[p], i)
	}
	return byPart, skipped
}

// hasher hashes a value of the column by its meaning, not its width: 7 goes where 7 goes,
// from whatever format. Nulls go together.
func hasher(a arrow.Array) func(i int) uint64 {
	var value func(i int) uint64
	number := func(v uint64) uint64 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		return xxh3.Hash(b[:])
	}
	switch a := a.(type) {
	case *array.String:
		value = func(i int) uint64 { return xxh3.HashString(a.Value(i)) }
	case *array.LargeString:
		value = func(i int) uint64 { return xxh3.HashString(a.Value(i)) }
	case *array.Binary:
		value = func(i int) uint64 { return xxh3.Hash(a.Value(i)) }
	case *array.LargeBinary:
		value = func(i int) uint64 { return xxh3.Hash(a.Value(i)) }
	case *array.Boolean:
		value = func(i int) uint64 {
			if a.Value(i) {
				return number(1)
			}
			return number(0)
		}
	case *array.Int8:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Int16:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Int32:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Int64:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Uint8:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Uint16:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Uint32:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Uint64:
		value = func(i int) uint64 { return number(a.Value(i)) }
	case *array.Float32:
		value = func(i int) uint64 { return number(math.Float64bits(float64(a.Value(i)))) }
	case *array.Float64:
		value = func(i int) uint64 { return number(math.Float64bits(a.Value(i))) }
	case *array.Timestamp:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	case *array.Date32:
		value = func(i int) uint64 { return number(uint64(a.Value(i))) }
	}
	return func(i int) uint64 {
		if a.IsNull(i) {
			return 0
		}
		return value(i)
	}
}
