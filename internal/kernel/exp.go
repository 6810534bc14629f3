package kernel

import "math"

const (
	log2e = 1 / math.Ln2
	ln2Hi = 6.93147180369123816490e-01 // the upper 32 bits of ln 2, so that k·ln2Hi is exact
	ln2Lo = 1.90821492927058770002e-10
)

// Exp returns eˣ within a few units in the last place: 0 below about -745, +Inf above about
// 709.78, NaN for NaN. Its bits are the same on every processor.
func Exp(x float64) float64 {
	switch {
	case x != x:
		return x
	case x > 709.782712893384:
		return math.Inf(1)
	case x < -745.2:
		return 0
	}
	// x = k·ln 2 + r with |r| ≤ ½ ln 2, and eʳ by its series up to r¹³ in Estrin's order.
	k := math.Floor(float64(x*log2e) + 0.5)
	// (The conversion of x itself matters where a caller's product is inlined.)
	r := (float64(x) - float64(k*ln2Hi)) - float64(k*ln2Lo)
	r2 := float64(r * r)
	r4 := float64(r2 * r2)
	r8 := float64(r4 * r4)
	a := 1 + r
	b := 1./2 + float64(r*(1./6))
	c := 1./24 + float64(r*(1./120))
	d := 1./720 + float64(r*(1./5040))
	e := 1./40320 + float64(r*(1./362880))
	f := 1./3628800 + float64(r*(1./39916800))
	g := 1./479001600 + float64(r*(1./6227020800))
	ab := a + float64(r2*b)
	cd := c + float64(r2*d)
	ef := e + float64(r2*f)
	lo := ab + float64(r4*cd)
	hi := ef + float64(r4*g)
	y := lo + float64(r8*hi)
	n := int(k)
	if n < -1021 || n > 1023 { // in two steps where 2ᵏ itself has no normal float64
		h := n / 2
		return y * pow2(h) * pow2(n-h)
	}
	return y * pow2(n)
}

// pow2 returns 2ⁿ for -1022 ≤ n ≤ 1023.
func pow2(n int) float64 { return math.Float64frombits(uint64(n+1023) << 52) }

// Log returns ln x within a few units in the last place: -Inf for 0, NaN for x < 0 and NaN.
// Its bits are the same on every processor.
func Log(x float64) float64 {
	switch {
	case x != x || math.IsInf(x, 1):
		return x
	case x < 0:
		return math.NaN()
	case x == 0:
		return math.Inf(-1)
	}
	f, k := math.Frexp(x) // x = f·2ᵏ, ½ ≤ f < 1
	if f < math.Sqrt2/2 {
		f *= 2
		k--
	}
	m := atanh2((f - 1) / (f + 1))
	return float64(float64(k)*ln2Hi) + (m + float64(float64(k)*ln2Lo))
}

// Log1p returns ln(1+x) for 0 ≤ x ≤ 1 within a few units in the last place, exact in the
// limit of small x; NaN for NaN. Its bits are the same on every processor.
func Log1p(x float64) float64 {
	if x > 0.42 { // where 1+x ≥ √2 is reduced further; the sum's rounding is harmless here
		return Log(1 + x)
	}
	return atanh2(x / (2 + x))
}

// atanh2 returns 2·artanh(s) = 2(s + s³/3 + s⁵/5 + …) for |s| ≤ 0.1736, up to s²¹.
func atanh2(s float64) float64 {
	z := float64(s * s)
	p := 1. / 21
	p = 1./19 + float64(z*p)
	p = 1./17 + float64(z*p)
	p = 1./15 + float64(z*p)
	p = 1./13 + float64(z*p)
	p = 1./11 + float64(z*p)
	p = 1./9 + float64(z*p)
	p = 1./7 + float64(z*p)
	p = 1./5 + float64(z*p)
	p = 1./3 + float64(z*p)
	return 2*s + float64(float64(2*s)*float64(z*p))
}

// CosPi returns cos(π·t) for 0 ≤ t ≤ 1. Its bits are the same on every processor.
func CosPi(t float64) float64 {
	u := math.Pi * (0.5 - t) // cos(πt) = sin(u), |u| ≤ π/2
	z := float64(u * u)
	// Taylor's series of sin(u)/u up to u²⁰, innermost term first, without the divisions that
	// would be most of the time of drawing a normal number.
	p := 1. / 51090942171709440000
	p = float64(z*p) - 1./121645100408832000
	p = float64(z*p) + 1./355687428096000
	p = float64(z*p) - 1./1307674368000
	p = float64(z*p) + 1./6227020800
	p = float64(z*p) - 1./39916800
	p = float64(z*p) + 1./362880
	p = float64(z*p) - 1./5040
	p = float64(z*p) + 1./120
	p = float64(z*p) - 1./6
	p = float64(z*p) + 1
	return float64(u * p)
}
