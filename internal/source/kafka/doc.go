// Package kafka is the stream on Apache Kafka: topics whose messages are Tidemill's own (format
// arrow), and topics of plain JSON, CSV or Avro records that somebody else produces.
//
// A topic of format arrow is a Kafka topic whose messages are frames (package frame), and a
// second, compacted one beside it, its index, with the topic's schemas and the last append under
// each key prefix. Offsets count rows, as everywhere: a frame says which ones it holds, so what
// Kafka puts between them (commit markers, aborted transactions) does not matter. An append is a
// transaction over both topics by the one producer that holds the partition's transactional id;
// whoever takes that id over fences the former holder. So no two appends get the same offsets,
// and an append is known by its key for ever.
//
// A topic of plain records is only read. A record is a row and its offset is Kafka's, so offsets
// have gaps where Kafka has markers. A record that cannot be decoded is a bad record of its
// batch. Rows that vanish from the middle of the log, by compaction, are an error unless the
// configuration accepts them.
//
// Positions are the reader's: partitions are assigned by hand, reading is read-committed, an
// offset that the log no longer holds is an error, never a reset. A consumer group's offsets are
// written where asked for, for dashboards alone, and never read.
//
// The bytes are described in docs/format/stream-message.md.
package kafka
