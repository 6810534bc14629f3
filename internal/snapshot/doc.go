// Package snapshot keeps a job's state and the versions made from it, as open files in an
// object store: Arrow IPC for numbers, JSON for records.
//
// A store is a *blob.Bucket everywhere; OpenBucket makes one from a URL, fileblob keeps one
// in a directory, remoteblob reaches one over gRPC. Blobs are written once, under names that
// are never used again, and what points at them is written after them:
//
//	jobs/JOB/snapshot/000000012/g3-e41-a7-node1-table-00-wide-s00000.arrow   rows that changed
//	jobs/JOB/snapshot/000000012/g3-e41-a7-node1-dense.arrow   blocks of dense tensors
//	jobs/JOB/snapshot/000000012/g3-e41-a7-node1-aux.arrow     everything else, by name
//	jobs/JOB/snapshot/000000012/manifest.json                      the commit
//	models/MODEL/version/000000007/…, manifest.json last           what serving loads
//	models/MODEL/decision/000000007/000000001.json                 the gate's word on it
//	models/MODEL/champion/000000003.json                           what serves
//
// Each parameter server calls WritePart for its shards and hands the Part to the trainer,
// which collects them in a Manifest and appends that to the job's Chain: that one create-only
// write is the commit point. A manifest also names the blobs of older snapshots that hold what
// did not change. ReadParts delivers the state back, Export turns it into
// VersionFiles, WriteVersion and ReadVersion store and load those.
//
// The one law: no value is used before the bytes that hold it are verified. A manifest carries
// the size and SHA-256 of every blob and a checksum of itself, so a flipped bit anywhere is an
// error that wraps tidemill.ErrCorrupt and names the blob. And the same state gives the same
// bytes: rows are sorted by id, names by order, nothing depends on a map or a clock.
//
// A Digest compares states rather than bytes: it is a sum over rows and blocks that does not
// depend on shards, files or processes.
//
// Formats: docs/format/snapshot.md and docs/format/version.md.
package snapshot
