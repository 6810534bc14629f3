// Package sim runs the cores of worker, ps and trainer in one goroutine over a simulated
// network, store and lease table. A seed replays a run exactly.
//
// The job counts: every parameter is the number of times its id was seen, beside a value that
// depends on the order and the parameters of every step. After each committed cut the World
// checks that the counts are exactly those of the rows below the cut (the ledger), that no
// two members hold the same thing at the same epoch, and that nothing is served that was not
// published. At staleness 0 the values at the end must not depend on the faults.
package sim
