// Package bench runs whole clusters of real processes of the program and measures them.
//
// [Chaos] keeps a cluster under faults of every kind (processes killed, paused and stopped, links cut,
// slow and lossy, a disk without room) while a producer appends rows, a job of their counts is
// trained and clients ask for predictions, and then compares what was trained with what was
// appended, row by row. [Recovery] measures how long training stands still after a kill.
// [Staleness] compares synchronous, bounded and asynchronous training on real data, in one process.
// [Train] measures one pass over a stream of clicks in one process: speed, quality, memory.
//
// Its one law: a result is what was counted, never what was expected; what cannot be counted
// makes the run fail, and everything that is needed to find out why is left in a directory.
package bench
