// Package inspect looks into an object store without changing it: which jobs, snapshots,
// models and versions it holds, and whether their bytes are what was written.
//
// Open finds the store of a path, Look reads its records, and with Options.Verify every blob
// that they name. A damaged record or blob does not end the look: it is listed in
// Report.Damage, and the rest is reported as usual.
//
// Its one law: nothing is written and nothing is locked, so a store in use may be inspected.
// What is committed while it looks may be missing from the report.
package inspect
