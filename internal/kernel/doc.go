// Package kernel holds the float32 inner loops of engines and optimizers. Its verbs are
// products of vectors and matrices (Dot, Axpy, FactorGrad, and Gemm's NN, NT and TN) and the
// functions that turn scores into predictions and losses (Sigmoid, LogLoss, Softmax, ReLU).
//
// The products are methods of a Level, the instruction level that a caller has chosen among
// Levels: Generic is plain Go, the others are assembly that the module in gen writes. The tag
// noasm leaves Generic alone.
//
// Panels is a right operand laid out once for many products, in float32 or rounded to bfloat16;
// Gemm's Dense, Back and WeightGrad are a layer and its gradients on it.
//
// Its one law is that bits are a function of the level and the arguments alone: not of the
// number of threads, not of the rows computed beside a row, not of what else the processor
// offers. So
//
//   - the order of each sum is written in the function's comment, and blocking keeps it;
//   - in plain Go, products that are added are rounded first, by an explicit conversion, so
//     that a compiler which could fuse them (arm64, GOAMD64=v3) does not; the other levels
//     always fuse them;
//   - Exp, Log, Log1p and CosPi are written out here, because math.Exp uses fused
//     instructions on some processors of an architecture and not on others.
//
// The destination comes first, lengths are checked at the door (a wrong one is a programming
// error and panics), nothing is allocated, and NaN goes in and comes out. Unless a comment
// says otherwise, the destination must not overlap a source.
//
// Every function has a plain Go loop, the reference that the levels are tested against.
//
//go:generate go run -C gen . -pkg kernel -out ../asm_amd64.s -stubs ../asm_amd64.go
package kernel
