package kernel

// Gemm multiplies matrices at one level. It keeps the memory into which it packs parts of
// them, so it is for one goroutine at a time.
//
// The three products of a dense layer y = x·W with W [in × out]: forward is NN(y, x, W), the
// gradient of W is TN(dW, x, dy), that of x is NT(dx, dy, W).
//
// All matrices are row-major and contiguous. Each element of C is summed with the index l of
// the shared dimension ascending, beginning with what C held; AVX2 and AVX512 fuse each
// multiplication with its addition, and have the same bits. Where C is one column of a
// product NN, they add Dot's sum to it instead. A row of C therefore has the same bits in a
// batch of one and of a thousand.
type Gemm struct {
	level Level
	b     []float32 // panels of B
	a     []float32 // a tile of Aᵀ
}

// NewGemm returns the products at a level, which must be one of Levels.
func NewGemm(l Level) *Gemm { return &Gemm{level: l} }

// matrix is an operand: element (i, j) is at v[i·rs + j·cs].
type matrix struct {
	v      []float32
	rs, cs int
}

func checkGemm(op string, m, n, k, c, a, b int) {
	if m < 0 || n < 0 || k < 0 || c != m*n || a != m*k || b != k*n {
		panic("kernel: " + op + ": slices do not have the lengths of their shapes")
	}
}

// plain reports whether a product is for the plain loops: at their level, or empty.
func (g *Gemm) plain(m, n, k int) bool {
	return g.level == Generic || m == 0 || n == 0 || k == 0
}

// NN adds a product: C[i,j] += Σₗ A[i,l]·B[l,j], with C [m × n], A [m × k], B [k × n].
func (g *Gemm) NN(c, a, b []float32, m, n, k int) {
	checkGemm("NN", m, n, k, len(c), len(a), len(b))
	switch {
	case g.plain(m, n, k):
		gemmNN(c, a, b, m, n, k)
	case n == 1:
		dotsAt(g.level, c, a, b)
	default:
		g.multiply(c, matrix{a, k, 1}, matrix{b, n, 1}, m, n, k)
	}
}

// TN adds a product: C[i,j] += Σₗ A[l,i]·B[l,j], with C [m × n], A [k × m], B [k × n].
func (g *Gemm) TN(c, a, b []float32, m, n, k int) {
	checkGemm("TN", m, n, k, len(c), len(a), len(b))
	switch {
	case g.plain(m, n, k):
		gemmTN(c, a, b, m, n, k)
	case n == 1:
		g.multiply(c, matrix{b, k, 1}, matrix{a, m, 1}, 1, m, k) // Cᵀ = Bᵀ·A, the same sums
	default:
		g.multiply(c, matrix{a, 1, m}, matrix{b, n, 1}, m, n, k)
	}
}

// NT adds a product: C[i,j] += Σₗ A[i,l]·B[j,l], with C [m × n], A [m × k], B [n × k].
func (g *Gemm) NT(c, a, b []float32, m, n, k int) {
	checkGemm("NT", m, n, k, len(c), len(a), len(b))
	switch {
	case g.plain(m, n, k):
		gemmNT(c, a, b, m, n, k)
	case k == 1:
		for i, v := range a {
			g.level.Axpy(c[i*n:(i+1)*n], v, b)
		}
	case m == 1:
		g.turnedRow(c, a, b, n, k)
	default:
		g.multiply(c, matrix{a, k, 1}, matrix{b, 1, k}, m, n, k)
	}
}

// gemmNN is Gemm.NN in plain Go: C[i,j] += Σₗ A[i,l]·B[l,j], with C [m × n], A [m × k], B [k × n].
func gemmNN(c, a, b []float32, m, n, k int) {
	if n == 1 { // a column vector, one dependent sum per row
		for i := range m {
			row := a[i*k : (i+1)*k]
			s := c[i]
			for l, v := range row {
				s += float32(v * b[l])
			}
			c[i] = s
		}
		return
	}
	for i := range m {
		dst := c[i*n : (i+1)*n]
		row := a[i*k : (i+1)*k]
		l := 0
		for ; l+4 <= k; l += 4 {
			axpy4(dst, row[l], row[l+1], row[l+2], row[l+3], b[l*n:(l+4)*n], n)
		}
		for ; l < k; l++ {
			Generic.Axpy(dst, row[l], b[l*n:(l+1)*n])
		}
	}
}

// gemmTN is Gemm.TN in plain Go: C[i,j] += Σₗ A[l,i]·B[l,j], with C [m × n], A [k × m], B [k × n].
func gemmTN(c, a, b []float32, m, n, k int) {
	l := 0
	for ; l+4 <= k; l += 4 {
		four := b[l*n : (l+4)*n]
		a0, a1, a2, a3 := a[l*m:(l+1)*m], a[(l+1)*m:(l+2)*m], a[(l+2)*m:(l+3)*m], a[(l+3)*m:(l+4)*m]
		for i := range m {
			axpy4(c[i*n:(i+1)*n], a0[i], a1[i], a2[i], a3[i], four, n)
		}
	}
	for ; l < k; l++ {
		for i, v := range a[l*m : (l+1)*m] {
			Generic.Axpy(c[i*n:(i+1)*n], v, b[l*n:(l+1)*n])
		}
	}
}

// axpy4 adds four scaled rows of b, in order: dst[j] = (((dst[j]+a₀·b₀[j])+a₁·b₁[j])+a₂·b₂[j])+a₃·b₃[j].
func axpy4(dst []float32, a0, a1, a2, a3 float32, b []float32, n int) {
	dst = dst[:n]
	b0, b1, b2, b3 := b[:n], b[n:][:n], b[2*n:][:n], b[3*n:][:n]
	for j := range dst {
		s := dst[j]
		s += float32(a0 * b0[j])
		s += float32(a1 * b1[j])
		s += float32(a2 * b2[j])
		s += float32(a3 * b3[j])
		dst[j] = s
	}
}

// gemmNT is Gemm.NT in plain Go: C[i,j] += Σₗ A[i,l]·B[j,l], with C [m × n], A [m × k], B [n × k].
func gemmNT(c, a, b []float32, m, n, k int) {
	for i := range m {
		dst := c[i*n : (i+1)*n]
		row := a[i*k : (i+1)*k]
		j := 0
		for ; j+4 <= n; j += 4 { // four independent sums hide the latency of addition
			b0, b1, b2, b3 := b[j*k:][:k], b[(j+1)*k:][:k], b[(j+2)*k:][:k], b[(j+3)*k:][:k]
			s0, s1, s2, s3 := dst[j], dst[j+1], dst[j+2], dst[j+3]
			for l, v := range row {
				s0 += float32(v * b0[l])
				s1 += float32(v * b1[l])
				s2 += float32(v * b2[l])
				s3 += float32(v * b3[l])
			}
			dst[j], dst[j+1], dst[j+2], dst[j+3] = s0, s1, s2, s3
		}
		for ; j < n; j++ {
			s := dst[j]
			col := b[j*k:][:k]
			for l, v := range row {
				s += float32(v * col[l])
			}
			dst[j] = s
		}
	}
}

// grow returns a slice of length n, s itself where it is large enough. Its contents are
// unspecified.
func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}
