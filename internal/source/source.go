// Package source reads and writes streams: topics of P partitions, each a replayable log of
// rows addressed by offset. Drivers live below it (mem, file, nats, kafka) and all pass
// sourcetest.
//
// Positions are the reader's business: a driver keeps no consumer state, so a job's offsets
// live in its snapshots alone.
package source

import (
	"context"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// Stream is a place that holds topics. It is safe for concurrent use.
type Stream interface {
	// Create makes a topic, or returns the existing one when it has the same number of
	// partitions and a compatible schema. partitions 0 means 1, or whatever exists.
	Create(ctx context.Context, topic string, partitions int, schema *arrow.Schema) (Topic, error)
	// Open returns an existing topic, or tidemill.ErrNotFound naming the nearest ones.
	Open(ctx context.Context, topic string) (Topic, error)
	// Topics lists the names of all topics, sorted.
	Topics(ctx context.Context) ([]string, error)
	// Delete removes a topic and its rows.
	Delete(ctx context.Context, topic string) error
	Close() error
}

// Info describes a topic at one moment.
type Info struct {
	Name       string
	Partitions int
	// Former holds the numbers of partitions that the topic had before it grew, oldest first;
	// nil when it never did.
	Former []int
	// Identity changes when the topic is deleted and made again; a restore compares it.
	Identity string
	Schema   *arrow.Schema
	// First and Next bound the offsets held per partition: [First, Next).
	First, Next tidemill.Cut
}

// Topic is an open topic. It is safe for concurrent use.
type Topic interface {
	Info(ctx context.Context) (Info, error)
	// Evolve adds nullable columns at the end. Anything else is refused with ErrInvalid.
	Evolve(ctx context.Context, schema *arrow.Schema) error
	// Grow raises the number of partitions; the new ones begin at offset 0. The present number
	// changes nothing, a lower one is refused with ErrInvalid, and ErrDenied says that this
	// topic cannot grow. Other open topics, of this process or another, know of the new
	// partitions once their Info has said so.
	Grow(ctx context.Context, partitions int) error
	// Append adds rows to a partition and returns their offsets once they are durable. A row
	// set is appended whole or not at all. key, when not empty, makes the append idempotent:
	// appending the same key again, at any time, adds nothing and returns the first call's
	// range. Keys of one prefix (up to the last '/') must be appended in order, their last
	// part being an increasing decimal number. A key that ends in AFTER..NUMBER counts as one that
	// ends in NUMBER, and is appended only where AFTER is the number of the prefix's last key, 0
	// also where there is none; else the append is refused with ErrConflict. So of producers that
	// cut one input differently none appends what another has. A full store refuses with ErrFull.
	Append(ctx context.Context, partition int, rows arrow.RecordBatch, key string) (tidemill.Range, error)
	// LastKey returns the last key appended to a partition under prefix, or "".
	LastKey(ctx context.Context, partition int, prefix string) (string, error)
	// Reader starts at offset, which must lie in [First, Next] of Info.
	Reader(ctx context.Context, partition int, offset int64) (Reader, error)
	// OffsetAt returns the first offset appended at or after t.
	OffsetAt(ctx context.Context, partition int, t time.Time) (int64, error)
	// Retain promises that rows below the cut are no longer needed by the named holder (a
	// job); rows that some holder still needs are never dropped. A nil cut releases the holder;
	// one that is shorter than the topic has partitions needs every row of the others.
	Retain(ctx context.Context, holder string, cut tidemill.Cut) error
	Close() error
}

// Reader reads one partition in order. It belongs to one goroutine.
type Reader interface {
	// Next returns the next rows, at most max of them and at least one. With none at hand it
	// waits until ctx ends or some arrive. Batches follow on each other: each begins where the
	// one before ended. Where offsets have gaps or records that are no rows, a batch may hold no
	// row: its range, which is never empty, is then passed without one. The batch's record
	// carries the topic's newest schema known when it is read; columns added later are null in
	// older rows.
	Next(ctx context.Context, max int) (tidemill.Batch, error)
	// Buffered reports how many rows Next can return without waiting, as far as is known
	// locally, and the partition's end as last heard: the offset that the next appended row
	// will get. At the end of the log, Position() == end.
	Buffered() (rows int, end int64)
	// Position is the offset of the next row that Next returns.
	Position() int64
	Close() error
}
