// Package fileblob keeps a store in a directory: a driver of gocloud.dev/blob whose writes
// survive a power cut.
//
// A blob is the file of its name. It is written to a temporary file, flushed to the disk,
// given its name, and the folder is flushed; only then does the write return, and only then
// does any read through this package see it. So a record that somebody acted upon is never
// taken back, and a reader never sees half a blob. A create-only write (blob.WriterOptions
// IfNotExist) gives the name with link(2), which fails if it exists: of any number of
// goroutines and processes exactly one succeeds.
//
// Names are relative, separated by '/', and stay inside the directory: empty segments, "."
// and "..", control characters, '\' and ':' are refused. FORMAT, LOCK and .tmp at the top are
// the package's own:
//
//	FORMAT   the number of the directory's format; a newer one than the program's is refused
//	LOCK     locked by the one process that may write (LockDir)
//	.tmp/    files being written; emptied when the directory is opened
//
// Attributes other than size and time of modification are not kept: metadata and the like are
// refused rather than dropped, and the content type is always application/octet-stream.
package fileblob
