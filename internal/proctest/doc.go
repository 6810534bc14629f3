// Package proctest runs programs as real processes in tests: Build one, Start it as often as
// the test needs, wait until each says that it is ready, read its metrics, and Kill it as a
// crash does.
//
// A Network (internal/faultnet) stands between processes, and can be cut and healed.
//
// Its one law: no process outlives its test, not even one that is stopped by its time limit
// (on Linux the kernel sees to that).
package proctest
