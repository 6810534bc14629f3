package kernel

func checkLen(op string, dst, src int) {
	if dst != src {
		panic("kernel: " + op + ": lengths differ")
	}
}

// Dot returns Σᵢ a[i]·b[i], 0 for empty vectors. Four sums run over i mod 4 and are joined as
// (s₀+s₁)+(s₂+s₃); the up to three elements beyond the last multiple of 4 are then added in
// order. The other levels do the same with four vectors of sums in place of four sums.
func (l Level) Dot(a, b []float32) float32 {
	checkLen("Dot", len(a), len(b))
	if l != Generic && len(a) > 0 {
		return dotAt(l, a, b)
	}
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float32(a[0] * b[0])
		s1 += float32(a[1] * b[1])
		s2 += float32(a[2] * b[2])
		s3 += float32(a[3] * b[3])
		a, b = a[4:], b[4:]
	}
	s := (s0 + s1) + (s2 + s3)
	for i, v := range a {
		s += float32(v * b[i])
	}
	return s
}

// Axpy adds: dst[i] += alpha·x[i].
func (l Level) Axpy(dst []float32, alpha float32, x []float32) {
	checkLen("Axpy", len(dst), len(x))
	if l != Generic && len(x) > 0 {
		axpyAt(l, dst, alpha, x)
		return
	}
	for len(dst) >= 4 && len(x) >= 4 {
		dst[0] += float32(alpha * x[0])
		dst[1] += float32(alpha * x[1])
		dst[2] += float32(alpha * x[2])
		dst[3] += float32(alpha * x[3])
		dst, x = dst[4:], x[4:]
	}
	for i, v := range x {
		dst[i] += float32(alpha * v)
	}
}

// AxpySquares adds t = alpha·x[i] and its square: sum[i] += t, squares[i] += t². It is the
// inner loop of a factorisation machine.
func (l Level) AxpySquares(sum, squares []float32, alpha float32, x []float32) {
	checkLen("AxpySquares", len(sum), len(x))
	checkLen("AxpySquares", len(squares), len(x))
	if l != Generic && len(x) > 0 {
		axpySquaresAt(l, sum, squares, alpha, x)
		return
	}
	sum, squares = sum[:len(x)], squares[:len(x)]
	for i, v := range x {
		t := float32(alpha * v)
		sum[i] += t
		squares[i] += float32(t * t)
	}
}

// Add adds: dst[i] += x[i].
func (l Level) Add(dst, x []float32) {
	checkLen("Add", len(dst), len(x))
	if l != Generic && len(x) > 0 {
		addAt(l, dst, x)
		return
	}
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] += v
	}
}

// ReLU rectifies: dst[i] = max(0, x[i]), NaN for NaN. dst may be x.
func (l Level) ReLU(dst, x []float32) {
	checkLen("ReLU", len(dst), len(x))
	if l != Generic && len(x) > 0 {
		reluAt(l, dst, x)
		return
	}
	dst = dst[:len(x)]
	for i, v := range x {
		if v < 0 {
			v = 0
		}
		dst[i] = v
	}
}

// ReLUGrad masks a gradient by what ReLU put out: grad[i] = 0 where y[i] ≤ 0. A NaN output
// leaves its gradient as it is.
func (l Level) ReLUGrad(grad, y []float32) {
	checkLen("ReLUGrad", len(grad), len(y))
	if l != Generic && len(y) > 0 {
		reluGradAt(l, grad, y)
		return
	}
	grad = grad[:len(y)]
	for i, v := range y {
		if v <= 0 {
			grad[i] = 0
		}
	}
}

// FactorGrad adds a factorisation machine's gradient by one feature's factors v:
// grad[i] += scale·(sum[i] − x·v[i]).
func (l Level) FactorGrad(grad, v, sum []float32, scale, x float32) {
	checkLen("FactorGrad", len(grad), len(v))
	checkLen("FactorGrad", len(sum), len(v))
	if l != Generic && len(v) > 0 {
		factorGradAt(l, grad, v, sum, scale, x)
		return
	}
	grad, sum = grad[:len(v)], sum[:len(v)]
	for i, f := range v {
		grad[i] += float32(scale * (sum[i] - float32(x*f)))
	}
}
