package native

import (
	"math"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// predictions turns a span's scores into predictions, in dst [N × K]: probabilities under
// logistic and softmax loss, the scores themselves otherwise.
func (s *stepper) predictions(dst []float32, sp span) {
	k := s.plan.Outputs
	dst, scores := sp.all(dst, k), sp.all(s.scores, k)
	switch s.plan.Loss {
	case engine.LossLogistic:
		kernel.Sigmoid(dst, scores)
	case engine.LossSoftmax:
		for i := 0; i < len(dst); i += k {
			kernel.Softmax(dst[i:i+k], scores[i:i+k])
		}
	default:
		copy(dst, scores)
	}
}

// losses fills a span of loss and s.dscores, the gradient of Σ wᵢ·lossᵢ / N by the scores, from
// s.scores and the predictions made of them.
func (s *stepper) losses(sp span, pred, loss []float32) {
	in, k := s.in, s.plan.Outputs
	n := float32(in.N)
	for i := sp.lo; i < sp.hi; i++ {
		y := in.Labels[i]
		scale := 1 / n
		if len(in.Weights) > 0 {
			scale = in.Weights[i] / n
		}
		switch s.plan.Loss {
		case engine.LossLogistic:
			loss[i] = kernel.LogLoss(s.scores[i], y)
			s.dscores[i] = scale * (pred[i] - y)
		case engine.LossSquared:
			r := pred[i] - y
			loss[i] = 0.5 * r * r
			s.dscores[i] = scale * r
		case engine.LossHuber:
			var g float32
			loss[i], g = huber(pred[i]-y, s.plan.HuberDelta)
			s.dscores[i] = scale * g
		case engine.LossSoftmax:
			loss[i] = s.softmaxLoss(pred, i, y, scale, k)
		}
	}
}

// softmaxLoss returns the loss of example i with class y and fills its dscores with
// scale·(p - onehot(y)). A label that names no class gives NaN.
func (s *stepper) softmaxLoss(pred []float32, i int, y, scale float32, k int) float32 {
	d := s.dscores[i*k : (i+1)*k]
	if !(y >= 0 && y < float32(k)) || y != float32(int(y)) {
		nan := float32(math.NaN())
		for c := range d {
			d[c] = nan
		}
		return nan
	}
	for c, p := range pred[i*k : (i+1)*k] {
		if c == int(y) {
			p--
		}
		d[c] = scale * p
	}
	return kernel.SoftmaxLoss(s.scores[i*k:(i+1)*k], int(y))
}

// huber returns the loss ½r² for |r| ≤ delta, else delta·(|r| - ½delta), and its derivative.
func huber(r, delta float32) (loss, grad float32) {
	switch {
	case r > delta:
		return delta * (r - float32(0.5*delta)), delta
	case r < -delta:
		return delta * (-r - float32(0.5*delta)), -delta
	}
	return 0.5 * r * r, r
}
