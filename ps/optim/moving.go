package optim

// Moving is no optimizer: its values are moving statistics, and what comes as a gradient is what a
// batch adds to them, so that v becomes Momentum·v + g. The result does not depend on the learning
// rate, nor on what v was when g was computed. It takes the place of another rule and leaves that
// one's state as it is.
type Moving struct {
	Rule
	Momentum float32
}

// Apply implements Rule.
func (r Moving) Apply(w, _, g []float32, _ float32) {
	for i, v := range w {
		w[i] = float32(r.Momentum*v) + g[i]
	}
}
