// Package produce puts files, or what comes down a pipe, into a topic, and is what `tidemill
// produce` runs.
//
// Run reads rows with package source/file, makes the topic or grows its schema, deals the
// rows out to partitions and appends them.
//
// Its one law: run again, it goes on. Every append carries a key: the input's identity and
// the number of the input row after its last one. A run begins by asking each partition for
// the last key under that identity and leaves out the rows before it, so that however a run
// ended, and however the next one cuts its batches, no row is there twice and none is missing. A
// key also says which one it follows, so that this holds of runs at the same time, too: each adds
// what the others have not.
package produce
