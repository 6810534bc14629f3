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
	gemm func(g *Gemm, c, a, b []float32, m, n, k int)
	a    func(a []float32, i, l, m, k int) float32
	b    func(b []float32, l, j, n, k int) float32
}

var products = []product{
	{"NN", (*Gemm).NN,
		func(a []float32, i, l, m, k int) float32 { return a[i*k+l] },
		func(b []float32, l, j, n, k int) float32 { return b[l*n+j] }},
	{"TN", (*Gemm).TN,
		func(a []float32, i, l, m, k int) float32 { return a[l*m+i] },
		func(b []float32, l, j, n, k int) float32 { return b[l*n+j] }},
	{"NT", (*Gemm).NT,
		func(a []float32, i, l, m, k int) float32 { return a[i*k+l] },
		func(b []float32, l, j, n, k int) float32 { return b[j*k+l] }},
}

// checkProduct compares with float64, and bit for bit with the order that the comment states.
func checkProduct(t interface{ Fatalf(string, ...any) }, p product, g *Gemm, r *rand.Rand, m, n, k int) (intact func(*testing.T)) {
	a, _ := guarded(r, m*k)
	b, _ := guarded(r, k*n)
	c, intact := guarded(r, m*n)
	was := append([]float32(nil), c...)
	p.gemm(g, c, a, b, m, n, k)
	for i := range m {
		for j := range n {
			want, mag, ordered := float64(was[i*n+j]), math.Abs(float64(was[i*n+j])), was[i*n+j]
			for l := range k {
				x, y := p.a(a, i, l, m, k), p.b(b, l, j, n, k)
				want += float64(x) * float64(y)
				mag += math.Abs(float64(x) * float64(y))
				if g.level == Generic {
					ordered += float32(x * y)
				} else {
					ordered = fma(x, y, ordered)
				}
			}
			got := c[i*n+j]
			if !(math.Abs(float64(got)-want) <= 2e-6*mag) {
				t.Fatalf("%v %s %d×%d×%d: element %d,%d is %v, want %v", g.level, p.name, m, n, k, i, j, got, want)
			}
			if dot := g.level != Generic && p.name == "NN" && n == 1; got != ordered && !dot {
				t.Fatalf("%v %s %d×%d×%d: element %d,%d is %v, in order %v", g.level, p.name, m, n, k, i, j, got, ordered)
			}
		}
	}
	return intact
}

// fma returns x·y + z rounded once: the product is exact in float64, and a sum rounded to odd
// there rounds to float32 as the exact one does (Boldo, Melquiond, 2008).
func fma(x, y, z float32) float32 {
	p := float64(x) * float64(y)
	s := p + float64(z)
	t := s - p
	err := (p - (s - t)) + (float64(z) - t)
	if b := math.Float64bits(s); err != 0 && b&1 == 0 {
		if err > 0 == (s > 0) {
			s = math.Float64frombits(b + 1)
		} else {
			s = math.Float64frombits(b - 1)
		}
	}
	return float32(s)
}

func TestGemmEveryLength(t *testing.T) {
	for _, level := range Levels() {
		r := rand.New(rand.NewPCG(2, 2))
		g := NewGemm(level)
		for _, p := range products {
			for n := range 68 {
				for _, s := range [][3]int{{n, 3, 5}, {3, n, 5}, {3, 5, n}, {1, n, 1}, {n, 1, n}, {1, 1, n}, {n, 40, 9}, {30, n, 9}, {30, 40, n}} {
					checkProduct(t, p, g, r, s[0], s[1], s[2])(t)
				}
			}
			// Beyond one block, wide tiles, and a last panel of each kind.
			for _, s := range [][3]int{{25, 33, 801}, {25, 601, 9}, {2, 300, 11}, {1, 141, 3}, {50, 17, 390}, {13, 530, 2}} {
				checkProduct(t, p, g, r, s[0], s[1], s[2])(t)
			}
		}
	}
}

func TestGemmProperty(t *testing.T) {
	for _, p := range products {
		t.Run(p.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				size := rapid.IntRange(0, 60)
				m, n, k := size.Draw(rt, "m"), size.Draw(rt, "n"), size.Draw(rt, "k")
				g := NewGemm(rapid.SampledFrom(Levels()).Draw(rt, "level"))
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				checkProduct(rt, p, g, r, m, n, k)
			})
		})
	}
}

// A column's element is Dot's, whatever the rows beside it.
func TestGemmOfOneColumnIsDot(t *testing.T) {
	for _, level := range Levels()[1:] {
		r := rand.New(rand.NewPCG(4, 4))
		g := NewGemm(level)
		for k := 1; k < 150; k++ {
			a, _ := guarded(r, 5*k)
			b, _ := guarded(r, k)
			c := make([]float32, 5)
			g.NN(c, a, b, 5, 1, k)
			for i, v := range c {
				if want := level.Dot(a[i*k:(i+1)*k], b); v != want {
					t.Fatalf("%v, length %d: %v, Dot says %v", level, k, v, want)
				}
			}
		}
	}
}

// A row of C has the same bits whatever the rows beside it, and the same product the same
// bits whoever computed before with the same memory.
func TestGemmOfPartsOfABatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.SampledFrom(Levels()).Draw(t, "level")
		size := rapid.IntRange(1, 70)
		m, n, k := size.Draw(t, "m"), size.Draw(t, "n"), size.Draw(t, "k")
		lo := rapid.IntRange(0, m-1).Draw(t, "lo")
		hi := rapid.IntRange(lo+1, m).Draw(t, "hi")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		a, _ := guarded(r, m*k)
		b, _ := guarded(r, k*n)
		c, _ := guarded(r, m*n)
		part := append([]float32(nil), c[lo*n:hi*n]...)
		g := NewGemm(level)
		for _, gemm := range []func(g *Gemm, c, a, b []float32, m, n, k int){(*Gemm).NN, (*Gemm).NT} {
			gemm(g, c, a, b, m, n, k)
			gemm(g, part, a[lo*k:hi*k], b, hi-lo, n, k)
			for i, v := range part {
				if math.Float32bits(v) != math.Float32bits(c[lo*n+i]) {
					t.Fatalf("%v: row %d alone has %v, in the batch %v", level, lo+i/n, v, c[lo*n+i])
				}
			}
		}
	})
}

// The shapes of a DeepFM over 26 fields of 16 and 13 numbers, layers 256 and 128, and of a
// DLRM's bottom layers.
func BenchmarkGemm(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 3))
	for _, level := range Levels() {
		g := NewGemm(level)
		for _, s := range [][3]int{{512, 256, 429}, {2048, 256, 429}, {2048, 128, 256}, {512, 64, 160}, {2048, 512, 13}, {2048, 1, 128}, {1, 256, 429}} {
			for _, p := range products {
				m, n, k := s[0], s[1], s[2] // of the forward product
				switch p.name {
				case "TN":
					m, k = k, m
				case "NT":
					n, k = k, n
				}
				b.Run(fmt.Sprintf("level=%v/op=%s/shape=%dx%dx%d", level, p.name, m, n, k), func(b *testing.B) {
					x, _ := guarded(r, m*k)
					y, _ := guarded(r, k*n)
					c, _ := guarded(r, m*n)
					for b.Loop() {
						p.gemm(g, c, x, y, m, n, k)
					}
					b.ReportMetric(2*float64(m*n*k)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
				})
			}
		}
	}
}
