package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// recordFormat is how plain records become rows.
type recordFormat struct {
	schema *arrow.Schema
	format file.Format
	avro   *avroSchema // format avro
	header bool        // Avro records begin with a registry's five bytes
}

func newRecordFormat(spec *tidemill.KafkaSpec) (*recordFormat, error) {
	f := &recordFormat{header: spec.Confluent}
	var err error
	if len(spec.Schema) > 0 {
		if f.schema, err = schemaOf(spec.Schema); err != nil {
			return nil, err
		}
	}
	switch spec.Format {
	case tidemill.KafkaJSON:
		f.format = file.JSONL
	case tidemill.KafkaCSV:
		f.format = file.CSV
	case tidemill.KafkaAvro:
		if f.avro, err = parseAvro(spec.Avro); err != nil {
			return nil, err
		}
		if f.schema, err = f.avro.bind(f.schema); err != nil {
			return nil, err
		}
	default:
		return nil, tidemill.Invalid("unknown record format %q", "use arrow, json, csv or avro", spec.Format)
	}
	if f.schema == nil {
		return nil, tidemill.Invalid("records of format %s need a schema", "list name and type of each column under stream.kafka.schema", spec.Format)
	}
	return f, nil
}

func (f *recordFormat) decoder(mem memory.Allocator) (recordDecoder, error) {
	if f.avro != nil {
		return newAvroDecoder(f.avro, f.schema, f.header, mem), nil
	}
	return file.NewRecords(f.format, f.schema, mem)
}

// plainTopic implements source.Topic for plain records, whose offsets are Kafka's.
type plainTopic struct {
	s       *Stream
	name    string
	cluster string
	id      topicID
}

// parts returns 0, 1, … for each partition that the topic has now, or tidemill.ErrNotFound when
// it is no longer this one.
func (t *plainTopic) parts(ctx context.Context) ([]int, error) {
	if err := t.s.check(); err != nil {
		return nil, err
	}
	m, err := t.s.c.one(ctx, t.name)
	if errors.Is(err, tidemill.ErrNotFound) || err == nil && m.id != t.id {
		return nil, gone(t.name)
	}
	parts := make([]int, len(m.leaders))
	for p := range parts {
		parts[p] = p
	}
	return parts, err
}

// has returns an error unless the topic has partition p.
func (t *plainTopic) has(ctx context.Context, p int) error {
	parts, err := t.parts(ctx)
	if err != nil {
		return err
	}
	return source.CheckPartition(t.name, p, len(parts))
}

// Info implements source.Topic.
func (t *plainTopic) Info(ctx context.Context) (source.Info, error) {
	parts, err := t.parts(ctx)
	if err != nil {
		return source.Info{}, err
	}
	in := source.Info{Name: t.name, Partitions: len(parts), Identity: identity(t.cluster, t.id), Schema: t.s.plain.schema}
	first, err := t.s.c.list(ctx, t.name, parts, earliest, true)
	if err != nil {
		return source.Info{}, err
	}
	next, err := t.s.c.list(ctx, t.name, parts, latest, true)
	if err != nil {
		return source.Info{}, err
	}
	in.First, in.Next = first, tidemill.Cut(first).Max(next)
	return in, nil
}

// Evolve implements source.Topic: the schema is the spec's.
func (t *plainTopic) Evolve(_ context.Context, schema *arrow.Schema) error {
	if rows.Same(t.s.plain.schema, schema) {
		return nil
	}
	return tidemill.Invalid("topic %q: its schema is declared", "add the column under stream.kafka.schema", t.name)
}

// Grow implements source.Topic by refusing: the topic is its owner's. What the owner adds, Info
// says.
func (t *plainTopic) Grow(ctx context.Context, partitions int) error {
	parts, err := t.parts(ctx)
	if err != nil {
		return err
	}
	if err := source.CheckGrow(t.name, len(parts), partitions); err != nil || partitions == len(parts) {
		return err
	}
	return fmt.Errorf("topic %q: %w: its partitions are added with Kafka's own tools", t.name, tidemill.ErrDenied)
}

// Append implements source.Topic: it refuses.
func (t *plainTopic) Append(context.Context, int, arrow.RecordBatch, string) (tidemill.Range, error) {
	return tidemill.Range{}, t.s.readOnly("append to topic " + t.name)
}

// LastKey implements source.Topic: it refuses, since nothing is appended.
func (t *plainTopic) LastKey(context.Context, int, string) (string, error) {
	return "", t.s.readOnly("append to topic " + t.name)
}

// Reader implements source.Topic.
func (t *plainTopic) Reader(ctx context.Context, p int, offset int64) (source.Reader, error) {
	if err := t.has(ctx, p); err != nil {
		return nil, err
	}
	start, end, err := t.s.c.bounds(ctx, t.name, p)
	if err != nil {
		return nil, err
	}
	if offset >= 0 && offset < start {
		return nil, expired(t.name, p, offset, start)
	}
	if err := source.CheckOffset(t.name, p, offset, start, end); err != nil {
		return nil, err
	}
	return newPlainReader(t, p, offset, end)
}

// OffsetAt implements source.Topic. Times are the records' own, to the millisecond.
func (t *plainTopic) OffsetAt(ctx context.Context, p int, at time.Time) (int64, error) {
	if err := t.has(ctx, p); err != nil {
		return 0, err
	}
	got, err := t.s.c.list(ctx, t.name, []int{p}, millis(at), true)
	if err != nil {
		return 0, err
	}
	_, end, err := t.s.c.bounds(ctx, t.name, p)
	if got[0] < 0 || got[0] > end {
		return end, err
	}
	return got[0], err
}

// Retain implements source.Topic as arrowTopic's does: the topic's owner decides what is kept.
func (t *plainTopic) Retain(ctx context.Context, holder string, cut tidemill.Cut) error {
	if err := source.CheckName("holder", holder); err != nil {
		return err
	}
	if cut == nil {
		return t.s.check()
	}
	parts, err := t.parts(ctx)
	if err != nil {
		return err
	}
	if err := source.CheckCut(t.name, cut, len(parts)); err != nil {
		return err
	}
	first, err := t.s.c.list(ctx, t.name, parts, earliest, true)
	if err != nil {
		return err
	}
	for p := range cut {
		if cut[p] < first[p] {
			return source.Dropped(t.name, p, cut[p], first[p])
		}
	}
	t.s.tellGroup(ctx, t.name, t.id, cut)
	return nil
}

// Close implements source.Topic; it holds nothing.
func (t *plainTopic) Close() error { return nil }
