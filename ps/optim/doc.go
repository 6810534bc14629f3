// Package optim turns gradients into parameters. A Rule is an optimizer as a pure function of
// a row: its weights, its state and a gradient go in, weights and state are changed in place.
// A block of a dense tensor is a row like any other.
//
// New chooses the Rule that a spec asks for, with defaults filled in; the types are exported,
// so that a program can also write FTRL{Alpha: 0.1, Beta: 1} itself. Init prepares the state
// of a row that nobody has trained, Apply is one update, and Scale is what a schedule
// multiplies the learning rate with, a function of the number of examples trained.
//
// The laws, which the tests check for every Rule:
//
//   - Values of a row are updated one by one: cutting a row into parts gives the same bits.
//   - Finite in, finite out: what would overflow stays at the largest float32. (NaN comes
//     out where NaN goes in; whoever pushes gradients has looked for it.) Moments that decay
//     become 0 rather than denormal.
//   - Init changes no weight, and neither does an FTRL update with a gradient of zero.
//   - Nothing is allocated, and nothing but the arguments decides the bits: no product is
//     fused with the sum it goes into, on any platform.
//
// State is float32 like the weights, laid out group by group (all first moments, then all
// second moments), and belongs to the row's owner.
package optim
