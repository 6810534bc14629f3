// Package progress accumulates progressive validation: how good predictions were that were
// made before their label was used (Blum, Kalai, Langford, COLT 1999: "Beating the hold-out").
//
// A worker records one Outcome per example and sends them with its push; the job's home
// shard adds them to a State exactly once, in partition order; whoever reports reads a State.
// Windows of example offsets let a report leave out the beginning, and merge pairwise when
// there are too many, so memory is bounded.
package progress
