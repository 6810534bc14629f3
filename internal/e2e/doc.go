// Package e2e holds tests of whole jobs: a node in this process with all its roles, a topic
// filled with rows, a spec submitted, and what comes of it read from where an operator would
// read it. It has no code of its own.
//
//	ratings_test.go   the example job on MovieLens reaches its figure
//	same_test.go      two ways, same answer: slots, partitions, cadences, crashes, processes
//	learned_test.go   the same for transforms that learn
//	models_test.go    every architecture learns behind the gate, and serves what it learned
//	bad_test.go       rows that cannot be used are put aside, listed, and counted
package e2e
