package kernel

func checkLen(op string, dst, src int) {
	if dst != src {
		panic("kernel: " + op + ": lengths differ")
	}
}

// Dot returns Σᵢ a[i]·b[i], 0 for empty vectors. Four sums run over i mod 4 and are joined as
// (s₀+s₁)+(s₂+s₃); the up to three elements beyond the last multiple of 4 are then added in
// order.
func Dot(a, b []float32) float32 {
	checkLen("Dot", len(a), len(b))
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
func Axpy(dst []float32, alpha float32, x []float32) {
	checkLen("Axpy", len(dst), len(x))
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
func AxpySquares(sum, squares []float32, alpha float32, x []float32) {
	checkLen("AxpySquares", len(sum), len(x))
	checkLen("AxpySquares", len(squares), len(x))
	sum, squares = sum[:len(x)], squares[:len(x)]
	for i, v := range x {
		t := float32(alpha * v)
		sum[i] += t
		squares[i] += float32(t * t)
	}
}

// Add adds: dst[i] += x[i].
func Add(dst, x []float32) {
	checkLen("Add", len(dst), len(x))
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] += v
	}
}

// ReLU rectifies: dst[i] = max(0, x[i]), NaN for NaN. dst may be x.
func ReLU(dst, x []float32) {
	checkLen("ReLU", len(dst), len(x))
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
func ReLUGrad(grad, y []float32) {
	checkLen("ReLUGrad", len(grad), len(y))
	grad = grad[:len(y)]
	for i, v := range y {
		if v <= 0 {
			grad[i] = 0
		}
	}
}
