// Package ps keeps the parameters of jobs while they are trained: parameter servers.
//
// A Server owns the shards that assignments give to its member: their part of every sparse
// table, their blocks of dense tensors, and in one of them, the home shard, what a job learns
// beside parameters. Workers pull what a batch needs and push its gradient, tagged with the
// range of offsets that it came from; the server applies it by the job's optimizer (ps/optim).
// The trainer asks for a snapshot at a cut: the state is marked copy-on-write when the cut is
// reached, training goes on, and what was marked is written behind it.
//
// The law: each example's gradient is applied exactly once. Core decides that, a step function
// without I/O, clock or goroutine that the simulator runs too: who may push (generations and
// epochs), what was applied (the ledger of ranges), and what waits (pulls of the next round,
// entries of a round that is not complete, a snapshot whose cut is not reached). At staleness
// 0 a round is applied in the order of partitions once all its entries are there, so the bits
// do not depend on who came first. A pull inserts nothing: an unknown id has its initial
// values, and only applying a push makes a row of it.
//
// job.go carries out what Core decides, under one lock a job; table.go (rows in cells.go,
// found by index.go, many at a time by lookup.go) and block.go hold the
// numbers; server.go follows assignments and restores snapshots. Server is the in-process form
// of wire.PS. Register offers one over gRPC (grpc.go), NewClient reaches it (client.go); the
// messages are described in docs/format/rpc.md.
package ps
