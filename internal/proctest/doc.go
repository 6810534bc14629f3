// Package proctest runs programs as real processes in tests: Build one, Start it as often as
// the test needs, wait until each says that it is ready, read its metrics, and Kill it as a
// crash does.
//
// A Network stands between processes on one machine: each gets a Port that the others dial,
// and Cut holds back everything between two groups of them, as a broken cable does, until
// Heal. Nothing is closed, refused or answered meanwhile; what was under way arrives late.
//
// Its one law: no process outlives its test, not even one that is stopped by its time limit
// (on Linux the kernel sees to that).
package proctest
