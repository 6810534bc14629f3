// Package enginetest is the conformance suite of engines. A driver's test is one line,
//
//	enginetest.Run(t, compile)
//
// or, for a driver whose arithmetic is less exact or which cannot avoid allocating, a Suite
// with its own Tolerance.
//
// The suite compiles every kind of architecture with every loss that it allows, over features
// that are sparse, dense and both, and feeds it batches with multi-hot and empty fields,
// repeated ids, values and weights other than 1, and weights of 0. It compares predictions
// and losses with a plain float64 implementation of engine.Plan's formulas, and gradients
// with central differences of that implementation, which are good to about nine digits and so
// leave the driver's own rounding as the only error. Then it checks what holds for every
// driver: a batch's gradient is the weighted sum of its parts', Predict and Step agree bit for
// bit, the same batch gives the same bits on any stepper whatever came before, numbers that
// are not finite show up as such and nothing panics, inputs and parameters are only read, and
// the steady state allocates nothing.
//
// Batches come from a seed that is part of a subtest's name.
package enginetest
