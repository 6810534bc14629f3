// Package report holds what a benchmark found and writes it down: as Go benchmark lines, which
// benchstat reads, as JSON, and as one HTML page with plots that needs nothing from elsewhere.
//
// A [Report] is what one benchmark found in one run: [Result] lines, several of one name where a
// thing was measured several times, and [Plot]s over them. Its law: a figure that was not
// measured is not there; none stands for one that failed.
package report
