package native

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Compile plans the architecture of s for features of the given shape, to be computed at an
// instruction level, one of kernel.Levels, by steppers that take those processors of cores, which
// may be nil, that are idle. It refuses what engine.NewPlan refuses, with tidemill.ErrInvalid.
func Compile(s *tidemill.Spec, shape engine.Shape, level kernel.Level, cores *engine.Cores) (engine.Model, error) {
	p, err := engine.NewPlan(s, shape)
	if err != nil {
		return nil, err
	}
	return &model{plan: p, level: level, cores: cores}, nil
}

// model implements engine.Model.
type model struct {
	plan  *engine.Plan
	level kernel.Level
	cores *engine.Cores
}

func (m *model) Tables() []tidemill.TableSpec   { return m.plan.Tables }
func (m *model) Tensors() []tidemill.TensorSpec { return m.plan.Tensors }
func (m *model) UsesField(t, f int) bool        { return m.plan.Uses[t][f] }
func (m *model) Outputs() int                   { return m.plan.Outputs }

// Profile is the numeric profile at m's level.
func (m *model) Profile() string { return Profile(m.level) }

func (m *model) NewStepper() engine.Stepper {
	p := m.plan
	s := &stepper{plan: p, level: m.level, crew: newCrew(m.level, m.cores)}
	s.res.RowGrads = make([][]float32, len(p.Tables))
	s.res.DenseGrads = make([][]float32, len(p.Tensors))
	for k, t := range p.Tensors {
		s.res.DenseGrads[k] = make([]float32, t.Len())
	}
	if p.Deep != nil {
		s.deep = newStack(p.Deep.Layers, s.level, p.Precision)
	}
	if x := p.Interaction; x != nil && len(x.Bottom) > 0 {
		s.bottom = newStack(x.Bottom, s.level, p.Precision)
	}
	if p.Cross != nil {
		s.cross = newCrossState(p.Cross, s.level, p.Precision)
	}
	for w := range p.Shape.Width {
		s.counting = append(s.counting, int32(w))
	}
	s.planTasks()
	return s
}
