package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// form is how panels compute: a level, a precision, and whether by bfloat16 instructions.
type form struct {
	level     Level
	precision Precision
	paired    bool
}

func (f form) String() string { return fmt.Sprintf("%v/%d/%v", f.level, f.precision, f.paired) }

func (f form) panels(n, k int) *Panels {
	p := new(Panels)
	p.reset(f.level, f.precision, n, k, f.paired)
	return p
}

// forms lists those of this machine and build.
func forms() []form {
	var all []form
	for _, l := range Levels() {
		all = append(all, form{l, Float32, false}, form{l, BFloat16, false})
	}
	if Best() == AVX512 && hasPairs() {
		all = append(all, form{AVX512, BFloat16, true})
	}
	return all
}

// sum is one element in the order that the comments state, beginning with s.
func (f form) sum(s float32, k int, a, b func(l int) float32) float32 {
	n := k
	if f.precision == BFloat16 {
		n = (k + 1) &^ 1
	}
	for u := range n {
		l, x, y := u, float32(0), float32(0)
		if f.precision == BFloat16 {
			l ^= 1
		}
		if l < k {
			x, y = a(l), b(l)
		}
		if f.precision == BFloat16 {
			x, y = toBFloat16(x), toBFloat16(y)
		}
		if f.level == Generic {
			s += float32(x * y)
		} else {
			s = fma(x, y, s)
		}
	}
	return s
}

// checkPanels compares the three products bit for bit with the orders that are stated.
func checkPanels(t interface{ Fatalf(string, ...any) }, f form, r *rand.Rand, m, n, k int) []func(*testing.T) {
	g := NewGemm(f.level)
	a, _ := guarded(r, m*k)
	b, _ := guarded(r, k*n)
	bias, _ := guarded(r, n)
	y, _ := guarded(r, m*n)
	c, intact := guarded(r, m*n)
	bt := make([]float32, n*k)
	for l := range k {
		for j := range n {
			bt[j*k+l] = b[l*n+j]
		}
	}
	p := f.panels(n, k)
	verify := func(what string, want func(i, j int) float32) {
		for i := range m {
			for j := range n {
				if w := want(i, j); c[i*n+j] != w {
					t.Fatalf("%v %s %d×%d×%d: element %d,%d is %v, in order %v", f, what, m, n, k, i, j, c[i*n+j], w)
				}
			}
		}
	}
	element := func(s float32, i, j int) float32 {
		return f.sum(s, k, func(l int) float32 { return a[i*k+l] }, func(l int) float32 { return b[l*n+j] })
	}
	p.PackT(bt)
	g.Dense(c, a, p, bias, m, false)
	verify("Dense of PackT", func(i, j int) float32 { return element(bias[j], i, j) })
	p.Pack(b)
	g.Dense(c, a, p, nil, m, true)
	verify("Dense with ReLU", func(i, j int) float32 { return max(0, element(0, i, j)) })
	p.reset(f.level, f.precision, n, k, f.paired)
	for at := 0; at < k; at += 6 { // in pieces
		p.PutRows(at, b[at*n:min(at+6, k)*n])
	}
	g.Back(c, a, p, m, y)
	verify("Back", func(i, j int) float32 {
		if y[i*n+j] <= 0 {
			return 0
		}
		return element(0, i, j)
	})
	at := make([]float32, k*m)
	for l := range k {
		for i := range m {
			at[l*m+i] = a[i*k+l]
		}
	}
	was := append([]float32(nil), c...)
	cut := m / 3
	g.WeightGrad(c, at, p, m, cut, m)
	g.WeightGrad(c, at, p, m, 0, cut)
	verify("WeightGrad", func(i, j int) float32 { return element(was[i*n+j], i, j) })
	return []func(*testing.T){intact}
}

func TestPanelsEveryLength(t *testing.T) {
	for _, f := range forms() {
		t.Run(f.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(2, 2))
			for n := range 68 {
				for _, s := range [][3]int{{n, 3, 5}, {3, n, 4}, {3, 5, n}, {13, n, 9}, {n, 40, 7}, {26, 33, n}} {
					for _, intact := range checkPanels(t, f, r, s[0], s[1], s[2]) {
						intact(t)
					}
				}
			}
			for _, s := range [][3]int{{25, 33, 1100}, {13, 70, 1025}, {30, 257, 66}} {
				checkPanels(t, f, r, s[0], s[1], s[2])
			}
		})
	}
}

func TestPanelsProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(0, 50)
		f := rapid.SampledFrom(forms()).Draw(rt, "form")
		m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), size.Draw(rt, "k")
		checkPanels(rt, f, rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), m, n, k)
	})
}

// Values at the ends of the range, and what is no number, have the same bits with and without the
// instructions: a job's bits do not depend on whether a processor has them.
func TestPairsAreEmulated(t *testing.T) {
	if Best() != AVX512 || !hasPairs() {
		t.Skip("this processor has no bfloat16 instructions")
	}
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 0x1p-126, 0x1.8p-127, -0x1p-140, 0x1p-149, 0x1p-70, -0x1p-64, 0x1p-63,
		math.MaxFloat32, -math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 0x1.01p0, 0x1.03p0, 0x1.0101p0, 0x1.fefffep0, 0x1.ffp127}
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SampledFrom(special)
		draw := func(n int, what string) []float32 { return rapid.SliceOfN(value, n, n).Draw(t, what) }
		const m, n = 3, 17
		k := rapid.IntRange(1, 7).Draw(t, "k")
		a, b, c := draw(m*k, "a"), draw(k*n, "b"), draw(m*n, "c")
		var got [2][]float32
		for i, paired := range []bool{false, true} {
			p, g := form{AVX512, BFloat16, paired}.panels(n, k), NewGemm(AVX512)
			p.Pack(b)
			got[i] = append([]float32(nil), c...)
			at := make([]float32, k*m)
			for l := range k {
				for i := range m {
					at[l*m+i] = a[i*k+l]
				}
			}
			g.WeightGrad(got[i], at, p, m, 0, m)
			dense := make([]float32, m*n)
			g.Dense(dense, a, p, c[:n], m, false)
			got[i] = append(got[i], dense...)
		}
		for i, v := range got[0] {
			if w := got[1][i]; math.Float32bits(v) != math.Float32bits(w) && (v == v || w == w) {
				t.Fatalf("element %d is %v, with instructions %v", i, v, w)
			}
		}
	})
}

// Rounding is to the nearest value with eight significant bits, ties to even.
func TestToBFloat16(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float32().Draw(t, "x")
		got := toBFloat16(x)
		if math.Float32bits(got)&0xffff != 0 {
			t.Fatalf("%v rounds to %v, which is no bfloat16", x, got)
		}
		if math.Abs(float64(x)) < 0x1p-126 {
			if got != 0 {
				t.Fatalf("%v rounds to %v", x, got)
			}
			return
		}
		if err := math.Abs(float64(got) - float64(x)); err > math.Abs(float64(x))*0x1p-8 && !math.IsInf(float64(got), 0) {
			t.Fatalf("%v rounds to %v", x, got)
		}
	})
	for x, want := range map[float32]float32{0x1.01p0: 1, 0x1.03p0: 0x1.04p0, 0x1.010002p0: 0x1.02p0, 0x1.fffffep127: float32(math.Inf(1))} {
		if got := toBFloat16(x); got != want {
			t.Errorf("%v rounds to %v, want %v", x, got, want)
		}
	}
}
