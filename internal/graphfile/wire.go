package graphfile

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// types is a set of TensorFlow's DataType numbers, a bit each.
type types uint32

func (t types) has(d uint64) bool { return d < 32 && t&(1<<d) != 0 }

// Numbers of types that are named here.
const (
	typeFloat  = 1
	typeString = 7
	typeUint64 = 23
)

// sizes are the bytes of a value, by type.
var sizes = map[uint64]int64{1: 4, 2: 8, 3: 4, 4: 1, 5: 2, 6: 1, 9: 8, 10: 1, 14: 2, 17: 2, 19: 2, 22: 4, 23: 8}

// typeNames are TensorFlow's names of types, for messages.
var typeNames = map[uint64]string{
	1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64", 9: "int64", 10: "bool",
	11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16", 17: "uint16", 18: "complex128", 19: "half",
	20: "resource", 21: "variant", 22: "uint32", 23: "uint64",
}

func typeName(d uint64) string {
	if n, ok := typeNames[d]; ok {
		return n
	}
	return fmt.Sprintf("type %d", d)
}

// field is one field of a message: number and, by wire type, a varint, a fixed value or bytes.
type field struct {
	number int
	kind   protowire.Type
	bits   uint64
	bytes  []byte
}

var errWire = errors.New("it is cut off or damaged")

// fields calls f for each field of a serialized message.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		v := field{number: int(num), kind: kind}
		switch kind {
		case protowire.VarintType:
			v.bits, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v.bits = uint64(x)
		case protowire.Fixed64Type:
			v.bits, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			return errWire
		}
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// varint returns the field's number, which has to be a varint.
func (f field) varint() (uint64, error) {
	if f.kind != protowire.VarintType {
		return 0, fmt.Errorf("field %d is no number", f.number)
	}
	return f.bits, nil
}

// data returns the field's bytes.
func (f field) data() ([]byte, error) {
	if f.kind != protowire.BytesType {
		return nil, fmt.Errorf("field %d is no text or message", f.number)
	}
	return f.bytes, nil
}

// unexpected is the error for a field that the message is not known to have.
func (f field) unexpected() error { return fmt.Errorf("it has a field %d that is not known", f.number) }

// packed calls add for each number of a repeated field, written packed or one by one; width is
// 0 for varints, else the bytes of a number. It stops at limit.
func (f field) packed(width int, limit int, add func(uint64)) error {
	b := f.bytes
	if f.kind != protowire.BytesType {
		if width == 0 != (f.kind == protowire.VarintType) || width == 4 != (f.kind == protowire.Fixed32Type) {
			return fmt.Errorf("field %d has numbers of another type", f.number)
		}
		add(f.bits)
		return nil
	}
	for count := 0; len(b) > 0; count++ {
		var v uint64
		var n int
		switch width {
		case 0:
			v, n = protowire.ConsumeVarint(b)
		case 4:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v = uint64(x)
		default:
			v, n = protowire.ConsumeFixed64(b)
		}
		if n < 0 {
			return errWire
		}
		if count >= limit {
			return fmt.Errorf("field %d has more than %d values", f.number, limit)
		}
		add(v)
		b = b[n:]
	}
	return nil
}

// shape is a TensorShapeProto: nil for unknown rank, -1 for an unknown size.
type shape []int64

const maxRank = 8

// parseShape reads a TensorShapeProto. With exact, all sizes are known.
func parseShape(b []byte, exact bool) (shape, error) {
	s, unknown := shape{}, false
	err := fields(b, func(f field) error {
		switch f.number {
		case 2:
			d, err := f.data()
			if err != nil {
				return err
			}
			var size int64
			if err := fields(d, func(f field) error {
				switch f.number {
				case 1:
					v, err := f.varint()
					size = int64(v)
					return err
				case 2: // a name, which nobody uses
					_, err := f.data()
					return err
				}
				return f.unexpected()
			}); err != nil {
				return err
			}
			if size < -1 || exact && size < 0 || size > math.MaxInt32 {
				return fmt.Errorf("its shape has a dimension of %d", size)
			}
			if s = append(s, size); len(s) > maxRank {
				return fmt.Errorf("its shape has more than %d dimensions", maxRank)
			}
			return nil
		case 3:
			v, err := f.varint()
			unknown = v != 0
			return err
		}
		return f.unexpected()
	})
	if err != nil {
		return nil, err
	}
	if unknown {
		if exact || len(s) > 0 {
			return nil, errors.New("its shape is of unknown rank")
		}
		return nil, nil
	}
	return s, nil
}

// values returns the product of s's sizes, or false where it is more than limit.
func (s shape) values(limit int64) (int64, bool) {
	n := int64(1)
	for _, d := range s {
		if d == 0 {
			return 0, true
		}
	}
	for _, d := range s {
		if d < 0 || n > limit/d {
			return 0, false
		}
		n *= d
	}
	return n, n <= limit
}

// constant is what is known of a TensorProto.
type constant struct {
	dtype uint64
	shape shape
	bytes int64 // of its values once TensorFlow has made them
}

const maxConstant = 1 << 26 // values

// parseTensor reads a TensorProto of numbers, and checks that its values fit its shape.
func parseTensor(b []byte) (constant, error) {
	c := constant{shape: shape{}}
	content, listed := int64(-1), int64(0)
	list := uint64(0) // the type whose list of values it has
	err := fields(b, func(f field) error {
		count := func(width int, d uint64) error {
			if list != 0 && list != d {
				return errors.New("its values are listed twice")
			}
			list = d
			return f.packed(width, maxConstant, func(uint64) { listed++ })
		}
		switch f.number {
		case 1:
			v, err := f.varint()
			c.dtype = v
			return err
		case 2:
			d, err := f.data()
			if err != nil {
				return err
			}
			c.shape, err = parseShape(d, true)
			return err
		case 3: // a version, always 0
			_, err := f.varint()
			return err
		case 4:
			d, err := f.data()
			content = int64(len(d))
			return err
		case 5:
			return count(4, typeFloat)
		case 6:
			return count(8, 2)
		case 7:
			return count(0, 3)
		case 10:
			return count(0, 9)
		case 11:
			return count(0, 10)
		case 13:
			return count(0, 19)
		case 16:
			return count(0, 22)
		case 17:
			return count(0, typeUint64)
		case 8:
			return errors.New("it holds text")
		}
		return f.unexpected()
	})
	if err != nil {
		return c, err
	}
	width, ok := sizes[c.dtype]
	if !ok {
		return c, fmt.Errorf("it holds values of %s", typeName(c.dtype))
	}
	n, ok := c.shape.values(maxConstant)
	if !ok {
		return c, fmt.Errorf("its shape %v has more than %d values", c.shape, maxConstant)
	}
	c.bytes = n * width
	switch {
	case content > 0 && (listed > 0 || content != c.bytes):
		return c, fmt.Errorf("its shape %v of %s takes %d bytes, and it has %d", c.shape, typeName(c.dtype), c.bytes, content)
	case content <= 0 && listed > n:
		return c, fmt.Errorf("its shape %v takes %d values, and it has %d", c.shape, n, listed)
	case listed > 0 && list != listOf(c.dtype):
		return c, fmt.Errorf("it is of %s, and its values are listed as %s", typeName(c.dtype), typeName(list))
	}
	return c, nil
}

// listOf returns the type whose list of a TensorProto holds values of type d.
func listOf(d uint64) uint64 {
	switch d {
	case 3, 4, 5, 6, 17:
		return 3
	case 14, 19:
		return 19
	}
	return d
}
