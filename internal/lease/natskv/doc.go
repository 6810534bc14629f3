// Package natskv keeps a lease.Store in a JetStream key-value bucket, embedded or remote.
//
// An entry is the last message of the subject $KV.<bucket>.<key>; its revision is the
// message's sequence in the stream. Every write is one publish that names the sequence it
// expects the subject to be at, so the server decides each race. In a bucket with a TTL every
// write carries it again (the client library's Update does not), and when it runs out the
// server leaves a marker that watchers receive.
//
// Three things differ from what the client library would make by itself. The stream starts at
// a sequence taken from the clock, so that revisions keep growing when a memory bucket is lost
// and made again. Reads go to the stream's leader, not to any replica. And a write whose answer
// was lost is repeated under the id of the first attempt, then found by that id, so an unclear
// outcome becomes a clear one while the context lasts.
//
// A bucket lost with its server is made again by the first that needs it; Incarnation, a
// random name kept in the bucket beside the entries, changes then.
package natskv
