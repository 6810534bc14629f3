package feature

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"

	"github.com/tidemill/tidemill"
)

// class is what transforms distinguish about a column's type.
type class uint8

const (
	classUnknown class = iota // no schema at hand
	classInt
	classFloat
	classBool
	classTime // timestamp or date, as Unix milliseconds
	classText // text, bytes, or a dictionary of them
	classList // of integers or text
	classOther
)

func (c class) number() bool { return c == classInt || c == classFloat }

func (c class) String() string {
	return [...]string{"an unknown type", "a whole number", "a number", "true or false", "a time", "text", "a list", "of a type that is not supported"}[c]
}

// classOf returns the class of t.
func classOf(t arrow.DataType) class {
	switch t.ID() {
	case arrow.INT8, arrow.INT16, arrow.INT32, arrow.INT64, arrow.UINT8, arrow.UINT16, arrow.UINT32, arrow.UINT64:
		return classInt
	case arrow.FLOAT16, arrow.FLOAT32, arrow.FLOAT64:
		return classFloat
	case arrow.BOOL:
		return classBool
	case arrow.TIMESTAMP, arrow.DATE32, arrow.DATE64:
		return classTime
	case arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW, arrow.BINARY, arrow.LARGE_BINARY, arrow.BINARY_VIEW, arrow.FIXED_SIZE_BINARY:
		return classText
	case arrow.DICTIONARY:
		switch t.(*arrow.DictionaryType).ValueType.ID() {
		case arrow.STRING, arrow.LARGE_STRING, arrow.BINARY, arrow.LARGE_BINARY, arrow.FIXED_SIZE_BINARY:
			return classText
		}
	case arrow.LIST, arrow.LARGE_LIST, arrow.FIXED_SIZE_LIST:
		if c := classOf(t.(arrow.ListLikeType).Elem()); c == classInt || c == classText {
			return classList
		}
	}
	return classOther
}

// isUTF8 reports whether values of t promise to be UTF-8.
func isUTF8(t arrow.DataType) bool {
	switch t.ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW:
		return true
	case arrow.DICTIONARY:
		return isUTF8(t.(*arrow.DictionaryType).ValueType)
	case arrow.LIST, arrow.LARGE_LIST, arrow.FIXED_SIZE_LIST:
		return isUTF8(t.(arrow.ListLikeType).Elem())
	}
	return false
}

// mismatch is the error for a batch whose column has a type of another class than planned.
func mismatch(arr arrow.Array, want string) error {
	return tidemill.Invalid("a column of type %s where %s is needed", "send the stream's own column types", arr.DataType(), want)
}

// nulls returns the validity bitmap of arr and its bit offset, or nil when arr has no null.
// It does not use arr.NullN, which caches its result: batches may be shared by goroutines.
func nulls(arr arrow.Array) ([]byte, int) {
	bitmap := arr.NullBitmapBytes()
	if len(bitmap) == 0 {
		return nil, 0
	}
	d := arr.Data()
	n, off := d.NullN(), d.Offset() // n is negative where nobody has counted yet
	if n == 0 || n < 0 && bitutil.CountSetBits(bitmap, off, d.Len()) == d.Len() {
		return nil, 0
	}
	return bitmap, off
}

// fillNulls overwrites with v each element of dst whose row is null in arr.
func fillNulls[T any](dst []T, arr arrow.Array, v T) {
	bitmap, off := nulls(arr)
	if bitmap == nil {
		return
	}
	for i := range dst {
		if bitutil.BitIsNotSet(bitmap, off+i) {
			dst[i] = v
		}
	}
}

type realNumber interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

func toFloats[T realNumber](dst []float64, src []T) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = float64(v)
	}
}

// millis scales times to Unix milliseconds, rounding down and saturating.
func millis[T ~int32 | ~int64](dst []int64, src []T, mul, div int64) {
	dst = dst[:len(src)]
	for i, v := range src {
		x := int64(v)
		if div > 1 {
			q := x / div
			if x%div < 0 {
				q--
			}
			dst[i] = q
			continue
		}
		hi, lo := bits.Mul64(uint64(max(x, -x)), uint64(mul))
		switch {
		case x == math.MinInt64 || x < 0 && (hi != 0 || lo > math.MaxInt64):
			dst[i] = math.MinInt64
		case hi != 0 || lo > math.MaxInt64:
			dst[i] = math.MaxInt64
		default:
			dst[i] = x * mul
		}
	}
}

const dayMillis = 24 * 60 * 60 * 1000

// loadMillis writes a time column as Unix milliseconds; null rows hold garbage.
func loadMillis(dst []int64, arr arrow.Array) error {
	switch a := arr.(type) {
	case *array.Timestamp:
		mul, div := int64(1), int64(1)
		switch a.DataType().(*arrow.TimestampType).Unit {
		case arrow.Second:
			mul = 1000
		case arrow.Microsecond:
			div = 1000
		case arrow.Nanosecond:
			div = 1000_000
		}
		millis(dst, a.TimestampValues(), mul, div)
	case *array.Date32:
		millis(dst, a.Date32Values(), dayMillis, 1)
	case *array.Date64:
		millis(dst, a.Date64Values(), 1, 1)
	default:
		return mismatch(arr, "a time")
	}
	return nil
}

// loadNumbers writes the values of a number, bool or time column to dst, whose length is the
// array's; null rows hold garbage. scratch is grown as needed for times.
func loadNumbers(dst []float64, arr arrow.Array, scratch *[]int64) error {
	switch a := arr.(type) {
	case *array.Float64:
		copy(dst, a.Float64Values())
	case *array.Float32:
		toFloats(dst, a.Float32Values())
	case *array.Int64:
		toFloats(dst, a.Int64Values())
	case *array.Int32:
		toFloats(dst, a.Int32Values())
	case *array.Int16:
		toFloats(dst, a.Int16Values())
	case *array.Int8:
		toFloats(dst, a.Int8Values())
	case *array.Uint64:
		toFloats(dst, a.Uint64Values())
	case *array.Uint32:
		toFloats(dst, a.Uint32Values())
	case *array.Uint16:
		toFloats(dst, a.Uint16Values())
	case *array.Uint8:
		toFloats(dst, a.Uint8Values())
	case *array.Float16:
		for i, v := range a.Values() {
			dst[i] = float64(v.Float32())
		}
	case *array.Boolean:
		for i := range dst {
			dst[i] = 0
			if a.Value(i) {
				dst[i] = 1
			}
		}
	case *array.Timestamp, *array.Date32, *array.Date64:
		ms := grow(scratch, len(dst))
		if err := loadMillis(ms, arr); err != nil {
			return err
		}
		toFloats(dst, ms)
	default:
		return mismatch(arr, "a number")
	}
	return nil
}

// loadInts writes whole numbers or times, the latter as Unix milliseconds; null rows hold
// garbage. It reports false for other types.
func loadInts(dst []int64, arr arrow.Array) bool {
	switch a := arr.(type) {
	case *array.Int64:
		copy(dst, a.Int64Values())
	case *array.Int32:
		toInts(dst, a.Int32Values())
	case *array.Int16:
		toInts(dst, a.Int16Values())
	case *array.Int8:
		toInts(dst, a.Int8Values())
	case *array.Uint64:
		for i, v := range a.Uint64Values() {
			dst[i] = int64(min(v, math.MaxInt64))
		}
	case *array.Uint32:
		toInts(dst, a.Uint32Values())
	case *array.Uint16:
		toInts(dst, a.Uint16Values())
	case *array.Uint8:
		toInts(dst, a.Uint8Values())
	default:
		return loadMillis(dst, arr) == nil
	}
	return true
}

func toInts[T ~int8 | ~int16 | ~int32 | ~uint8 | ~uint16 | ~uint32](dst []int64, src []T) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = int64(v)
	}
}

// grow returns *s resized to n elements of unspecified value, reusing its memory.
func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n, n+n/4)
	}
	*s = (*s)[:n]
	return *s
}

// texts reads text values in place, whatever their layout.
type texts struct {
	n, off int
	o32    []int32
	o64    []int64
	width  int // of fixed-size values
	data   []byte
	str    *array.StringView
	bin    *array.BinaryView
}

// textsOf returns a reader of the text column arr, which is no dictionary.
func textsOf(arr arrow.Array) (texts, error) {
	switch a := arr.(type) {
	case *array.StringView:
		return texts{n: a.Len(), str: a}, nil
	case *array.BinaryView:
		return texts{n: a.Len(), bin: a}, nil
	}
	return textsOfData(arr.Data())
}

func textsOfData(d arrow.ArrayData) (texts, error) {
	t := texts{n: d.Len(), off: d.Offset()}
	bufs := d.Buffers()
	switch dt := d.DataType(); dt.ID() {
	case arrow.STRING, arrow.BINARY:
		if t.n > 0 {
			t.o32 = arrow.Int32Traits.CastFromBytes(bufs[1].Bytes())
		}
		if bufs[2] != nil {
			t.data = bufs[2].Bytes()
		}
	case arrow.LARGE_STRING, arrow.LARGE_BINARY:
		if t.n > 0 {
			t.o64 = arrow.Int64Traits.CastFromBytes(bufs[1].Bytes())
		}
		if bufs[2] != nil {
			t.data = bufs[2].Bytes()
		}
	case arrow.FIXED_SIZE_BINARY:
		t.width = dt.(*arrow.FixedSizeBinaryType).ByteWidth
		if bufs[1] != nil {
			t.data = bufs[1].Bytes()
		}
	default:
		return t, tidemill.Invalid("a column of type %s where text is needed", "send the stream's own column types", dt)
	}
	return t, nil
}

// at returns value i in place; for a null row it is unspecified.
func (t *texts) at(i int) []byte {
	i += t.off
	switch {
	case t.o32 != nil:
		return t.data[t.o32[i]:t.o32[i+1]]
	case t.o64 != nil:
		return t.data[t.o64[i]:t.o64[i+1]]
	case t.str != nil:
		return []byte(t.str.Value(i))
	case t.bin != nil:
		return t.bin.Value(i)
	}
	return t.data[i*t.width : (i+1)*t.width]
}

func columnError(name string, err error) error { return fmt.Errorf("column %q: %w", name, err) }
