package progress

import (
	"encoding/binary"
	"iter"
	"math"

	"github.com/tidemill/tidemill"
)

// Outcome is one example's prediction against its label.
type Outcome struct {
	Score   float32 // probability of the positive class, predicted value, or probability of the true class
	Label   float32 // 0/1, value, or class index
	Loss    float32
	Correct bool // the thresholded or arg-max prediction was right; false for regression
}

const outcomeBytes = 13

// AppendOutcomes appends the wire form of a batch's outcomes: 13 bytes each, little-endian
// score, label, loss, and the correct flag.
func AppendOutcomes(dst []byte, outs []Outcome) []byte {
	for _, o := range outs {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(o.Score))
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(o.Label))
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(o.Loss))
		var c byte
		if o.Correct {
			c = 1
		}
		dst = append(dst, c)
	}
	return dst
}

func outcomeAt(data []byte, i int) Outcome {
	b := data[i*outcomeBytes:]
	return Outcome{
		Score:   math.Float32frombits(binary.LittleEndian.Uint32(b)),
		Label:   math.Float32frombits(binary.LittleEndian.Uint32(b[4:])),
		Loss:    math.Float32frombits(binary.LittleEndian.Uint32(b[8:])),
		Correct: b[12] != 0,
	}
}

// Judge makes the outcome of one example of the given label type from its predictions (one
// value, or one per class) and loss.
func Judge(labelType string, pred []float32, label, loss float32) Outcome {
	o := Outcome{Label: label, Loss: loss}
	switch labelType {
	case tidemill.Multiclass:
		best := 0
		for k, p := range pred {
			if p > pred[best] {
				best = k
			}
		}
		if k := int(label); k >= 0 && k < len(pred) {
			o.Score = pred[k]
			o.Correct = k == best
		}
	case tidemill.Regression:
		o.Score = pred[0]
	default:
		o.Score = pred[0]
		o.Correct = (pred[0] >= 0.5) == (label >= 0.5)
	}
	return o
}

// Outcomes yields what AppendOutcomes wrote, with its position. Bytes after the last whole one are
// not looked at.
func Outcomes(data []byte) iter.Seq2[int, Outcome] {
	return func(yield func(int, Outcome) bool) {
		for i := range len(data) / outcomeBytes {
			if !yield(i, outcomeAt(data, i)) {
				return
			}
		}
	}
}
