package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// MaxAppendBytes bounds the encoded rows of one append, so that a message fits Kafka's default
// limit of 1 MiB. Split larger row sets with rows.Split.
const MaxAppendBytes = 900 << 10

// Config of a Stream. Spec is required; otherwise the zero value is usable.
type Config struct {
	// Spec says where the brokers are, how to talk to them and what a topic's messages are.
	// Files that it names are read by New.
	Spec *tidemill.KafkaSpec
	// PrefetchBytes bounds what a reader asks for ahead of its caller; 0 means 8 MiB.
	PrefetchBytes int
	// AttemptTimeout is how long a request is tried before it fails with
	// tidemill.ErrUnavailable; readers and appends then try again. 0 means 10 s.
	AttemptTimeout time.Duration
	// TransactionTimeout is how long an append that was begun by a process that died may keep
	// readers waiting, unless another append ends it before; 0 means 15 s.
	TransactionTimeout time.Duration
	// Replicas of a topic that has to be made; 0 means the brokers' default.
	Replicas int
	// Dial connects to a broker; nil means TCP, with TLS where the spec says so.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Rand gives the marks by which an append knows its own message again; nil means
	// math/rand/v2's seeded one.
	Rand func() uint64
	// Mem serves the arrays that reading makes; nil means Go's heap.
	Mem memory.Allocator
	// Logger; nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.Spec == nil || len(c.Spec.Brokers) == 0:
		return tidemill.Invalid("no Kafka broker is named", "give HOST:PORT of one or more")
	case c.PrefetchBytes < 0, c.AttemptTimeout < 0, c.TransactionTimeout < 0, c.Replicas < 0:
		return tidemill.Invalid("a negative limit", "use 0 for the default")
	}
	if c.PrefetchBytes == 0 {
		c.PrefetchBytes = 8 << 20
	}
	if c.AttemptTimeout == 0 {
		c.AttemptTimeout = 10 * time.Second
	}
	if c.TransactionTimeout == 0 {
		c.TransactionTimeout = 15 * time.Second
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

// format returns what the topics' messages are.
func (c *Config) format() string {
	if c.Spec.Format == "" {
		return tidemill.KafkaArrow
	}
	return c.Spec.Format
}

// schema returns the declared schema of plain records; every column may be null.
func schemaOf(columns []tidemill.ColumnSpec) (*arrow.Schema, error) {
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		t := rows.TypeOf(c.Type)
		if t == nil {
			return nil, tidemill.Invalid("column %q has the unknown type %q", "use one of "+fmt.Sprint(rows.TypeNames()), c.Name, c.Type)
		}
		fields[i] = arrow.Field{Name: c.Name, Type: t, Nullable: true}
	}
	return rows.Check(arrow.NewSchema(fields, nil))
}
