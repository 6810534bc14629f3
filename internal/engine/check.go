package engine

import "github.com/tidemill/tidemill"

// Check reports whether the slices of in fit together and, with labels, whether there is one
// for each example. Drivers rely on it and do not check again; what fills Inputs and what
// reads them from elsewhere calls it. The error wraps tidemill.ErrInvalid.
func (in *Inputs) Check(labels bool) error {
	switch {
	case in.N < 0 || in.Fields < 0 || in.Width < 0:
		return tidemill.Invalid("inputs of %d examples, %d fields and %d dense numbers", "", in.N, in.Fields, in.Width)
	case len(in.Dense) != in.N*in.Width:
		return tidemill.Invalid("inputs have %d dense numbers instead of %d×%d", "", len(in.Dense), in.N, in.Width)
	case len(in.Offsets) != in.N*in.Fields+1 || in.Offsets[0] != 0:
		return tidemill.Invalid("inputs have %d offsets instead of %d×%d+1, the first 0", "", len(in.Offsets), in.N, in.Fields)
	case int(in.Offsets[len(in.Offsets)-1]) != len(in.IDs):
		return tidemill.Invalid("inputs have %d ids where the offsets end at %d", "", len(in.IDs), in.Offsets[len(in.Offsets)-1])
	case len(in.Values) != 0 && len(in.Values) != len(in.IDs):
		return tidemill.Invalid("inputs have %d values for %d ids", "", len(in.Values), len(in.IDs))
	case len(in.Weights) != 0 && len(in.Weights) != in.N:
		return tidemill.Invalid("inputs have %d weights for %d examples", "", len(in.Weights), in.N)
	case labels && len(in.Labels) != in.N:
		return tidemill.Invalid("inputs have %d labels for %d examples", "", len(in.Labels), in.N)
	}
	for i := 1; i < len(in.Offsets); i++ {
		if in.Offsets[i] < in.Offsets[i-1] {
			return tidemill.Invalid("offsets of the inputs descend at %d", "", i)
		}
	}
	return nil
}
