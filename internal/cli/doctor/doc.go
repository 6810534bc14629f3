// Package doctor looks for what keeps a node from running well: a data directory that cannot
// be written to, a slow or full disk, ports in use, nodes that do not answer, jobs whose
// owners are gone, a clock that is off.
//
// Examine runs all checks and gives each a Finding: ok, warn or fail, what was seen, and what
// to do about it.
//
// Its one law: it changes nothing that it did not make itself. The file that measures the disk
// is its own and is removed.
package doctor
