// Package bench measures the program: the suite that [All] runs, and whole clusters of its processes.
//
// The suite: [Trains] (passes over a stream), [Stream], [Params] (a parameter server), [Kernels],
// [Snapshots], [Serve], [Swap], [Freshness] (how soon events are served, and what that is worth) and
// [Scale] return what package report writes down as Go benchmark lines, JSON or a page. Package
// workload makes their rows, package peers holds what other systems are run with on the same ones.
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
