package optim

import (
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Schedule kinds.
const (
	Constant    = "constant"     // 1
	Warmup      = "warmup"       // 1, after the warm-up that every kind may have
	InverseSqrt = "inverse_sqrt" // 1/√(1 + t/Over)
	Exponential = "exponential"  // Factor^(t/Over)
	Cosine      = "cosine"       // from 1 to Factor over Over examples along half a cosine, then Factor
)

// CheckSchedule reports whether s, which may be nil, has a known kind and values that it can
// work with. The error wraps tidemill.ErrInvalid.
func CheckSchedule(s *tidemill.Schedule) error {
	if s == nil {
		return nil
	}
	if s.Warmup < 0 || s.Over < 0 {
		return tidemill.Invalid("schedule %s: warmup %d and over %d", "give numbers of examples, 0 or more", s.Kind, s.Warmup, s.Over)
	}
	needsOver := false
	switch s.Kind {
	case Constant:
	case Warmup:
		if s.Warmup == 0 {
			return tidemill.Invalid("schedule warmup: warmup is 0", "give the number of examples of linear warm-up")
		}
	case InverseSqrt:
		needsOver = true
	case Exponential:
		needsOver = true
		if !(s.Factor > 0 && s.Factor <= 1) {
			return tidemill.Invalid("schedule exponential: factor is %v", "give the factor per period, above 0 and at most 1", s.Factor)
		}
	case Cosine:
		needsOver = true
		if !(s.Factor >= 0 && s.Factor <= 1) {
			return tidemill.Invalid("schedule cosine: factor is %v", "give the final fraction of the learning rate, 0 to 1", s.Factor)
		}
	default:
		kinds := []string{Constant, Warmup, InverseSqrt, Exponential, Cosine}
		remedy := fmt.Sprintf("use one of %v", kinds)
		if near := tidemill.Nearest(s.Kind, kinds); near != "" && s.Kind != "" {
			remedy = "did you mean " + near + "?"
		}
		return tidemill.Invalid("unknown schedule %q", remedy, s.Kind)
	}
	if needsOver && s.Over == 0 {
		return tidemill.Invalid("schedule %s: over is 0", "give a number of examples", s.Kind)
	}
	return nil
}

// Scale returns what the learning rate is multiplied with when the job has trained the given
// number of examples: in [0, 1], and 1 for a nil schedule. A warm-up rises linearly, (examples
// + 1)/Warmup, and reaches 1 with its last example; t in the kinds' formulas counts from
// there. The bits depend on nothing but the arguments. s has passed CheckSchedule.
func Scale(s *tidemill.Schedule, examples int64) float32 {
	if s == nil {
		return 1
	}
	examples = max(examples, 0)
	if examples < s.Warmup {
		return float32(float64(examples+1) / float64(s.Warmup))
	}
	t := float64(examples-s.Warmup) / float64(max(s.Over, 1))
	switch s.Kind {
	case InverseSqrt:
		return float32(1 / math.Sqrt(1+t))
	case Exponential:
		return float32(kernel.Exp(t * kernel.Log(s.Factor)))
	case Cosine:
		half := 0.5 * (1 + kernel.CosPi(min(t, 1)))
		return float32(s.Factor + float64((1-s.Factor)*half))
	}
	return 1
}
