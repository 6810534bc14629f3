// Package tidemill is the vocabulary that every part of Tidemill shares: offsets and
// cuts, the job spec, parameter layouts, versions and decisions, and the kinds of error.
// It starts no goroutine and does no I/O.
//
// Tidemill trains models on event streams and serves only the versions that proved
// themselves. One example travels
//
//	source → worker → ps → trainer (gate) → serving → client
//
// and imports point the same way. Read stream.go for positions in a stream, model.go for
// what a job is, param.go for what is learned, version.go for what is served, and
// errors.go for what a caller does when something fails.
package tidemill
