package ps

import (
	"encoding/binary"
	"math"
	"slices"
	"unsafe"
)

// number is what travels as raw little-endian bytes.
type number interface{ uint64 | float32 }

// native reports whether numbers lie in this machine's memory as they travel.
var native = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func size[T number]() int {
	var v T
	return int(unsafe.Sizeof(v))
}

// whole reports whether b is a number of whole values.
func whole[T number](b []byte) bool { return len(b)%size[T]() == 0 }

// rawOf returns v as bytes. They are v's own memory where that is possible: whoever gets them
// reads them only, and only while v stays as it is.
func rawOf[T number](v []T) []byte {
	if native {
		return bytesOf(v)
	}
	return encode(v)
}

// valuesOf returns the values that b holds, and takes b: they are b's own memory where that is
// possible. b must be whole.
func valuesOf[T number](b []byte) []T {
	// The allocator aligns what it hands out, but b may be part of something larger.
	if p := unsafe.Pointer(unsafe.SliceData(b)); native && uintptr(p)%uintptr(size[T]()) == 0 {
		return unsafe.Slice((*T)(p), len(b)/size[T]())
	}
	return copyValues[T](nil, b)
}

// copyValues replaces dst by a copy of the values that b holds, in dst's memory if they fit.
// b must be whole.
func copyValues[T number](dst []T, b []byte) []T {
	n := len(b) / size[T]()
	dst = slices.Grow(dst[:0], n)[:n]
	if native {
		copy(bytesOf(dst), b)
	} else {
		decode(dst, b)
	}
	return dst
}

// bytesOf returns the memory of v.
func bytesOf[T number](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*size[T]())
}

// encode and decode say what the bytes are, on any machine.
func encode[T number](v []T) []byte {
	b := make([]byte, 0, len(v)*size[T]())
	switch v := any(v).(type) {
	case []uint64:
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	case []float32:
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
	}
	return b
}

func decode[T number](dst []T, b []byte) {
	switch dst := any(dst).(type) {
	case []uint64:
		for i := range dst {
			dst[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
	case []float32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
}
