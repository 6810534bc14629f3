package kernel

import (
	"fmt"
	"math"
)

// Precision is that of the factors of products; sums are float32 at either.
type Precision uint8

// Precisions.
const (
	Float32 Precision = iota
	// BFloat16 rounds both factors to bfloat16, the upper half of a float32, ties to even, denormal
	// values to 0. The index l of a sum runs 1, 0, 3, 2, 5, 4 …, and a shared dimension of odd length
	// is followed by a product of zeros. Products of bfloat16 are exact in float32, so fused or not
	// makes no difference, and levels differ only where a sum is denormal: AVX512 alone takes that
	// for 0. It uses VDPBF16PS where the processor has it, with the same bits as where not.
	BFloat16
)

// Panels is the right operand B [k × n] of products, laid out once for many of them. It belongs
// to whoever fills it; products only read it, and may do so at the same time. The zero value is
// ready for Reset.
type Panels struct {
	level     Level
	precision Precision
	n, k      int
	units     int  // rows of v: k, or at BFloat16 half as many pairs or k rounded up to even
	paired    bool // v holds pairs of bfloat16
	turned    bool // at Generic, v is Bᵀ [n × units]
	v         []float32
	row       []float32 // scratch of PackT
}

// Reset makes p the panels of a B of k × n at a level and a precision, its contents unspecified.
func (p *Panels) Reset(level Level, precision Precision, n, k int) {
	p.reset(level, precision, n, k, level == AVX512 && precision == BFloat16 && hasPairs())
}

func (p *Panels) reset(level Level, precision Precision, n, k int, paired bool) {
	p.level, p.precision, p.n, p.k, p.units, p.paired, p.turned = level, precision, n, k, k, paired, false
	if precision == BFloat16 {
		p.units = (k + 1) &^ 1
		if paired {
			p.units /= 2
		}
	}
	p.v = grow(p.v, level.padded(n)*p.units)
}

// padded is n rounded up to whole panels.
func (l Level) padded(n int) int {
	if l == Generic {
		return n
	}
	w := l.width()
	return (n + w - 1) / w * w
}

// width is the number of columns of a panel.
func (l Level) width() int {
	if l == AVX512 {
		return 32
	}
	return 16
}

func (p *Panels) String() string {
	return fmt.Sprintf("%d×%d at %v, precision %d", p.k, p.n, p.level, p.precision)
}

// Pack fills p with b [k × n].
func (p *Panels) Pack(b []float32) {
	if len(b) != p.k*p.n {
		panic("kernel: Pack: the slice is not " + p.String())
	}
	p.turned = false
	p.PutRows(0, b)
}

// PutRows fills rows at… of B from consecutive rows of n values. At BFloat16, at is even, and so
// is the number of rows unless they are the last. Different rows may be put at the same time.
// Panels that PackT filled need a Reset first.
func (p *Panels) PutRows(at int, rows []float32) {
	if p.n == 0 || p.k == 0 {
		return
	}
	count := len(rows) / p.n
	if len(rows) != count*p.n || at < 0 || at+count > p.k {
		panic("kernel: PutRows: rows beyond " + p.String())
	}
	if p.precision == BFloat16 && (at&1 != 0 || count&1 != 0 && at+count != p.k) {
		panic("kernel: PutRows: half of a pair of rows of " + p.String())
	}
	if count == 0 {
		return
	}
	if p.level != Generic {
		p.putPanels(at, rows, count)
		return
	}
	if p.precision == Float32 {
		copy(p.v[at*p.n:], rows)
		return
	}
	swapRows(p.v[at*p.n:], rows, count, p.n, p.n)
}

// PackT fills p with the transpose of b [n × k].
func (p *Panels) PackT(b []float32) {
	if len(b) != p.k*p.n {
		panic("kernel: PackT: the slice is not the transpose of " + p.String())
	}
	if p.n == 0 || p.k == 0 {
		return
	}
	if p.level != Generic {
		p.turnPanels(b)
		return
	}
	p.turned = true
	if p.precision == Float32 {
		copy(p.v, b)
		return
	}
	for j := range p.n {
		swapPairs(p.v[j*p.units:(j+1)*p.units], b[j*p.k:(j+1)*p.k])
	}
}

// swapRows writes rows rounded to bfloat16, each two of them in the order of sums; a last single
// one after zeros. Rows of dst are stride apart.
func swapRows(dst, rows []float32, count, n, stride int) {
	for l := range (count + 1) &^ 1 {
		d := dst[(l^1)*stride:][:n]
		if l >= count {
			clear(d)
			continue
		}
		for j, v := range rows[l*n : (l+1)*n] {
			d[j] = toBFloat16(v)
		}
	}
}

// swapPairs writes src rounded to bfloat16 in the order of sums; dst has an even length, and ends
// with src's last value and a zero before it where that has an odd one.
func swapPairs(dst, src []float32) {
	for l := range dst {
		v := float32(0)
		if l < len(src) {
			v = toBFloat16(src[l])
		}
		dst[l^1] = v
	}
}

// toBFloat16 rounds to a value of bfloat16, ties to even. Denormal values become 0 of their sign,
// NaN stays NaN.
func toBFloat16(x float32) float32 {
	b := math.Float32bits(x)
	switch {
	case b&0x7f800000 == 0:
		b &= 0x80000000
	case x != x:
		b = b&0xffff0000 | 0x400000
	default:
		b = (b + 0x7fff + b>>16&1) & 0xffff0000
	}
	return math.Float32frombits(b)
}

func (g *Gemm) checkPanels(op string, b *Panels, m, c, a int) {
	if g.level != b.level {
		panic("kernel: " + op + ": panels of another level")
	}
	if c != m*b.n || a != m*b.k {
		panic("kernel: " + op + ": slices do not fit panels of " + b.String())
	}
}

// Dense is a layer: C = bias + A·B, and with relu max(0, that), NaN for NaN. C is [m × n], A
// [m × k], bias [n] or nil for zeros. Elements are summed as those of NN, beginning with the bias.
func (g *Gemm) Dense(c, a []float32, b *Panels, bias []float32, m int, relu bool) {
	g.checkPanels("Dense", b, m, len(c), len(a))
	if bias != nil && len(bias) != b.n {
		panic("kernel: Dense: the bias does not fit panels of " + b.String())
	}
	g.product(c, a, b, m, bias, relu, nil)
}

// Back is the gradient by a layer's input: C = A·B, and with y, the output of a rectified layer
// before, 0 where y ≤ 0. C is [m × n], A [m × k], y [m × n] or nil. Elements are summed as those
// of NN, beginning with 0.
func (g *Gemm) Back(c, a []float32, b *Panels, m int, y []float32) {
	g.checkPanels("Back", b, m, len(c), len(a))
	if y != nil && len(y) != len(c) {
		panic("kernel: Back: the outputs do not fit panels of " + b.String())
	}
	g.product(c, a, b, m, nil, false, y)
}

func (g *Gemm) product(c, a []float32, b *Panels, m int, bias []float32, relu bool, y []float32) {
	if m == 0 || b.n == 0 {
		return
	}
	if g.level != Generic {
		g.multiplyPanels(c, a, b, m, bias, relu, y)
		return
	}
	for i := range m {
		g.level.start(c[i*b.n:(i+1)*b.n], bias)
	}
	if b.precision == BFloat16 {
		g.a = grow(g.a, m*b.units)
		for i := range m {
			swapPairs(g.a[i*b.units:(i+1)*b.units], a[i*b.k:(i+1)*b.k])
		}
		a = g.a
	}
	switch {
	case b.units == 0:
	case b.turned:
		gemmNT(c, a, b.v, m, b.n, b.units)
	default:
		gemmNN(c, a, b.v, m, b.n, b.units)
	}
	g.level.finish(c, relu, y)
}

// start writes what a row of sums begins with.
func (l Level) start(c, bias []float32) {
	if bias == nil {
		clear(c)
	} else {
		copy(c, bias)
	}
}

// finish applies what follows on sums.
func (l Level) finish(c []float32, relu bool, y []float32) {
	if relu {
		l.ReLU(c, c)
	}
	if y != nil {
		l.ReLUGrad(c, y)
	}
}

// WeightGrad adds rows from … to-1 of a product: C[i,j] += Σₗ A[l,i]·B[l,j] for from ≤ i < to, with
// C [m × n] and A [k × m]. Different rows may be computed at the same time, by a Gemm each.
// Elements are summed as those of TN.
func (g *Gemm) WeightGrad(c, a []float32, b *Panels, m, from, to int) {
	if g.level != b.level {
		panic("kernel: WeightGrad: panels of another level")
	}
	if len(c) != m*b.n || len(a) != b.k*m || from < 0 || to > m {
		panic("kernel: WeightGrad: slices do not fit panels of " + b.String())
	}
	if from >= to || b.n == 0 || b.k == 0 {
		return
	}
	if g.level != Generic {
		g.transposedPanels(c, a, b, m, from, to)
		return
	}
	rows := to - from
	g.a = grow(g.a, b.units*rows)
	for l := range b.units {
		at := l
		if b.precision == BFloat16 {
			at ^= 1
		}
		d := g.a[at*rows : (at+1)*rows]
		if l >= b.k {
			clear(d)
			continue
		}
		copy(d, a[l*m+from:l*m+to])
		if b.precision == BFloat16 {
			for i, v := range d {
				d[i] = toBFloat16(v)
			}
		}
	}
	gemmTN(c[from*b.n:to*b.n], g.a, b.v, rows, b.n, b.units)
}
