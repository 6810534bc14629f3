package kernel

import "math"

// Logistic returns 1/(1+e⁻ˣ).
func Logistic(x float32) float32 {
	e := Exp(-math.Abs(float64(x)))
	if x < 0 {
		return float32(e / (1 + e))
	}
	return float32(1 / (1 + e))
}

// Sigmoid applies Logistic to each element: dst[i] = 1/(1+e^-x[i]). dst may be x.
func Sigmoid(dst, x []float32) {
	checkLen("Sigmoid", len(dst), len(x))
	for i, v := range x {
		dst[i] = Logistic(v)
	}
}

// Softplus returns ln(1+eˣ), computed as max(x,0) + ln(1+e^-|x|): finite for finite x.
func Softplus(x float32) float32 {
	v := float64(x)
	return float32(max(v, 0) + Log1p(Exp(-math.Abs(v))))
}

// LogLoss returns the negative log-likelihood of label y in [0,1] under the logit x:
// ln(1+eˣ) - y·x. It is finite for finite x, and for y of 0 and 1 it keeps full relative
// precision however small it is.
func LogLoss(x, y float32) float32 {
	switch y {
	case 0:
		return Softplus(x)
	case 1:
		return Softplus(-x)
	}
	v := float64(x)
	return float32(max(v, 0) - float64(float64(y)*v) + Log1p(Exp(-math.Abs(v))))
}

// Softmax normalises one row of scores: dst[i] = e^(x[i]-m) / Σⱼ e^(x[j]-m) with m = max x,
// summed in float64 in order. dst may be x.
func Softmax(dst, x []float32) {
	checkLen("Softmax", len(dst), len(x))
	if len(x) == 0 {
		return
	}
	m := maxOf(x)
	var sum float64
	for _, v := range x {
		sum += Exp(float64(v) - m)
	}
	for i, v := range x {
		dst[i] = float32(Exp(float64(v)-m) / sum)
	}
}

// SoftmaxLoss returns the cross-entropy of class y under one row of scores:
// ln Σⱼ e^(x[j]-m) + (m - x[y]) with m = max x. It is not negative, and finite for scores up
// to half the largest float32.
func SoftmaxLoss(x []float32, y int) float32 {
	m := maxOf(x)
	var sum float64
	for _, v := range x {
		sum += Exp(float64(v) - m)
	}
	return float32(Log(sum) + (m - float64(x[y])))
}

// maxOf returns the largest of x; a NaN may be passed over, and shows in what is subtracted
// from it.
func maxOf(x []float32) float64 {
	m := x[0]
	for _, v := range x[1:] {
		if v > m {
			m = v
		}
	}
	return float64(m)
}
