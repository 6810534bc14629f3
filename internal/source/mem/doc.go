// Package mem is a stream in memory: for tests, for simulation, and as the smallest complete
// driver to read. Nothing outlives the process.
//
// A Stream holds topics; a partition is a slice of pieces, each the rows of one append.
// Readers wait on a channel that an append closes. Time enters by Config.Now alone, and
// identities are counted, so the same calls give the same answers.
package mem
