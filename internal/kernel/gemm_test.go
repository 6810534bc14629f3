package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// product is one of the three, with how it addresses A and B.
type product struct {
	name string
	gemm func(c, a, b []float32, m, n, k int)
	a    func(a []float32, i, l, m, k int) float32
	b    func(b []float32, l, j, n, k int) float32
}

var products = []product{
	{"GemmNN", GemmNN,
		func(a []float32, i, l, m, k int) float32 { return a[i*k+l] },
		func(b []float32, l, j, n, k int) float32 { return b[l*n+j] }},
	{"GemmTN", GemmTN,
		func(a []float32, i, l, m, k int) float32 { return a[l*m+i] },
		func(b []float32, l, j, n, k int) float32 { return b[l*n+j] }},
	{"GemmNT", GemmNT,
		func(a []float32, i, l, m, k int) float32 { return a[i*k+l] },
		func(b []float32, l, j, n, k int) float32 { return b[j*k+l] }},
}

// checkProduct compares with float64, and bit for bit with the order that the comment states.
func checkProduct(t interface{ Fatalf(string, ...any) }, p product, r *rand.Rand, m, n, k int) (intact func(*testing.T)) {
	a, _ := guarded(r, m*k)
	b, _ := guarded(r, k*n)
	c, intact := guarded(r, m*n)
	was := append([]float32(nil), c...)
	p.gemm(c, a, b, m, n, k)
	for i := range m {
		for j := range n {
			want, mag, ordered := float64(was[i*n+j]), math.Abs(float64(was[i*n+j])), was[i*n+j]
			for l := range k {
				x, y := p.a(a, i, l, m, k), p.b(b, l, j, n, k)
				want += float64(x) * float64(y)
				mag += math.Abs(float64(x) * float64(y))
				ordered += float32(x * y)
			}
			got := c[i*n+j]
			if !(math.Abs(float64(got)-want) <= 2e-6*mag) {
				t.Fatalf("%s %d×%d×%d: element %d,%d is %v, want %v", p.name, m, n, k, i, j, got, want)
			}
			if got != ordered {
				t.Fatalf("%s %d×%d×%d: element %d,%d is %v, in order %v", p.name, m, n, k, i, j, got, ordered)
			}
		}
	}
	return intact
}

func TestGemmEveryLength(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, p := range products {
		for n := range 68 {
			for _, s := range [][3]int{{n, 3, 5}, {3, n, 5}, {3, 5, n}, {1, n, 1}, {n, 1, n}, {1, 1, n}} {
				checkProduct(t, p, r, s[0], s[1], s[2])(t)
			}
		}
	}
}

func TestGemmProperty(t *testing.T) {
	for _, p := range products {
		t.Run(p.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				size := rapid.IntRange(0, 40)
				m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), size.Draw(rt, "k")
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				checkProduct(rt, p, r, m, n, k)
			})
		})
	}
}

func BenchmarkGemm(b *testing.B) {
	const m, n, k = 512, 64, 160
	r := rand.New(rand.NewPCG(3, 3))
	for _, p := range products {
		b.Run(fmt.Sprintf("%s/%dx%dx%d", p.name, m, n, k), func(b *testing.B) {
			x, _ := guarded(r, m*k)
			y, _ := guarded(r, k*n)
			c, _ := guarded(r, m*n)
			for b.Loop() {
				p.gemm(c, x, y, m, n, k)
			}
			b.ReportMetric(2*m*n*k*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
		})
	}
}
