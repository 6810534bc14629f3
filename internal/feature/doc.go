// Package feature turns columns of a stream into model inputs. Training and serving run the
// same code, so there is no skew between them.
//
// Compile checks a spec against a schema and yields a Plan, which is immutable and safe for
// concurrent use. For each batch a caller then
//
//	bad := plan.Check(rows, true)        // rows that cannot be used
//	rows = feature.Drop(rows, bad)       // without them
//	plan.Sparse(w, &in, rows, state)     // ids, before parameters are pulled
//	plan.Numeric(w, &in, rows, state)    // dense numbers, with the state that came with the pull
//	plan.Labels(&in, rows)               // training only
//
// where w is the goroutine's own Workspace. The loops are typed and run over Arrow's value
// slices; once the buffers have grown, nothing is allocated.
//
// # What a feature becomes
//
// A number without bucketize is one dense column. Everything else is a sparse field: a 64-bit
// id per value, hashed with a seed made from the feature's name, so that one table holds all
// fields. A null, an unknown vocabulary entry and a value whose buckets are not learned yet
// each have an id of their own. All values are 1, so Inputs.Values stays empty.
//
// # What is learned
//
// Standardize keeps running moments; quantile buckets and learned vocabularies keep the first
// learn_rows values and then freeze. A batch's contribution is a delta (AppendDelta) that
// travels with its push and is merged into the one State at its home, in partition order
// (State.Merge): the law is that the same deltas in the same order give the same bits. What
// Sparse and Numeric need of the state goes back to workers with their pulls (AppendPublic).
// Ids that depend on learned edges contain a hash of the edges, so a weight never changes its
// meaning. The bytes are described in docs/format/transform-state.md.
package feature
