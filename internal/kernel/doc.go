// Package kernel holds the float32 inner loops of engines and optimizers. Its verbs are
// products of vectors and matrices (Dot, Axpy, GemmNN, GemmNT, GemmTN) and the functions that
// turn scores into predictions and losses (Sigmoid, LogLoss, Softmax, ReLU).
//
// Its one law is that bits are a function of the arguments alone: not of the number of
// threads, not of the rows computed beside a row, not of what the processor offers. So
//
//   - the order of each sum is written in the function's comment, and blocking keeps it;
//   - products that are added are rounded first, by an explicit conversion, so that a
//     compiler which could fuse them (arm64, GOAMD64=v3) does not;
//   - Exp, Log, Log1p and CosPi are written out here, because math.Exp uses fused
//     instructions on some processors of an architecture and not on others.
//
// The destination comes first, lengths are checked at the door (a wrong one is a programming
// error and panics), nothing is allocated, and NaN goes in and comes out. Unless a comment
// says otherwise, the destination must not overlap a source.
//
// Every function is a plain Go loop, and stays so as the reference when faster versions for
// one instruction set are added beside it.
package kernel
