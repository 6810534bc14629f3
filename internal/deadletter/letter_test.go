package deadletter

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

var own = arrow.NewSchema([]arrow.Field{
	{Name: "x", Type: arrow.PrimitiveTypes.Float64},
	{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true},
}, nil)

func row(mem memory.Allocator, s *arrow.Schema, x any, c string) arrow.RecordBatch {
	b := array.NewRecordBuilder(mem, s)
	defer b.Release()
	switch f := b.Field(0).(type) {
	case *array.Float64Builder:
		f.Append(x.(float64))
	case *array.StringBuilder:
		f.Append(x.(string))
	}
	b.Field(1).(*array.StringBuilder).Append(c)
	return b.NewRecordBatch()
}

// What is written is read back, whatever the columns of the row and of the topic.
func TestLetters(t *testing.T) {
	text := arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.BinaryTypes.String}, own.Field(1)}, nil)
	rapid.Check(t, func(rt *rapid.T) {
		mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer mem.AssertSize(t, 0)
		l := Letter{
			Lineage: rapid.StringN(0, 20, -1).Draw(rt, "lineage"), Topic: "t", Partition: rapid.IntRange(0, 99).Draw(rt, "partition"),
			Offset: rapid.Int64Min(0).Draw(rt, "offset"), Cause: rapid.SampledFrom(tidemill.BadCauses()).Draw(rt, "cause"),
			Reason: rapid.String().Draw(rt, "reason"), Time: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(rt, "time")).UTC(),
			Attempts: rapid.Int64Range(1, 9).Draw(rt, "attempts"), Part: rapid.IntRange(0, 99).Draw(rt, "part"), At: rapid.Int64Min(0).Draw(rt, "at"),
		}
		var rec arrow.RecordBatch
		switch rapid.IntRange(0, 2).Draw(rt, "row") {
		case 0:
			l.Raw = rapid.SliceOf(rapid.Byte()).Draw(rt, "raw")
		case 1:
			rec = row(mem, own, 1.5, "a")
		default: // the column has another type in the topic
			rec = row(mem, text, "1.5", "a")
		}
		topic := Schema(nil, own)
		if !Has(topic) || CheckColumns(topic) != nil || CheckColumns(own) != nil {
			rt.Fatal("a dead-letter topic is not known as one")
		}
		if rec != nil {
			defer rec.Release()
			wider := Schema(topic, rec.Schema())
			if _, err := rows.Evolve(topic, wider); err != nil {
				rt.Fatal(err)
			}
			topic = wider
		}
		out := Row(topic, l, rec, mem)
		defer out.Release()
		fit, err := rows.NewFitter(topic, mem).Fit(out)
		if err != nil {
			rt.Fatal(err)
		}
		defer fit.Release()
		got, err := Read(fit)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], l) {
			rt.Fatalf("wrote %+v, read %+v %v", l, got, err)
		}
		for i, f := range topic.Fields() {
			col := fit.Column(i)
			want := rec != nil && (f.Name == "c" || f.Name == "x" && rec.Schema() == own || f.Name == "x:utf8" && rec.Schema() == text)
			if !isOurs(f.Name) && col.IsValid(0) != want {
				rt.Fatalf("column %s is %s", f.Name, col.ValueStr(0))
			}
		}
		// Once more: a letter's own row is without the columns that say where it was.
		if s := Schema(topic, topic); !s.Equal(topic) {
			rt.Fatalf("schema of a letter's letter: %v", s)
		}
	})
}

func TestReadRefuses(t *testing.T) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, Schema(nil, own))
	defer b.Release()
	for _, f := range b.Fields() {
		f.AppendNull()
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	if _, err := Read(rec); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), "dead_lineage") {
		t.Errorf("letters without content: %v", err)
	}
	plain := row(memory.DefaultAllocator, own, 1.0, "a")
	defer plain.Release()
	if got, err := Read(plain); got != nil || err != nil {
		t.Errorf("rows that are no letters: %v %v", got, err)
	}
	clash := arrow.NewSchema([]arrow.Field{{Name: "dead_offset", Type: arrow.BinaryTypes.String}}, nil)
	if err := CheckColumns(clash); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), `"dead_offset"`) {
		t.Errorf("a column that means something else: %v", err)
	}
}

func TestTopicNames(t *testing.T) {
	job := strings.Repeat("j", MaxJobLength)
	for _, name := range []string{Topic(job), ReplayTopic(job, "0123456789abcdef"), ReplayTopic("j", "")} {
		if err := source.CheckName("topic", name); err != nil {
			t.Error(err)
		}
	}
}
