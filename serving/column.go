package serving

import (
	"math"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// column is an input column: how a tensor becomes an Arrow array of it.
type column struct {
	name     string
	stream   arrow.DataType // as the stream has it
	batch    arrow.DataType // as decoded: the same class, a plain type
	elem     arrow.DataType // of a list's elements; else batch
	list     bool
	datatype string // that metadata advertises
}

// newColumn says how to decode a column of the stream.
func newColumn(name string, t arrow.DataType) (column, error) {
	c := column{name: name, stream: t}
	elem := t
	switch t.ID() {
	case arrow.LIST, arrow.LARGE_LIST, arrow.FIXED_SIZE_LIST:
		c.list = true
		elem = t.(arrow.ListLikeType).Elem()
	}
	if d, ok := elem.(*arrow.DictionaryType); ok {
		elem = d.ValueType
	}
	switch elem.ID() {
	case arrow.INT8, arrow.INT16, arrow.INT32, arrow.INT64, arrow.UINT8, arrow.UINT16, arrow.UINT32:
		c.elem, c.datatype = arrow.PrimitiveTypes.Int64, "INT64"
	case arrow.UINT64:
		c.elem, c.datatype = arrow.PrimitiveTypes.Uint64, "UINT64"
	case arrow.FLOAT16, arrow.FLOAT32:
		c.elem, c.datatype = arrow.PrimitiveTypes.Float32, "FP32"
	case arrow.FLOAT64:
		c.elem, c.datatype = arrow.PrimitiveTypes.Float64, "FP64"
	case arrow.BOOL:
		c.elem, c.datatype = arrow.FixedWidthTypes.Boolean, "BOOL"
	case arrow.STRING, arrow.LARGE_STRING, arrow.STRING_VIEW:
		c.elem, c.datatype = arrow.BinaryTypes.String, "BYTES"
	case arrow.BINARY, arrow.LARGE_BINARY, arrow.BINARY_VIEW, arrow.FIXED_SIZE_BINARY:
		c.elem, c.datatype = arrow.BinaryTypes.Binary, "BYTES"
	case arrow.TIMESTAMP, arrow.DATE32, arrow.DATE64:
		c.elem, c.datatype = elem, "INT64"
	default:
		return c, tidemill.Invalid("column %q of type %s cannot be sent in a request", "leave it out of the features", name, t)
	}
	c.batch = c.elem
	if c.list {
		c.batch = arrow.ListOf(c.elem)
	}
	return c, nil
}

// shape of the column in metadata; -1 is any size.
func (c *column) shape() []int64 {
	if c.list {
		return []int64{-1, -1}
	}
	return []int64{-1}
}

// intRange is what an integer column of the stream can hold.
func intRange(t arrow.DataType) (lo, hi int64) {
	switch t.ID() {
	case arrow.INT8:
		return math.MinInt8, math.MaxInt8
	case arrow.INT16:
		return math.MinInt16, math.MaxInt16
	case arrow.INT32, arrow.DATE32:
		return math.MinInt32, math.MaxInt32
	case arrow.UINT8:
		return 0, math.MaxUint8
	case arrow.UINT16:
		return 0, math.MaxUint16
	case arrow.UINT32:
		return 0, math.MaxUint32
	}
	return math.MinInt64, math.MaxInt64
}

// array decodes t. The caller releases it. Errors name the row.
func (c *column) array(t *tensor) (arrow.Array, error) {
	if !c.list && len(t.shape) == 2 && t.shape[1] != 1 {
		return nil, tidemill.Invalid("it has %d elements per row", "its shape is [rows] or [rows, 1]", t.shape[1])
	}
	if c.list && len(t.shape) != 2 {
		return nil, tidemill.Invalid("it is a list column and has one dimension", "its shape is [rows, elements]")
	}
	d, v, err := t.decode()
	if err != nil {
		return nil, err
	}
	n := t.elements()
	var buffers []*memory.Buffer
	switch c.elem.ID() {
	case arrow.STRING, arrow.BINARY:
		if d.kind != kindBytes {
			return nil, c.wrong(d)
		}
		if len(v.data) > math.MaxInt32 {
			return nil, tidemill.Invalid("%d bytes of text", "send smaller batches", len(v.data))
		}
		buffers = []*memory.Buffer{memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(v.offsets)), memory.NewBufferBytes(v.data)}
	case arrow.BOOL:
		if d.kind != kindBool {
			return nil, c.wrong(d)
		}
		bits := make([]byte, bitutil.BytesForBits(int64(n)))
		for i, x := range v.ints {
			if x != 0 {
				bitutil.SetBit(bits, i)
			}
		}
		buffers = []*memory.Buffer{memory.NewBufferBytes(bits)}
	default:
		b, err := c.numbers(t, d, v, n)
		if err != nil {
			return nil, err
		}
		buffers = []*memory.Buffer{memory.NewBufferBytes(b)}
	}
	valid, nulls := validity(v.nulls)
	data := array.NewData(c.elem, n, append([]*memory.Buffer{valid}, buffers...), nil, nulls, 0)
	defer data.Release()
	if !c.list {
		return array.MakeFromData(data), nil
	}
	offsets := make([]int32, t.shape[0]+1)
	for i := range offsets {
		offsets[i] = int32(int64(i) * t.shape[1])
	}
	list := array.NewData(c.batch, int(t.shape[0]), []*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets))}, []arrow.ArrayData{data}, 0, 0)
	defer list.Release()
	return array.MakeFromData(list), nil
}

func (c *column) wrong(d datatype) error {
	return tidemill.Invalid("datatype %s for a column of type %s", "send "+c.datatype, d.name, c.stream)
}

func validity(nulls []bool) (*memory.Buffer, int) {
	n := 0
	for _, null := range nulls {
		if null {
			n++
		}
	}
	if n == 0 {
		return nil, 0
	}
	bits := make([]byte, bitutil.BytesForBits(int64(len(nulls))))
	for i, null := range nulls {
		if !null {
			bitutil.SetBit(bits, i)
		}
	}
	return memory.NewBufferBytes(bits), n
}

// numbers converts to the little-endian buffer of c.elem. A value is converted when that is
// exact, or when a float becomes a narrower float; else its row is named.
func (c *column) numbers(t *tensor, d datatype, v *values, n int) ([]byte, error) {
	null := func(i int) bool { return v.nulls != nil && v.nulls[i] }
	switch id := c.elem.ID(); id {
	case arrow.FLOAT32, arrow.FLOAT64:
		if d.kind == kindBool || d.kind == kindBytes {
			return nil, c.wrong(d)
		}
		limit := math.MaxFloat64
		if id == arrow.FLOAT32 {
			limit = math.MaxFloat32
		}
		out := make([]float64, n)
		for i := range out {
			x, exact := 0.0, true
			switch d.kind {
			case kindFloat:
				if x = v.floats[i]; !(math.Abs(x) <= limit) && !null(i) {
					return nil, tidemill.Invalid("%s: %v is not a finite number of the column's type", "", t.element(i), x)
				}
			case kindUint64:
				x = float64(v.uints[i])
				exact = x < 1<<64 && uint64(x) == v.uints[i]
			default:
				x = float64(v.ints[i])
				exact = x < 1<<63 && int64(x) == v.ints[i]
			}
			if d.kind != kindFloat && (!exact || id == arrow.FLOAT32 && float64(float32(x)) != x) {
				return nil, tidemill.Invalid("%s: the whole number is too large to be exact", "send "+c.datatype, t.element(i))
			}
			out[i] = x
		}
		if id == arrow.FLOAT64 {
			return arrow.Float64Traits.CastToBytes(out), nil
		}
		narrow := make([]float32, n)
		for i, x := range out {
			narrow[i] = float32(x)
		}
		return arrow.Float32Traits.CastToBytes(narrow), nil
	case arrow.UINT64:
		out := make([]uint64, n)
		for i := range out {
			switch {
			case d.kind == kindUint64:
				out[i] = v.uints[i]
			case d.kind == kindInt && v.ints[i] >= 0:
				out[i] = uint64(v.ints[i])
			case d.kind == kindFloat && v.floats[i] >= 0 && v.floats[i] < 1<<64 && v.floats[i] == math.Trunc(v.floats[i]):
				out[i] = uint64(v.floats[i])
			case d.kind == kindBool || d.kind == kindBytes:
				return nil, c.wrong(d)
			case !null(i):
				return nil, tidemill.Invalid("%s: not a whole number that the column can hold", "send "+c.datatype, t.element(i))
			}
		}
		return arrow.Uint64Traits.CastToBytes(out), nil
	case arrow.TIMESTAMP, arrow.DATE32, arrow.DATE64:
		if d.kind == kindBytes {
			if err := c.times(t, v); err != nil {
				return nil, err
			}
			d.kind = kindInt
		}
	}
	lo, hi := intRange(c.element())
	out := make([]int64, n)
	for i := range out {
		ok := true
		switch d.kind {
		case kindInt:
			out[i] = v.ints[i]
		case kindUint64:
			out[i], ok = int64(v.uints[i]), v.uints[i] <= math.MaxInt64
		case kindFloat:
			x := v.floats[i]
			ok = x >= -(1<<63) && x < 1<<63 && x == math.Trunc(x)
			if ok {
				out[i] = int64(x)
			}
		default:
			return nil, c.wrong(d)
		}
		if null(i) {
			out[i] = 0
		} else if !ok || out[i] < lo || out[i] > hi {
			return nil, tidemill.Invalid("%s: not a whole number that a column of type %s can hold", "", t.element(i), c.stream)
		}
	}
	if c.elem.ID() == arrow.DATE32 {
		days := make([]int32, n)
		for i, x := range out {
			days[i] = int32(x)
		}
		return arrow.Int32Traits.CastToBytes(days), nil
	}
	return arrow.Int64Traits.CastToBytes(out), nil
}

// element is the type of the stream's elements.
func (c *column) element() arrow.DataType {
	if c.list {
		return c.stream.(arrow.ListLikeType).Elem()
	}
	return c.stream
}

// times reads RFC 3339 texts as numbers of the column's unit.
func (c *column) times(t *tensor, v *values) error {
	v.ints = make([]int64, t.elements())
	for i := range v.ints {
		if v.nulls != nil && v.nulls[i] {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, string(v.data[v.offsets[i]:v.offsets[i+1]]))
		if err != nil {
			return tidemill.Invalid("%s: the text is no time", "write it as 2006-01-02T15:04:05Z, or send INT64", t.element(i))
		}
		switch ct := c.elem.(type) {
		case *arrow.TimestampType:
			x, err := arrow.TimestampFromTime(at, ct.Unit)
			if err != nil {
				return tidemill.Invalid("%s: the time is out of range", "", t.element(i))
			}
			v.ints[i] = int64(x)
		case *arrow.Date32Type:
			v.ints[i] = int64(arrow.Date32FromTime(at))
		default:
			v.ints[i] = int64(arrow.Date64FromTime(at))
		}
	}
	return nil
}
