package native

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Compile plans the architecture of s for features of the given shape, to be computed at an
// instruction level, one of kernel.Levels. It refuses what engine.NewPlan refuses, with
// tidemill.ErrInvalid.
func Compile(s *tidemill.Spec, shape engine.Shape, level kernel.Level) (engine.Model, error) {
	p, err := engine.NewPlan(s, shape)
	if err != nil {
		return nil, err
	}
	return &model{plan: p, level: level}, nil
}

// model implements engine.Model.
type model struct {
	plan  *engine.Plan
	level kernel.Level
}

func (m *model) Tables() []tidemill.TableSpec   { return m.plan.Tables }
func (m *model) Tensors() []tidemill.TensorSpec { return m.plan.Tensors }
func (m *model) UsesField(t, f int) bool        { return m.plan.Uses[t][f] }
func (m *model) Outputs() int                   { return m.plan.Outputs }

// Profile is the numeric profile at m's level.
func (m *model) Profile() string { return Profile(m.level) }

func (m *model) NewStepper() engine.Stepper {
	p := m.plan
	s := &stepper{plan: p, level: m.level, gemm: kernel.NewGemm(m.level)}
	s.res.RowGrads = make([][]float32, len(p.Tables))
	s.res.DenseGrads = make([][]float32, len(p.Tensors))
	for k, t := range p.Tensors {
		s.res.DenseGrads[k] = make([]float32, t.Len())
	}
	if p.Deep != nil {
		s.deep = newStack(p.Deep.Layers, s.level, s.gemm)
	}
	if x := p.Interaction; x != nil && len(x.Bottom) > 0 {
		s.bottom = newStack(x.Bottom, s.level, s.gemm)
	}
	if p.Cross != nil {
		s.cross = newCrossState(p.Cross)
	}
	return s
}
