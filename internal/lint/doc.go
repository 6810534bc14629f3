// Package lint holds the rules of this repository that neither the compiler nor a general
// linter knows, as tests: who may import whom (imports_test.go), who may touch the protocol's
// state (core_test.go), what Go code does not do here (code_test.go), links that lead somewhere
// and pages that an index names (links_test.go), words that do not belong (words_test.go).
//
// Each rule is a line in a table with its reason, and a violation prints both. Tests look at
// the files that git tracks, or at the whole tree where there is no git.
package lint
