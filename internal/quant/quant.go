// Package quant keeps weights in fewer bits than a float32 has. A Format rounds weights to
// values that it can represent, Round at random and Nearest to the nearest, and packs such values
// without loss: what Unpack returns has the bits of what Pack was given, so whoever sees only
// unpacked rows (snapshots, digests, handovers) need not know of it.
package quant

import (
	"math"

	"github.com/tidemill/tidemill"
)

// Format is how weights are kept. The zero value keeps them as they are.
type Format uint8

// Formats.
const (
	Float32  Format = iota
	BFloat16        // 8 bits of significand, the range of a float32
	Float16         // 11 bits of significand, up to 65504
	Int8            // -127 to 127 times a power of two that the weights of a row share
)

var names = [...]string{tidemill.ValuesFloat32, tidemill.ValuesBFloat16, tidemill.ValuesFloat16, tidemill.ValuesInt8}

// Parse returns the format with a name in a spec; "" is Float32. ok is false for another name.
func Parse(name string) (f Format, ok bool) {
	if name == "" {
		return Float32, true
	}
	for f, n := range names {
		if n == name {
			return Format(f), true
		}
	}
	return Float32, false
}

// Names lists the names of all formats.
func Names() []string { return names[:] }

// Words returns how many words of 32 bits n packed weights take.
func (f Format) Words(n int) int {
	switch f {
	case BFloat16, Float16:
		return (n + 1) / 2
	case Int8:
		return 1 + (n+3)/4
	}
	return n
}

// Round rounds each weight to one of the two values that enclose it, to the nearer one with the
// greater probability, such that its expectation is the weight: small steps are not lost, which
// rounding to the nearest would do to them for good. The bits are a function of the arguments.
// What is too large becomes the largest value; NaN stays NaN.
func (f Format) Round(w []float32, key uint64) {
	if f == Float32 {
		return
	}
	scale := int8Scale(f, w)
	for i := 0; len(w) > 0; i += 4 {
		u := tidemill.Mix(key + uint64(i)*0x9e3779b97f4a7c15)
		some := w[:min(4, len(w))]
		w = w[len(some):]
		switch f {
		case BFloat16:
			for j, x := range some {
				some[j] = bfloat(x, uint32(u)&0xffff)
				u >>= 16
			}
		case Float16:
			for j, x := range some {
				some[j] = float16(x, uint32(u)&0xffff)
				u >>= 16
			}
		case Int8:
			for j, x := range some {
				some[j] = multiple(x, scale, 127, uint32(u)&0xffff)
				u >>= 16
			}
		}
	}
}

// Nearest rounds each weight to the nearest value, halfway ones away from zero. Weights that
// Round or Nearest has made stay what they are.
func (f Format) Nearest(w []float32) {
	scale := int8Scale(f, w)
	for i, x := range w {
		switch f {
		case BFloat16:
			w[i] = bfloat(x, 1<<15)
		case Float16:
			w[i] = float16(x, 1<<15)
		case Int8:
			w[i] = multiple(x, scale, 127, 1<<15)
		}
	}
}

// The functions below round x towards zero after adding u/2^16 of the distance between two values.

const (
	sign             = 1 << 31
	infinite         = 0x7f800000
	largestBFloat16  = 0x7f7fffff // as the bits of a float32, what rounding discards all ones
	largestFloat16   = 0x477fffff
	smallestNormal16 = 0x38800000
)

func bfloat(x float32, u uint32) float32 {
	b := math.Float32bits(x)
	m := b &^ sign
	if m > infinite {
		return x
	}
	return math.Float32frombits(b&sign | min(m+u, largestBFloat16)&^0xffff)
}

func float16(x float32, u uint32) float32 {
	b := math.Float32bits(x)
	m := b &^ sign
	switch {
	case m > infinite:
		return x
	case m >= smallestNormal16:
		return math.Float32frombits(b&sign | min(m+u>>3, largestFloat16)&^0x1fff)
	}
	return multiple(x, 0x1p-24, 1<<10, u)
}

// multiple rounds to a multiple of step, a power of two, and at most most times it. In an Int8 row
// step is 0 if all weights are, and NaN if one is, and so are all of them then. Zero has no sign:
// an integer has none to keep.
func multiple(x, step float32, most float64, u uint32) float32 {
	if step == 0 || step != step {
		return step
	}
	n := max(-most, min(most, float64(x)/float64(step)))
	return float32(int32(n+math.Copysign(float64(u)*0x1p-16, n))) * step
}

// int8Scale returns the smallest power of two of which every weight of an Int8 row is at most 127
// times, 0 when all are zero, and NaN when one of them is; weights beyond 127 times the largest scale
// become that.
func int8Scale(f Format, w []float32) float32 {
	if f != Int8 {
		return 0
	}
	var most uint32
	for _, x := range w {
		most = max(most, math.Float32bits(x)&^sign)
	}
	switch {
	case most == 0:
		return 0
	case most > infinite:
		return float32(math.NaN())
	}
	// 127 is 1.984375 times 2^6.
	e := int(most>>23) - 6
	if most&0x7fffff > 0x7e0000 {
		e++
	}
	return math.Float32frombits(uint32(min(248, max(e, 1))) << 23)
}

// Pack writes the packed weights to dst [Words(len(w))]. Round or Nearest has made the weights.
func (f Format) Pack(dst, w []float32) {
	switch f {
	case Float32:
		copy(dst, w)
	case BFloat16:
		for len(w) >= 2 && len(dst) > 0 {
			dst[0] = math.Float32frombits(math.Float32bits(w[0])>>16 | math.Float32bits(w[1])&0xffff0000)
			w, dst = w[2:], dst[1:]
		}
		if len(w) > 0 {
			dst[0] = math.Float32frombits(math.Float32bits(w[0]) >> 16)
		}
	case Float16:
		for i := range dst {
			v := half(w[2*i])
			if 2*i+1 < len(w) {
				v |= half(w[2*i+1]) << 16
			}
			dst[i] = math.Float32frombits(v)
		}
	case Int8:
		scale := int8Scale(f, w)
		dst[0] = scale
		var by float64
		if scale == scale && scale != 0 {
			by = 1 / float64(scale)
		}
		for i := range dst[1:] {
			var v uint32
			for j := range min(4, len(w)-4*i) {
				if by != 0 {
					v |= uint32(uint8(int8(float64(w[4*i+j])*by))) << (8 * j)
				}
			}
			dst[1+i] = math.Float32frombits(v)
		}
	}
}

// Unpack writes the weights that Pack packed into src to w.
func (f Format) Unpack(w, src []float32) {
	switch f {
	case Float32:
		copy(w, src)
	case BFloat16:
		for len(w) >= 2 && len(src) > 0 {
			v := math.Float32bits(src[0])
			w[0], w[1] = math.Float32frombits(v<<16), math.Float32frombits(v&0xffff0000)
			w, src = w[2:], src[1:]
		}
		if len(w) > 0 {
			w[0] = math.Float32frombits(math.Float32bits(src[0]) << 16)
		}
	case Float16:
		for i := range w {
			w[i] = fromHalf(math.Float32bits(src[i/2]) >> (i % 2 * 16) & 0xffff)
		}
	case Int8:
		scale := src[0]
		for i := range w {
			if w[i] = scale; scale == scale {
				w[i] = scale * float32(int8(math.Float32bits(src[1+i/4])>>(i%4*8)))
			}
		}
	}
}

// half returns the bits of x, which has a value of 16 bits or is NaN.
func half(x float32) uint32 {
	b := math.Float32bits(x)
	s, m := b>>16&0x8000, b&^sign
	switch {
	case m > infinite:
		return s | 0x7e00
	case m >= smallestNormal16:
		return s | (m-0x38000000)>>13
	}
	return s | uint32(math.Abs(float64(x))*0x1p24)
}

func fromHalf(h uint32) float32 {
	s, m := h&0x8000<<16, h&0x7fff
	switch {
	case m >= 0x7c00:
		return math.Float32frombits(s | 0x7fc00000)
	case m >= 0x400:
		return math.Float32frombits(s | m<<13 + 0x38000000)
	}
	return math.Float32frombits(s | math.Float32bits(float32(m)*0x1p-24))
}
