// Package rebuild makes a version again from the stream and compares it with the one that is
// stored. It takes the nearest snapshot before the version that is still whole, reads the
// schedules of the manifests after it, and goes through the same rounds once more in one
// process: the parameter server and the worker are those that trained, and only the trainer's
// place is taken by a replayer, which grants what was granted then.
//
// The law: equal means equal to the bit, in the digest of the state and in every file that
// serving loads. Where that cannot be found out (rows that the stream dropped, another numeric
// profile, a job that was not synchronous, snapshots that were collected) Result says so and
// why; it never compares something easier instead.
//
// The store is read, but for a savepoint that holds the snapshot while it is copied. What is
// made goes into a bucket of its own.
package rebuild
