package predict

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
)

// Scorer answers batches for one goroutine at a time, reusing its buffers.
type Scorer struct {
	m       *Model
	work    *feature.Workspace
	in      engine.Inputs
	look    []engine.Lookup
	scratch engine.Scratch
	params  engine.Params
	step    engine.Stepper
}

// NewScorer returns a Scorer with buffers of its own.
func (m *Model) NewScorer() *Scorer {
	return &Scorer{
		m: m, work: m.compiled.Plan.NewWorkspace(), step: m.compiled.Engine.NewStepper(),
		params: engine.Params{Rows: make([][]float32, len(m.tables)), Dense: m.dense},
	}
}

// Model returns the model that the Scorer answers with.
func (s *Scorer) Model() *Model { return s.m }

// Predict appends the predictions of rows, [rows × Outputs], to dst and returns it. Columns
// are found by name; others are ignored. A missing column, or a row that the transforms
// cannot use (a number that is not finite, text that is not UTF-8), is refused with tidemill.ErrInvalid.
func (s *Scorer) Predict(dst []float32, rows arrow.RecordBatch) ([]float32, error) {
	if bad := s.m.compiled.Plan.Check(rows, false); bad != nil {
		return dst, tidemill.Invalid("row %d, column %q: %s", "", bad[0].Row, bad[0].Column, bad[0].Reason)
	}
	if err := s.inputs(rows); err != nil {
		return dst, err
	}
	at := len(dst)
	dst = extend(dst, s.in.N*s.m.Outputs())
	if s.in.N > 0 {
		s.step.Predict(dst[at:], &s.in, s.look, &s.params)
	}
	return dst, s.step.Err()
}

// Losses appends the loss of each row, unweighted, to dst and returns it. The rows carry the
// label; one that cannot be used for training is refused with tidemill.ErrInvalid. A loss may
// be infinite or NaN.
func (s *Scorer) Losses(dst []float32, rows arrow.RecordBatch) ([]float32, error) {
	if err := s.inputs(rows); err != nil {
		return dst, err
	}
	if err := s.m.compiled.Plan.Labels(&s.in, rows); err != nil {
		return dst, err
	}
	s.in.Weights = nil
	if s.in.N == 0 {
		return dst, nil
	}
	r := s.step.Evaluate(&s.in, s.look, &s.params)
	if err := s.step.Err(); err != nil {
		return dst, err
	}
	return append(dst, r.Losses...), nil
}

// PriorLosses appends the loss that predicting the constant prior [Outputs] would have on
// each row: the positive rate, the mean, or the class shares.
func (s *Scorer) PriorLosses(dst []float32, rows arrow.RecordBatch, prior []float32) ([]float32, error) {
	if len(prior) != s.m.Outputs() {
		return dst, tidemill.Invalid("a prior of %d values for %d outputs", "", len(prior), s.m.Outputs())
	}
	if err := s.m.compiled.Plan.Labels(&s.in, rows); err != nil {
		return dst, err
	}
	for _, y := range s.in.Labels[:int(rows.NumRows())] {
		dst = append(dst, float32(s.m.constantLoss(prior, float64(y))))
	}
	return dst, nil
}

// constantLoss is the loss of predicting prior for label y.
func (m *Model) constantLoss(prior []float32, y float64) float64 {
	const tiny = 1e-6 // a class never seen in training is not impossible
	spec := m.compiled.Spec
	loss := spec.Architecture.Loss
	if loss == "" {
		loss = map[string]string{tidemill.Regression: engine.LossSquared, tidemill.Multiclass: engine.LossSoftmax}[spec.Label.Type]
	}
	switch p := float64(prior[0]); loss {
	case engine.LossSquared:
		return (p - y) * (p - y) / 2
	case engine.LossHuber:
		delta := spec.Architecture.HuberDelta
		if delta == 0 {
			delta = 1
		}
		if r := math.Abs(p - y); r > delta {
			return delta * (r - delta/2)
		}
		return (p - y) * (p - y) / 2
	case engine.LossSoftmax:
		k := int(y)
		if k < 0 || k >= len(prior) {
			return math.NaN()
		}
		return -math.Log(max(tiny, float64(prior[k])))
	default:
		p = max(tiny, min(1-tiny, p))
		return -(y*math.Log(p) + (1-y)*math.Log1p(-p))
	}
}

// inputs makes the engine's inputs of rows and gathers the parameters they need.
func (s *Scorer) inputs(rows arrow.RecordBatch) error {
	plan := s.m.compiled.Plan
	if err := plan.Sparse(s.work, &s.in, rows, s.m.state); err != nil {
		return err
	}
	if err := plan.Numeric(s.work, &s.in, rows, s.m.state); err != nil {
		return err
	}
	s.look = engine.Lookups(s.look, &s.scratch, &s.in, s.m.compiled.Engine)
	for t, table := range s.m.tables {
		ids := s.look[t].Unique
		s.params.Rows[t] = extend(s.params.Rows[t][:0], len(ids)*table.dim)
		table.gather(s.params.Rows[t], ids)
	}
	return nil
}

// extend returns s with n more elements of any value.
func extend(s []float32, n int) []float32 {
	if cap(s)-len(s) < n {
		grown := make([]float32, len(s), (len(s)+n)*5/4+16)
		copy(grown, s)
		s = grown
	}
	return s[:len(s)+n]
}
