package serving

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
)

// tensor is one input as it came. Exactly one of raw, typed and text is set.
type tensor struct {
	name     string
	datatype string
	shape    []int64
	raw      []byte  // row-major, little-endian; BYTES with a 4-byte length each
	typed    *values // decoded at the edge
	text     []byte  // a checked JSON value
}

// values are a tensor's elements in order. Which slice is used depends on the datatype's kind.
type values struct {
	ints    []int64   // BOOL (0, 1) and all integers but UINT64
	uints   []uint64  // UINT64
	floats  []float64 // FP16, BF16, FP32, FP64
	offsets []int32   // BYTES: element i is data[offsets[i]:offsets[i+1]]
	data    []byte
	nulls   []bool // nil: none
}

type kind byte

const (
	kindBool kind = iota
	kindInt
	kindUint64
	kindFloat
	kindBytes
)

// datatype is one of the protocol's.
type datatype struct {
	name     string
	kind     kind
	size     int // bytes of an element; 0 for BYTES
	min, max int64
}

var datatypes = map[string]datatype{
	"BOOL": {"BOOL", kindBool, 1, 0, 1}, "BYTES": {name: "BYTES", kind: kindBytes},
	"INT8": {"INT8", kindInt, 1, math.MinInt8, math.MaxInt8}, "UINT8": {"UINT8", kindInt, 1, 0, math.MaxUint8},
	"INT16": {"INT16", kindInt, 2, math.MinInt16, math.MaxInt16}, "UINT16": {"UINT16", kindInt, 2, 0, math.MaxUint16},
	"INT32": {"INT32", kindInt, 4, math.MinInt32, math.MaxInt32}, "UINT32": {"UINT32", kindInt, 4, 0, math.MaxUint32},
	"INT64": {"INT64", kindInt, 8, math.MinInt64, math.MaxInt64}, "UINT64": {name: "UINT64", kind: kindUint64, size: 8},
	"FP16": {name: "FP16", kind: kindFloat, size: 2}, "BF16": {name: "BF16", kind: kindFloat, size: 2},
	"FP32": {name: "FP32", kind: kindFloat, size: 4}, "FP64": {name: "FP64", kind: kindFloat, size: 8},
}

func datatypeOf(name string) (datatype, error) {
	d, ok := datatypes[name]
	if !ok {
		return d, tidemill.Invalid("datatype %s", "one of BOOL, INT8 to INT64, UINT8 to UINT64, FP16, BF16, FP32, FP64, BYTES", quote(name))
	}
	return d, nil
}

// maxWidth is the most elements of one row of a list column.
const maxWidth = 1 << 16

// checkShape refuses a shape that no column has, before anything is allocated for it.
func (t *tensor) checkShape(maxRows int) error {
	if len(t.name) > maxName {
		return tidemill.Invalid("an input's name has %d bytes", "at most 256", len(t.name))
	}
	if len(t.shape) < 1 || len(t.shape) > 2 {
		return tidemill.Invalid("input %s has %d dimensions", "its shape is [rows] or [rows, 1]", quote(t.name), len(t.shape))
	}
	for _, d := range t.shape {
		if d < 0 {
			return tidemill.Invalid("input %s has dimension %d", "dimensions are ≥ 0", quote(t.name), d)
		}
	}
	switch rows := t.shape[0]; {
	case rows == 0:
		return tidemill.Invalid("input %s has no rows", "send at least one", quote(t.name))
	case rows > int64(maxRows):
		return tidemill.Invalid("input %s has %d rows, the model takes at most %d", "send smaller batches, or raise serve.max_batch of the job", quote(t.name), rows, maxRows)
	}
	if len(t.shape) == 2 && t.shape[1] > maxWidth {
		return tidemill.Invalid("input %s has %d elements per row", "at most 65536", quote(t.name), t.shape[1])
	}
	return nil
}

// elements is the number of elements; checkShape has bounded it.
func (t *tensor) elements() int {
	n := t.shape[0]
	if len(t.shape) == 2 {
		n *= t.shape[1]
	}
	return int(n)
}

// decode returns the elements of t.
func (t *tensor) decode() (datatype, *values, error) {
	d, err := datatypeOf(t.datatype)
	if err != nil {
		return d, nil, err
	}
	n := t.elements()
	var v *values
	switch {
	case t.typed != nil:
		if v = t.typed; v.count(d.kind) != n {
			return d, nil, tidemill.Invalid("%d elements where the shape wants %d", "", v.count(d.kind), n)
		}
	case t.text != nil:
		v, err = decodeText(t.text, d, t.shape)
	case d.kind == kindBytes:
		v, err = decodeBytes(t.raw, n)
	default:
		v, err = decodeRaw(t.raw, d, n)
	}
	return d, v, err
}

func (v *values) count(k kind) int {
	switch k {
	case kindUint64:
		return len(v.uints)
	case kindFloat:
		return len(v.floats)
	case kindBytes:
		return max(0, len(v.offsets)-1)
	}
	return len(v.ints)
}

// decodeRaw reads n elements of a datatype with a size.
func decodeRaw(raw []byte, d datatype, n int) (*values, error) {
	if len(raw) != n*d.size {
		return nil, tidemill.Invalid("%d bytes where %d elements of %s have %d", "", len(raw), n, d.name, n*d.size)
	}
	v := new(values)
	switch d.kind {
	case kindUint64:
		v.uints = make([]uint64, n)
		for i := range v.uints {
			v.uints[i] = binary.LittleEndian.Uint64(raw[8*i:])
		}
	case kindFloat:
		v.floats = make([]float64, n)
		rawFloats(v.floats, raw, d)
	default:
		v.ints = make([]int64, n)
		rawInts(v.ints, raw, d)
		if d.kind == kindBool {
			for i, x := range v.ints {
				if x > 1 {
					return nil, tidemill.Invalid("row %d: byte %d is no BOOL", "0 or 1", i, x)
				}
			}
		}
	}
	return v, nil
}

func rawInts(dst []int64, raw []byte, d datatype) {
	signed := d.min < 0
	for i := range dst {
		var u uint64
		switch d.size {
		case 1:
			u = uint64(raw[i])
		case 2:
			u = uint64(binary.LittleEndian.Uint16(raw[2*i:]))
		case 4:
			u = uint64(binary.LittleEndian.Uint32(raw[4*i:]))
		default:
			u = binary.LittleEndian.Uint64(raw[8*i:])
		}
		if signed {
			shift := 64 - 8*d.size
			dst[i] = int64(u<<shift) >> shift
		} else {
			dst[i] = int64(u)
		}
	}
}

func rawFloats(dst []float64, raw []byte, d datatype) {
	for i := range dst {
		switch d.name {
		case "FP16":
			dst[i] = half(binary.LittleEndian.Uint16(raw[2*i:]))
		case "BF16":
			dst[i] = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16))
		case "FP32":
			dst[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
		default:
			dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
		}
	}
}

// half is the value of an IEEE 754 binary16.
func half(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10)&31, float64(h&0x3ff)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// decodeBytes reads n elements, each a 4-byte little-endian length and so many bytes.
func decodeBytes(raw []byte, n int) (*values, error) {
	if int64(len(raw)) < 4*int64(n) {
		return nil, tidemill.Invalid("%d bytes, too few for %d elements of BYTES", "each has a length of 4 bytes before it", len(raw), n)
	}
	if len(raw) > math.MaxInt32 {
		return nil, tidemill.Invalid("%d bytes of BYTES", "send smaller batches", len(raw))
	}
	v := &values{offsets: make([]int32, 1, n+1), data: make([]byte, 0, len(raw)-4*n)}
	rest := raw
	for i := range n {
		if len(rest) < 4 {
			return nil, tidemill.Invalid("element %d of BYTES: its length is cut off", "each has a length of 4 bytes before it", i)
		}
		size := binary.LittleEndian.Uint32(rest)
		rest = rest[4:]
		if uint64(size) > uint64(len(rest)) {
			return nil, tidemill.Invalid("element %d of BYTES has length %d, and %d bytes are left", "", i, size, len(rest))
		}
		v.data = append(v.data, rest[:size]...)
		v.offsets = append(v.offsets, int32(len(v.data)))
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return nil, tidemill.Invalid("%d bytes are left after %d elements of BYTES", "", len(rest), n)
	}
	return v, nil
}

// element names an element for an error text: its row, and its place in the row of a list.
func (t *tensor) element(i int) string {
	if len(t.shape) == 2 && t.shape[1] > 1 {
		return fmt.Sprintf("row %d, element %d", int64(i)/t.shape[1], int64(i)%t.shape[1])
	}
	return fmt.Sprintf("row %d", i)
}
