package engine

import "github.com/tidemill/tidemill"

// Driver is an engine as a program has it.
type Driver struct {
	Name    string // as a spec names it; a numeric profile begins with it
	Version string // of the library behind it, if there is one
	// Err is why the engine cannot be used here, with the way to get it; nil where it can.
	Err error
	// Profiles are the numeric profiles it offers here, the fastest first.
	Profiles []string
	// Compile makes a model of a spec for features of a shape; nil where Err is not. What the engine
	// does not have is refused with tidemill.ErrInvalid.
	Compile func(s *tidemill.Spec, shape Shape, o Options) (Model, error)
}

// Options of a model.
type Options struct {
	// Profile is the numeric profile to compute with; "" is the driver's fastest.
	Profile string
	// Threads is how many threads one Stepper may use, for engines that have their own; 0 is one.
	Threads int
	// Cores are processors that a Stepper of the native engine may compute on while they are idle;
	// nil is none but its caller's.
	Cores *Cores
	// Graph is the file of a spec whose architecture is a graph.
	Graph []byte
	// Isolator, if there is one, makes the models of engines that may end their process, for predicting and
	// evaluating alone.
	Isolator Isolator
}

// Isolator makes models that compute in another process. Such a model implements io.Closer, and
// the dense parameters that it is given must not change. Its Stepper's Step always fails.
type Isolator interface {
	Compile(s *tidemill.Spec, shape Shape, o Options) (Model, error)
}

// Exported is what a Model whose graph came in a file says beside what every Model does.
type Exported interface {
	// Begin returns the values that tensors have before anything is trained, by tensor.
	Begin() [][]float32
	// Momentum returns that of a tensor that is a moving statistic, and whether it is one: a batch
	// turns its value v into momentum·v + what Result.DenseGrads has for it.
	Momentum(tensor int) (float32, bool)
	// Keyed reports whether a Step needs Inputs.Keys.
	Keyed() bool
}
