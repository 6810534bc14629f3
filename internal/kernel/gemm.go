package kernel

// The three products of a dense layer y = x·W with W [in × out]: forward is GemmNN(y, x, W),
// the gradient of W is GemmTN(dW, x, dy), that of x is GemmNT(dx, dy, W).
//
// All matrices are row-major and contiguous. Each element of C is summed with the index l of
// the shared dimension ascending, beginning with what C held. A row of C therefore has the
// same bits in a batch of one and of a thousand.

func checkGemm(op string, m, n, k, c, a, b int) {
	if m < 0 || n < 0 || k < 0 || c != m*n || a != m*k || b != k*n {
		panic("kernel: " + op + ": slices do not have the lengths of their shapes")
	}
}

// GemmNN adds a product: C[i,j] += Σₗ A[i,l]·B[l,j], with C [m × n], A [m × k], B [k × n].
func GemmNN(c, a, b []float32, m, n, k int) {
	checkGemm("GemmNN", m, n, k, len(c), len(a), len(b))
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
			Axpy(dst, row[l], b[l*n:(l+1)*n])
		}
	}
}

// GemmTN adds a product: C[i,j] += Σₗ A[l,i]·B[l,j], with C [m × n], A [k × m], B [k × n].
func GemmTN(c, a, b []float32, m, n, k int) {
	checkGemm("GemmTN", m, n, k, len(c), len(a), len(b))
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
			Axpy(c[i*n:(i+1)*n], v, b[l*n:(l+1)*n])
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

// GemmNT adds a product: C[i,j] += Σₗ A[i,l]·B[j,l], with C [m × n], A [m × k], B [n × k].
func GemmNT(c, a, b []float32, m, n, k int) {
	checkGemm("GemmNT", m, n, k, len(c), len(a), len(b))
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
