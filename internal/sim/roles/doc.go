// Package roles runs whole roles under a fake clock: real trainers, workers and parameter
// servers, with their goroutines, timers, queues and retries, in one testing/synctest bubble.
//
// Beneath them are the in-process twins: lease stores, stream and object store in memory, and
// calls that go straight to the other role through a transport that delays and loses them. A
// process crashes (nothing that it says or is told arrives any more, and its leases run out),
// starts again, is cut off from the lease stores, or has its lease taken; a predecessor's late
// writes arrive.
//
// Where [github.com/tidemill/tidemill/internal/sim] replays every step of the cores from a seed,
// here the seed gives the schedule, and the runtime the interleaving. What is checked is the
// same from outside: every committed snapshot counts each row below its cut once, the job ends,
// and at staleness 0 it ends with the same bits whatever happened.
package roles
