// Package predict answers with a version: transforms, look-up of frozen rows and forward pass
// in one. The trainer's validator and serving both run it, so what was judged is what serves.
//
// Load turns a version's files into a Model, which is immutable and safe for concurrent use.
// Each goroutine takes a Scorer and calls Predict, or Losses where labels are known; a Scorer
// reuses its buffers, so that a batch of any size allocates nothing in the steady state.
//
// Its one law: a version answers exactly as the snapshot it was made from would have. An id
// that the version has no row for gets the initial values that training would have given it,
// or its shard's fallback row where that shard was full.
package predict
