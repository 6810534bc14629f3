package kernel

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// ulps returns how many float64 lie between two values of equal sign.
func ulps(a, b float64) float64 {
	if a == b {
		return 0
	}
	return math.Abs(float64(int64(math.Float64bits(a)) - int64(math.Float64bits(b))))
}

func TestExpAndLog(t *testing.T) {
	for _, c := range []struct{ x, want float64 }{
		{0, 1}, {1, math.E}, {math.Inf(-1), 0}, {-746, 0}, {709.7, 1.6549840276802644e308}, {710, math.Inf(1)}, {math.Inf(1), math.Inf(1)},
	} {
		if got := Exp(c.x); got != c.want {
			t.Errorf("Exp(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	for _, c := range []struct{ x, want float64 }{
		{1, 0}, {0, math.Inf(-1)}, {math.Inf(1), math.Inf(1)}, {0x1p-1074, -1074 * math.Ln2},
	} {
		if got := Log(c.x); got != c.want {
			t.Errorf("Log(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	for _, v := range []float64{Exp(math.NaN()), Log(math.NaN()), Log(-1), Log1p(math.NaN())} {
		if v == v {
			t.Errorf("%v, want NaN", v)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(-745, 709).Draw(t, "x") // above, math.Exp is +Inf too soon on amd64
		if u := ulps(Exp(x), math.Exp(x)); u > 4 {
			t.Errorf("Exp(%v) = %v, %v ulp from %v", x, Exp(x), u, math.Exp(x))
		}
		y := rapid.Float64Range(0x1p-1022, math.MaxFloat64).Draw(t, "y") // below, math.Log is off on amd64
		if got, want := Log(y), math.Log(y); !(math.Abs(got-want) <= 1e-15*math.Abs(want)) {
			t.Errorf("Log(%v) = %v, want %v", y, got, want)
		}
		z := rapid.Float64Range(0, 1).Draw(t, "z")
		if u := ulps(Log1p(z), math.Log1p(z)); u > 4 {
			t.Errorf("Log1p(%v) = %v, %v ulp from %v", z, Log1p(z), u, math.Log1p(z))
		}
		if got, want := CosPi(z), math.Cos(math.Pi*z); !(math.Abs(got-want) <= 4e-16) {
			t.Errorf("CosPi(%v) = %v, want %v", z, got, want)
		}
	})
}

func TestLogLoss(t *testing.T) {
	for _, c := range []struct{ x, y, want float32 }{
		{0, 0, math.Ln2}, {0, 1, math.Ln2},
		{3e38, 1, 0}, {3e38, 0, 3e38}, {-3e38, 0, 0}, {-3e38, 1, 3e38},
		{1e30, 0.5, 5e29}, {20, 1, 2.0611537e-09}, {-20, 0, 2.0611537e-09},
		{float32(math.Inf(1)), 1, 0}, {float32(math.Inf(1)), 0, float32(math.Inf(1))},
	} {
		if got := LogLoss(c.x, c.y); !(got == c.want || math.Abs(float64(got-c.want)) <= 1e-6*float64(c.want)) {
			t.Errorf("LogLoss(%v, %v) = %v, want %v", c.x, c.y, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float32Range(-30, 30).Draw(t, "x")
		y := rapid.Float32Range(0, 1).Draw(t, "y")
		want := math.Log1p(math.Exp(float64(x))) - float64(y)*float64(x)
		if got := LogLoss(x, y); math.Abs(float64(got)-want) > 2e-7*(1+want) {
			t.Errorf("LogLoss(%v, %v) = %v, want %v", x, y, got, want)
		}
	})
}

func TestSoftmaxOfHugeScores(t *testing.T) {
	x := []float32{1e38, -1e38, 1e38, 0}
	p := make([]float32, len(x))
	Softmax(p, x)
	for i, want := range []float32{0.5, 0, 0.5, 0} {
		if p[i] != want {
			t.Errorf("probability %d is %v, want %v", i, p[i], want)
		}
	}
	for i, want := range []float32{math.Ln2, 2e38, math.Ln2, 1e38} {
		if got := SoftmaxLoss(x, i); got != want {
			t.Errorf("loss of class %d is %v, want %v", i, got, want)
		}
	}
	Softmax(nil, nil)
}
