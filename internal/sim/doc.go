// Package sim runs a whole cluster in one goroutine: a seed replays a run exactly.
//
// The job counts: every parameter is the number of times its id was seen, beside a value that
// depends on the order and the parameters of every step. After each committed cut the World
// counts every row below it (the ledger) and, at staleness 0, computes the manifest's schedule
// once more, serially, and compares every value.
//
// Real code: the step cores of worker, ps and trainer, which hold all protocol state; the gate's
// Book; and everything of internal/snapshot that runs over records: the chains, manifests,
// fences, versions, decisions, champions, savepoints, what is compacted and what is collected.
// They work on a bucket whose writes fail, lie and are lost; restores, collectors and savepoints
// one access at a time, so that two collectors get in each other's way.
//
// Modelled, as thinly as the runners are around the cores: the sessions and watches of the
// lease store, the stream and its producers, the parts of a snapshot (counts instead of Arrow;
// what changed, on top of what is stored),
// what the validator does around the Book (losses are made up), the serving replicas, and the
// clients. A model of a runner repeats its order of effects, its retries and what it does when
// an answer is lost.
//
// What happens to the cluster is a schedule of operations (Op), drawn from the seed or written
// in testdata: crashes, pauses, cut links, lost, repeated and overtaking messages, disks that
// are slow, full, fail or lie, clocks that jump, members that join, leave and come back, and
// what clients ask for. The invariants (checks) look from outside: at what is stored, applied,
// acknowledged and served.
package sim
