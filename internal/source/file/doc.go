// Package file reads rows from files: csv, tsv, jsonl, libsvm, Arrow IPC and, where the
// program brings the reader along, Parquet; gzipped or not.
//
// OpenRows streams one file as record batches, which is what producing wants; New makes a
// read-only stream of whole files, one partition each, the offset being the row number,
// which is what replaying wants.
//
// Its one law: a row is read as it stands or named as bad, with file, line and column. A
// schema that is not given is inferred from the first rows (int64, float64, bool, UTC
// timestamp, utf8), and a later row that does not fit it is a bad row, not a reason to guess
// again. An empty field is null. NaN and infinities written in text are bad rows: a missing
// value is an empty field.
package file
