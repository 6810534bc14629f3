package nats

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// MaxAppendBytes bounds the encoded rows of one append. Split larger row sets with
// rows.Split: a message well under 1 MiB fits every server's default.
const MaxAppendBytes = 900 << 10

// Config of a Stream. The zero value is usable.
type Config struct {
	// MaxPartitionBytes bounds what a partition keeps on disk; at the bound appends are
	// refused with tidemill.ErrFull. 0 means as much as the server's store has left:
	// partitions then reserve it in steps as they fill.
	MaxPartitionBytes int64
	// Replicas of every partition in a cluster; 0 means 1.
	Replicas int
	// PrefetchBytes bounds what a reader holds ahead of its caller; 0 means 8 MiB.
	PrefetchBytes int
	// AttemptTimeout is how long one request may take before it is tried again while the
	// caller's context lasts; 0 means 5 s.
	AttemptTimeout time.Duration
	// Rand gives identities and the marks by which an append knows its own message again;
	// nil means math/rand/v2's seeded one.
	Rand func() uint64
	// Mem serves the arrays that reading makes; nil means Go's heap.
	Mem memory.Allocator
	// Logger; nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.MaxPartitionBytes < 0, c.PrefetchBytes < 0, c.AttemptTimeout < 0, c.Replicas < 0:
		return tidemill.Invalid("a negative limit", "use 0 for the default")
	case c.MaxPartitionBytes > 0 && c.MaxPartitionBytes < minReserve:
		return tidemill.Invalid("a partition of %d bytes", "allow at least 65536", c.MaxPartitionBytes)
	case c.PrefetchBytes > 0 && c.PrefetchBytes < 2*maxMessageBytes:
		return tidemill.Invalid("a prefetch of %d bytes is less than two messages", "allow at least 4194304", c.PrefetchBytes)
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.PrefetchBytes == 0 {
		c.PrefetchBytes = 8 << 20
	}
	if c.AttemptTimeout == 0 {
		c.AttemptTimeout = 5 * time.Second
	}
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	if c.Mem == nil {
		c.Mem = memory.DefaultAllocator
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

const (
	// maxMessageBytes is more than any message with its subject and headers takes.
	maxMessageBytes = 2 << 20
	// minReserve is the least that a partition is given.
	minReserve = 64 << 10
	// firstReserve and maxStep shape how an unbounded partition grows: doubling, then by steps.
	firstReserve = 16 << 20
	maxStep      = 512 << 20
)
