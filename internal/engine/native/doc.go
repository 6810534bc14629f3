// Package native is the engine in Go: the architectures of engine.Plan computed on the loops
// of internal/kernel at one of its instruction levels, on any platform and without cgo. It is the reference that other engines
// are compared with.
//
// Compile turns a spec into a Model; each goroutine takes a Stepper from it and calls Predict
// or Step with batches. A Stepper's buffers grow to the largest batch seen and are then
// reused: nothing is allocated in the steady state, and a batch of one costs about what its
// ids and layers cost.
//
// Its one law: every sum runs over examples, then ids, then factors in ascending order, in
// float32, on one goroutine, however many goroutines the sums are dealt out to. (Of the products
// of layers in bfloat16, two and two factors are exchanged; see kernel.BFloat16.) So the prediction of a row does not depend on the rows beside
// it, Predict and Step agree bit for bit, and equal batches give equal bits on every machine
// with the same Profile.
//
// Numbers that are not finite go through: a NaN parameter or a class out of range gives its
// example a NaN loss and the parameters it touched NaN gradients, and nothing panics.
// Whoever pushes gradients checks them. Slices that do not fit together are programming
// errors, and panic.
package native
