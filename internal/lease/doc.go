// Package lease keeps small records under compare-and-set, and leases made of them. It is
// how Tidemill decides ownership: nobody acts on gossip, and nobody acts on a read.
//
// A [Store] holds entries: a key, a value and a revision. Create and Update succeed for
// exactly one of any number of racers; whoever loses gets [tidemill.ErrExists] or
// [tidemill.ErrConflict], reads again and decides again. A store opened with a TTL forgets an
// entry that is not written for that long. Two stores serve a cluster: records (durable: jobs
// and assignments) and sessions (in memory, with a TTL, so that no fsync delays a renewal).
//
// A [Session] is a lease: it creates its key when the key is free and renews it until its
// context ends. Its Epoch is the revision at which it was acquired and never changes, so a
// larger epoch is a later owner. Its Valid is a statement by the holder's own clock: a
// process that was paused finds itself invalid before it can act as an owner, and the epoch
// that travels with its requests lets everyone else refuse it if it does.
//
// The law: revisions of one bucket only grow, also from one incarnation of the bucket to the
// next. A bucket starts at the microseconds since 1970, which outpace any rate of writes, so
// epochs stay ordered when a memory bucket is lost with its server. Incarnation tells the two
// apart for those who keep what they read.
//
// [Mem] is the store inside one process; natskv keeps it in a JetStream key-value bucket.
// Both pass leasetest; a new one implements the interface and runs that suite.
package lease
