package optim

import (
	"fmt"
	"math"
	"slices"

	"github.com/tidemill/tidemill"
)

// Rule updates rows. Rules are immutable values, safe for concurrent use.
type Rule interface {
	// StateLen returns the length of the state of a row of dim weights.
	StateLen(dim int) int
	// Init writes the state, StateLen(len(w)) long, of a row whose weights are w and which
	// was never trained. It does not change w.
	Init(state, w []float32)
	// Apply updates w and state by the gradient g, len(g) == len(w). scale, at least 0,
	// multiplies the learning rate. It keeps no slice and does not change g.
	Apply(w, state, g []float32, scale float32)
}

// Default hyper-parameters. Learning rates are per optimizer; the rest is from the papers.
const (
	DefaultSGDRate      = 0.05
	DefaultMomentumRate = 0.01
	DefaultAdagradRate  = 0.05
	DefaultRMSPropRate  = 0.001
	DefaultAdamRate     = 0.001
	DefaultAlpha        = 0.1 // FTRL
	DefaultBeta         = 1.0 // FTRL
	DefaultMomentum     = 0.9
	DefaultRho          = 0.9
	DefaultBeta1        = 0.9
	DefaultBeta2        = 0.999
	DefaultInitial      = 0.1 // Adagrad
)

// Default denominators' guards.
const (
	DefaultAdagradEpsilon = 1e-10
	DefaultEpsilon        = 1e-8 // RMSProp and Adam
)

// New returns the rule that c names, zero fields standing for their defaults. Values that
// cannot work, and values that the kind has no use for, are refused with tidemill.ErrInvalid.
func New(c tidemill.OptimizerChoice) (Rule, error) {
	kinds := []string{tidemill.SGD, tidemill.Momentum, tidemill.Adagrad, tidemill.RMSProp, tidemill.Adam, tidemill.FTRL}
	if !slices.Contains(kinds, c.Kind) {
		remedy := fmt.Sprintf("use one of %v", kinds)
		if near := tidemill.Nearest(c.Kind, kinds); near != "" && c.Kind != "" {
			remedy = "did you mean " + near + "?"
		}
		return nil, tidemill.Invalid("unknown optimizer %q", remedy, c.Kind)
	}
	if err := CheckSchedule(c.Schedule); err != nil {
		return nil, err
	}
	p := params{kind: c.Kind, c: c}
	var r Rule
	switch c.Kind {
	case tidemill.SGD:
		r = SGD{LR: p.rate(DefaultSGDRate), L2: p.penalty("l2", c.L2)}
		p.only("lr", "l2")
	case tidemill.Momentum:
		r = Momentum{LR: p.rate(DefaultMomentumRate), Momentum: p.fraction("momentum", c.Momentum, DefaultMomentum),
			L2: p.penalty("l2", c.L2)}
		p.only("lr", "l2", "momentum")
	case tidemill.Adagrad:
		r = Adagrad{LR: p.rate(DefaultAdagradRate), Initial: p.within("initial", c.Initial, DefaultInitial, 1e-20, 1e20),
			Epsilon: p.epsilon(DefaultAdagradEpsilon), L2: p.penalty("l2", c.L2)}
		p.only("lr", "l2", "initial", "epsilon")
	case tidemill.RMSProp:
		r = RMSProp{LR: p.rate(DefaultRMSPropRate), Rho: p.fraction("rho", c.Rho, DefaultRho),
			Epsilon: p.epsilon(DefaultEpsilon), L2: p.penalty("l2", c.L2)}
		p.only("lr", "l2", "rho", "epsilon")
	case tidemill.Adam:
		r = Adam{LR: p.rate(DefaultAdamRate), Beta1: p.fraction("beta1", c.Beta1, DefaultBeta1),
			Beta2: p.fraction("beta2", c.Beta2, DefaultBeta2), Epsilon: p.epsilon(DefaultEpsilon),
			L2: p.penalty("l2", c.L2)}
		p.only("lr", "l2", "beta1", "beta2", "epsilon")
	case tidemill.FTRL:
		if c.Alpha == 0 {
			c.Alpha = c.LR
		} else if c.LR != 0 && c.LR != c.Alpha {
			p.refuse("lr", "alpha and lr are the same thing; give one of them")
		}
		r = FTRL{Alpha: p.within("alpha", c.Alpha, DefaultAlpha, 1e-12, 1e6),
			Beta: p.within("beta", c.Beta, DefaultBeta, 1e-12, 1e6),
			L1:   p.penalty("l1", c.L1), L2: p.penalty("l2", c.L2)}
		p.only("lr", "alpha", "beta", "l1", "l2")
	}
	if p.err != nil {
		return nil, p.err
	}
	return r, nil
}

// params checks hyper-parameters and keeps the first error.
type params struct {
	kind string
	c    tidemill.OptimizerChoice
	err  error
}

func (p *params) refuse(name, remedy string) {
	if p.err == nil {
		p.err = tidemill.Invalid("optimizer %s: %s is %v", remedy, p.kind, name, p.value(name))
	}
}

// value returns a hyper-parameter by its name in a spec.
func (p *params) value(name string) float64 {
	for _, f := range p.fields() {
		if f.name == name {
			return f.value
		}
	}
	return math.NaN()
}

type field struct {
	name  string
	value float64
}

func (p *params) fields() []field {
	c := p.c
	return []field{
		{"lr", c.LR}, {"alpha", c.Alpha}, {"beta", c.Beta}, {"l1", c.L1}, {"l2", c.L2},
		{"momentum", c.Momentum}, {"rho", c.Rho}, {"beta1", c.Beta1}, {"beta2", c.Beta2},
		{"epsilon", c.Epsilon}, {"initial", c.Initial},
	}
}

// only refuses what is set beyond the named hyper-parameters.
func (p *params) only(names ...string) {
	for _, f := range p.fields() {
		if f.value != 0 && !slices.Contains(names, f.name) {
			p.refuse(f.name, fmt.Sprintf("%s has no %s; it has %v", p.kind, f.name, names))
		}
	}
}

// within returns v, or def where v is 0, and refuses what lies outside [lo, hi].
func (p *params) within(name string, v, def, lo, hi float64) float32 {
	if v == 0 {
		v = def
	}
	if !(v >= lo && v <= hi) {
		p.refuse(name, fmt.Sprintf("give %g to %g; the default is %g", lo, hi, def))
	}
	return float32(v)
}

func (p *params) rate(def float64) float32 { return p.within("lr", p.c.LR, def, 1e-12, 1e6) }

func (p *params) epsilon(def float64) float32 {
	return p.within("epsilon", p.c.Epsilon, def, 1e-20, 1)
}

// fraction returns v, or def where v is 0, and refuses what is not in (0, 1) in float32.
func (p *params) fraction(name string, v, def float64) float32 {
	if v == 0 {
		v = def
	}
	if f := float32(v); !(f > 0 && f < 1) {
		p.refuse(name, fmt.Sprintf("give a number between 0 and 1; the default is %g", def))
	}
	return float32(v)
}

func (p *params) penalty(name string, v float64) float32 {
	if !(v >= 0 && v <= 1e6) {
		p.refuse(name, "give 0 to 1e+06; the default is 0")
	}
	return float32(v)
}

// clip returns x, at the largest finite magnitude where it is infinite; NaN stays NaN.
func clip(x float32) float32 {
	if x > math.MaxFloat32 {
		return math.MaxFloat32
	}
	if x < -math.MaxFloat32 {
		return -math.MaxFloat32
	}
	return x
}

// moment returns clip(x), and 0 where x is smaller than any normal float32: what decays step
// by step would otherwise rest at a denormal, on which each operation is slow, for good.
func moment(x float32) float32 {
	if x < 0x1p-126 && x > -0x1p-126 {
		return 0
	}
	return clip(x)
}

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// check panics when the slices of a row do not belong together: a programming error.
func check(r Rule, w, state, g []float32) {
	if len(state) != r.StateLen(len(w)) || len(g) != len(w) {
		panic("optim: weights, state and gradient do not have the lengths of one row")
	}
}
