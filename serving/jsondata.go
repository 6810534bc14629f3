package serving

import (
	"math"
	"strconv"

	"github.com/tidemill/tidemill"
)

// decodeText reads the elements of a data array: nested as the shape is, or flat. An element
// may be null.
func decodeText(text []byte, d datatype, shape []int64) (*values, error) {
	n := int(shape[0])
	if len(shape) == 2 {
		n *= int(shape[1])
	}
	if len(text) < 2*n-1 { // the shortest: 1,1,1
		return nil, tidemill.Invalid("the data is too short for %d elements", "", n)
	}
	p := elements{reader: reader{data: text}, d: d, shape: shape, want: n}
	switch d.kind {
	case kindUint64:
		p.v.uints = make([]uint64, 0, n)
	case kindFloat:
		if d.size == 2 {
			return nil, tidemill.Invalid("datatype %s has no form in JSON", "send FP32, or binary data", d.name)
		}
		p.v.floats = make([]float64, 0, n)
	case kindBytes:
		p.v.offsets = append(make([]int32, 0, n+1), 0)
	default:
		p.v.ints = make([]int64, 0, n)
	}
	if p.next() != '[' {
		return nil, p.fail("data is an array")
	}
	if err := p.list(0); err != nil {
		return nil, err
	}
	if p.got != n {
		return nil, tidemill.Invalid("the data has %d elements where the shape wants %d", "", p.got, n)
	}
	return &p.v, p.end()
}

// elements reads nested arrays into values.
type elements struct {
	reader
	d     datatype
	v     values
	shape []int64
	want  int
	got   int
	leaf  int // depth of the innermost arrays, once known; 0 unknown, else depth+1
}

func (p *elements) list(depth int) error {
	count := int64(0)
	nested := false
	err := p.array(func(i int) error {
		count++
		if p.next() == '[' {
			if i > 0 && !nested || depth+1 >= len(p.shape) {
				return p.fail("the data is not nested as the shape is")
			}
			nested = true
			return p.list(depth + 1)
		}
		if nested || p.leaf != 0 && p.leaf != depth+1 {
			return p.fail("the data is ragged")
		}
		p.leaf = depth + 1
		if p.got++; p.got > p.want {
			return p.fail("more elements than the shape wants")
		}
		return p.element()
	})
	if err != nil {
		return err
	}
	// A flat list may hold all elements; a nested one follows the shape at each depth.
	flat := depth == 0 && !nested
	if !flat && count != p.shape[depth] {
		return p.fail("an array of " + strconv.FormatInt(count, 10) + " elements where the shape wants " + strconv.FormatInt(p.shape[depth], 10))
	}
	return nil
}

func (p *elements) element() error {
	if p.word("null") {
		if p.v.nulls == nil {
			p.v.nulls = make([]bool, p.want)
		}
		p.v.nulls[p.got-1] = true
		switch p.d.kind {
		case kindUint64:
			p.v.uints = append(p.v.uints, 0)
		case kindFloat:
			p.v.floats = append(p.v.floats, 0)
		case kindBytes:
			p.v.offsets = append(p.v.offsets, int32(len(p.v.data)))
		default:
			p.v.ints = append(p.v.ints, 0)
		}
		return nil
	}
	switch p.d.kind {
	case kindBool:
		b, err := p.bool()
		x := int64(0)
		if b {
			x = 1
		}
		p.v.ints = append(p.v.ints, x)
		return err
	case kindUint64:
		text, _, err := p.number()
		if err != nil {
			return err
		}
		x, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil {
			return p.fail(shorten(string(text)) + " is no UINT64")
		}
		p.v.uints = append(p.v.uints, x)
	case kindFloat:
		text, _, err := p.number()
		if err != nil {
			return err
		}
		bits := 8 * p.d.size
		x, err := strconv.ParseFloat(string(text), bits)
		if err != nil {
			return p.fail(shorten(string(text)) + " is too large for " + p.d.name)
		}
		p.v.floats = append(p.v.floats, x)
	case kindBytes:
		var err error
		if p.v.data, err = p.text(p.v.data); err != nil {
			return err
		}
		if len(p.v.data) > math.MaxInt32 {
			return p.fail("too much text")
		}
		p.v.offsets = append(p.v.offsets, int32(len(p.v.data)))
	default:
		x, err := p.int()
		if err != nil {
			return err
		}
		if x < p.d.min || x > p.d.max {
			return p.fail(strconv.FormatInt(x, 10) + " is no " + p.d.name)
		}
		p.v.ints = append(p.v.ints, x)
	}
	return nil
}
