package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

const guard = 1234.5

// guarded returns n random values between guard values that padding checks.
func guarded(r *rand.Rand, n int) (v []float32, intact func(t *testing.T)) {
	const pad = 5
	all := make([]float32, n+2*pad)
	for i := range all {
		all[i] = guard
	}
	v = all[pad : pad+n : pad+n]
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v, func(t *testing.T) {
		t.Helper()
		for i := range pad {
			if all[i] != guard || all[pad+n+i] != guard {
				t.Fatalf("length %d: wrote outside", n)
			}
		}
	}
}

// near compares with a tolerance relative to the magnitudes that were summed.
func near(t *testing.T, what string, got float32, want, magnitude float64) {
	t.Helper()
	if !(math.Abs(float64(got)-want) <= 1e-6*(magnitude+1e-30)) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func TestVectorsAgainstFloat64(t *testing.T) {
	for _, level := range Levels() {
		t.Run(level.String(), func(t *testing.T) { vectorsAgainstFloat64(t, level) })
	}
}

func vectorsAgainstFloat64(t *testing.T, level Level) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 150 {
		x, xGuard := guarded(r, n)
		y, yGuard := guarded(r, n)
		q, qGuard := guarded(r, n)
		alpha := float32(r.NormFloat64())

		var dot, mag float64
		for i := range x {
			dot += float64(x[i]) * float64(y[i])
			mag += math.Abs(float64(x[i]) * float64(y[i]))
		}
		near(t, "Dot", level.Dot(x, y), dot, mag)

		was := append([]float32(nil), y...)
		level.Axpy(y, alpha, x)
		for i := range y {
			near(t, "Axpy", y[i], float64(was[i])+float64(alpha)*float64(x[i]), math.Abs(float64(was[i]))+math.Abs(float64(alpha*x[i])))
		}

		copy(was, y)
		squares := append([]float32(nil), q...)
		level.AxpySquares(y, q, alpha, x)
		for i := range y {
			a := float64(alpha) * float64(x[i])
			near(t, "AxpySquares sum", y[i], float64(was[i])+a, math.Abs(float64(was[i]))+math.Abs(a))
			near(t, "AxpySquares square", q[i], float64(squares[i])+a*a, math.Abs(float64(squares[i]))+a*a)
		}

		copy(was, y)
		x2, x2Guard := guarded(r, n)
		level.FactorGrad(y, x, x2, 0.5, alpha)
		for i := range y {
			d := float64(x2[i]) - float64(alpha)*float64(x[i])
			near(t, "FactorGrad", y[i], float64(was[i])+0.5*d, math.Abs(float64(was[i]))+math.Abs(float64(x2[i]))+math.Abs(float64(alpha*x[i])))
		}
		x2Guard(t)

		copy(was, y)
		level.Add(y, x)
		for i := range y {
			near(t, "Add", y[i], float64(was[i])+float64(x[i]), math.Abs(float64(was[i]))+math.Abs(float64(x[i])))
		}

		level.ReLU(y, x)
		for i := range y {
			near(t, "ReLU", y[i], max(0, float64(x[i])), 0)
		}
		level.ReLUGrad(q, y)
		for i := range y {
			if (y[i] == 0) != (q[i] == 0) {
				t.Fatalf("ReLUGrad: output %v, gradient %v", y[i], q[i])
			}
		}

		Sigmoid(y, x)
		for i := range y {
			near(t, "Sigmoid", y[i], 1/(1+math.Exp(-float64(x[i]))), 1)
		}
		if n > 0 {
			Softmax(y, x)
			var sum float64
			for _, v := range x {
				sum += math.Exp(float64(v))
			}
			for i := range y {
				near(t, "Softmax", y[i], math.Exp(float64(x[i]))/sum, 1)
				near(t, "SoftmaxLoss", SoftmaxLoss(x, i), math.Log(sum)-float64(x[i]), 1)
			}
		}
		xGuard(t)
		yGuard(t)
		qGuard(t)
	}
}

func TestNaNStays(t *testing.T) {
	for _, level := range Levels() {
		t.Run(level.String(), func(t *testing.T) { nanStays(t, level) })
	}
}

func nanStays(t *testing.T, level Level) {
	nan := float32(math.NaN())
	for n := 1; n < 70; n++ {
		for at := range n {
			x, one := make([]float32, n), make([]float32, n)
			for i := range one {
				one[i] = 1
			}
			x[at] = nan
			dst := make([]float32, n)
			if v := level.Dot(x, one); v == v {
				t.Errorf("Dot lost NaN at %d of %d", at, n)
			}
			level.ReLU(dst, x)
			if dst[at] == dst[at] {
				t.Errorf("ReLU lost NaN at %d of %d", at, n)
			}
			Sigmoid(dst, x)
			if dst[at] == dst[at] {
				t.Errorf("Sigmoid lost NaN at %d of %d", at, n)
			}
			Softmax(dst, x)
			for _, v := range dst {
				if v == v {
					t.Errorf("Softmax lost NaN at %d of %d", at, n)
				}
			}
			if v := SoftmaxLoss(x, 0); v == v {
				t.Errorf("SoftmaxLoss lost NaN at %d of %d", at, n)
			}
		}
	}
	for _, y := range []float32{0, 1, 0.5} {
		if v := LogLoss(nan, y); v == v {
			t.Errorf("LogLoss(NaN, %v) = %v", y, v)
		}
	}
}

func TestLengthsAreChecked(t *testing.T) {
	level, g := Best(), NewGemm(Best())
	two, three := make([]float32, 2), make([]float32, 3)
	for name, f := range map[string]func(){
		"Dot":         func() { level.Dot(two, three) },
		"Axpy":        func() { level.Axpy(three, 1, two) },
		"AxpySquares": func() { level.AxpySquares(two, three, 1, two) },
		"Add":         func() { level.Add(two, three) },
		"ReLU":        func() { level.ReLU(two, three) },
		"ReLUGrad":    func() { level.ReLUGrad(two, three) },
		"FactorGrad":  func() { level.FactorGrad(two, two, three, 1, 1) },
		"Sigmoid":     func() { Sigmoid(three, two) },
		"Softmax":     func() { Softmax(three, two) },
		"NN":          func() { g.NN(two, two, three, 1, 2, 1) },
		"TN":          func() { g.TN(two, two, two, 2, 2, 1) },
		"NT":          func() { g.NT(two, two, two, -1, -2, -1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s took slices that do not fit", name)
				}
			}()
			f()
		}()
	}
}
