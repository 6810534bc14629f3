// Package worker turns rows of a stream into gradients: it reads a batch, transforms it, pulls
// the parameters that the batch touches, predicts (before the label is used), computes the
// gradient and pushes it.
//
// A Worker runs one loop for each partition that assignments give to it. What a loop may do
// and when is decided by Core, a step function that the simulator runs too; loop.go carries
// out its effects, batch.go computes. A worker keeps nothing that would be missed: whoever
// takes over a partition finds everything at the parameter servers and the trainer.
package worker
