// Package examples carries the example jobs and the real data that the demo replays. Each
// folder has a job.yaml and a README.md with two commands; data comes with its terms.
package examples

import "embed"

// FS holds the folders.
//
//go:embed intrusion power
var FS embed.FS
