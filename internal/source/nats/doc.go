// Package nats is the stream on NATS JetStream, embedded or the user's own: the same code,
// on a *nats.Conn that internal/broker or anybody else made.
//
// A topic is a record in the key-value bucket TIDEMILL_TOPICS (identity, partitions, every
// schema it ever had) and one JetStream stream per partition. A message holds the rows of
// one append, with the offset of its first row, so that a partition's offsets are dense and
// the message that holds an offset is found by a search over sequences.
//
// Its one law: the log is the truth. The next offset is read from the last message, and an
// append is published under the condition that this message is still the last one; whoever
// loses that race reads the tail again. The last key of a prefix is the last message under
// the prefix's own subject, so what was appended is known from what is stored, however the
// process that appended it ended.
//
// The bytes are described in docs/format/stream-message.md.
package nats
