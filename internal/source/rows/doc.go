// Package rows is what every stream driver does with Arrow record batches: it checks and
// grows schemas, fits rows to a schema, measures, splits, picks and joins them, and turns
// them into bytes and back.
//
// Its one law: a value goes through unchanged or is refused. Nothing here casts, rounds or
// fills in anything but null for a column that a row was written without.
//
// The bytes are described in docs/format/stream-message.md.
package rows
