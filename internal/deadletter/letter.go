// Package deadletter says what a dead-letter topic looks like: where the rows that a job put
// aside are, with where they came from and why. It does no I/O; the trainer appends and reads.
//
// A row keeps its own columns, all nullable here, and has columns more whose names begin with
// "dead_". A record that could not be decoded has those alone, and its bytes in dead_raw.
package deadletter

import (
	"fmt"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// Topic names the dead-letter topic of a job. It has one partition.
func Topic(job string) string { return job + ".dead" }

// ReplayTopic names the topic that a lineage of a job reads its replayed rows from. It has one
// partition.
func ReplayTopic(job, lineage string) string {
	return job + ".replay-" + lineage[:min(8, len(lineage))]
}

// MaxJobLength bounds a job's name, in bytes, so that its topics can be named.
const MaxJobLength = 128 - len(".replay-01234567")

// Letter is what is known of a row that was put aside.
type Letter struct {
	Lineage   string // of the job that put it aside
	Topic     string // where the row was first read, also when it was put aside again
	Partition int
	Offset    int64
	Cause     string // tidemill.BadValue and so on
	Reason    string
	Time      time.Time // of the snapshot that lists it, in milliseconds
	Attempts  int64     // how often it was put aside, from 1 on
	Part      int       // the job's partition, and the offset in what that reads, as the manifest
	At        int64     // lists them: where it was put aside this time
	Raw       []byte    // as it is stored, where it cannot be decoded; else nil
}

var fields = []arrow.Field{
	{Name: "dead_lineage", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "dead_topic", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "dead_partition", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "dead_offset", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "dead_cause", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "dead_reason", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "dead_time", Type: &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}, Nullable: true},
	{Name: "dead_attempts", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "dead_job_partition", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "dead_job_offset", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
	{Name: "dead_raw", Type: arrow.BinaryTypes.Binary, Nullable: true},
}

const prefix = "dead_"

// Has reports whether s is the schema of a dead-letter topic.
func Has(s *arrow.Schema) bool {
	for _, f := range fields {
		at := s.FieldIndices(f.Name)
		if len(at) != 1 || !arrow.TypeEqual(s.Field(at[0]).Type, f.Type) {
			return false
		}
	}
	return true
}

// CheckColumns returns tidemill.ErrInvalid naming the column when a job's topic has one that
// could not be told from those of a dead-letter topic.
func CheckColumns(s *arrow.Schema) error {
	if Has(s) {
		return nil
	}
	for _, f := range fields {
		if s.HasField(f.Name) {
			return tidemill.Invalid("the topic has a column %q", "use another name: columns of that name say in a dead-letter topic where a row comes from", f.Name)
		}
	}
	return nil
}

// Schema returns the dead-letter topic's schema for rows of schema own, keeping the columns
// that the topic has (nil: there is none) in their places. A column that the topic has with
// another type gets a second one, named with its type.
func Schema(topic, own *arrow.Schema) *arrow.Schema {
	var out []arrow.Field
	if topic != nil {
		out = append(out, topic.Fields()...)
	}
	add := func(f arrow.Field) {
		for _, g := range out {
			if g.Name == f.Name {
				return
			}
		}
		out = append(out, arrow.Field{Name: f.Name, Type: f.Type, Nullable: true})
	}
	for _, f := range own.Fields() {
		if !isOurs(f.Name) {
			f.Name = columnFor(topic, f)
			add(f)
		}
	}
	for _, f := range fields {
		add(f)
	}
	return arrow.NewSchema(out, nil)
}

func isOurs(name string) bool {
	if !strings.HasPrefix(name, prefix) {
		return false
	}
	for _, f := range fields {
		if f.Name == name {
			return true
		}
	}
	return false
}

// columnFor names the topic's column for a row's column f.
func columnFor(topic *arrow.Schema, f arrow.Field) string {
	if topic == nil {
		return f.Name
	}
	if at := topic.FieldIndices(f.Name); len(at) == 1 && !arrow.TypeEqual(topic.Field(at[0]).Type, f.Type) {
		return fmt.Sprintf("%s:%s", f.Name, f.Type)
	}
	return f.Name
}

// Row returns the one row of a dead-letter topic of schema topic for row, which is one row with
// its own columns, or nil where there is none. The caller releases the result.
func Row(topic *arrow.Schema, l Letter, row arrow.RecordBatch, mem memory.Allocator) arrow.RecordBatch {
	var names []arrow.Field
	var cols []arrow.Array
	if row != nil {
		for i, f := range row.Schema().Fields() {
			if isOurs(f.Name) {
				continue
			}
			names = append(names, arrow.Field{Name: columnFor(topic, f), Type: f.Type, Nullable: true})
			cols = append(cols, row.Column(i))
		}
	}
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	b := array.NewRecordBuilder(mem, arrow.NewSchema(fields, nil))
	defer b.Release()
	b.Field(0).(*array.StringBuilder).Append(l.Lineage)
	b.Field(1).(*array.StringBuilder).Append(l.Topic)
	b.Field(2).(*array.Int64Builder).Append(int64(l.Partition))
	b.Field(3).(*array.Int64Builder).Append(l.Offset)
	b.Field(4).(*array.StringBuilder).Append(l.Cause)
	b.Field(5).(*array.StringBuilder).Append(strings.ToValidUTF8(l.Reason, "\uFFFD"))
	b.Field(6).(*array.TimestampBuilder).Append(arrow.Timestamp(l.Time.UnixMilli()))
	b.Field(7).(*array.Int64Builder).Append(l.Attempts)
	b.Field(8).(*array.Int64Builder).Append(int64(l.Part))
	b.Field(9).(*array.Int64Builder).Append(l.At)
	if l.Raw == nil {
		b.Field(10).AppendNull()
	} else {
		b.Field(10).(*array.BinaryBuilder).Append(l.Raw)
	}
	ours := b.NewRecordBatch()
	defer ours.Release()
	return array.NewRecordBatch(arrow.NewSchema(append(names, fields...), nil), append(cols, ours.Columns()...), 1)
}

// Read returns the letters of rows, one for each; the rows of a topic that is no dead-letter
// topic have none, which is nil. Text and bytes are copied.
func Read(rows arrow.RecordBatch) ([]Letter, error) {
	if !Has(rows.Schema()) {
		return nil, nil
	}
	cols := make([]arrow.Array, len(fields))
	for i, f := range fields {
		cols[i] = rows.Column(rows.Schema().FieldIndices(f.Name)[0])
	}
	out := make([]Letter, rows.NumRows())
	for i := range out {
		for k, c := range cols[:10] {
			if c.IsNull(i) {
				return nil, fmt.Errorf("row %d has no %s: %w", i, fields[k].Name, tidemill.ErrCorrupt)
			}
		}
		l := &out[i]
		l.Lineage = strings.Clone(cols[0].(*array.String).Value(i))
		l.Topic = strings.Clone(cols[1].(*array.String).Value(i))
		l.Partition = int(cols[2].(*array.Int64).Value(i))
		l.Offset = cols[3].(*array.Int64).Value(i)
		l.Cause = strings.Clone(cols[4].(*array.String).Value(i))
		l.Reason = strings.Clone(cols[5].(*array.String).Value(i))
		l.Time = time.UnixMilli(int64(cols[6].(*array.Timestamp).Value(i))).UTC()
		l.Attempts = cols[7].(*array.Int64).Value(i)
		l.Part, l.At = int(cols[8].(*array.Int64).Value(i)), cols[9].(*array.Int64).Value(i)
		if raw := cols[10].(*array.Binary); raw.IsValid(i) {
			l.Raw = append([]byte{}, raw.Value(i)...)
		}
	}
	return out, nil
}
