// Package spec reads a job's YAML into a tidemill.Spec: every problem is reported at once,
// each with file, line, column and the nearest valid name.
//
// Parse reads, fills in the defaults that model.go documents, and checks what can be checked
// without the stream. Document.Check then checks the columns against the topic's schema. A
// spec that was built in Go, or stored as JSON, goes through Defaults and Check instead.
//
// The keys are the yaml tags of tidemill.Spec. Three things are written in a form of their
// own: an optimizer is a mapping with its kind as the only key ({ftrl: {alpha: 0.1}}), a
// snapshot cadence is every: 2s or every: 500 rows, and durations are text with a unit.
//
// A zero in a Spec means "the default", so a zero written where the default is another value
// is refused rather than silently replaced.
//
// No other package knows YAML. What features, labels and columns allow is internal/feature's
// to say; this package gives it positions.
package spec
