package sourcetest

import (
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
)

// testBadText: text that is not UTF-8 is refused with its column and row before it is kept, and
// nothing of its append is.
func testBadText(e *env) {
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "n", Type: arrow.PrimitiveTypes.Int64},
		{Name: "word", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "words", Type: arrow.ListOf(arrow.BinaryTypes.String), Nullable: true},
		{Name: "raw", Type: arrow.BinaryTypes.Binary, Nullable: true},
	}, nil)
	t, err := e.s.Create(e.ctx, "text", 1, schema)
	e.must(err)
	add := func(word, inner string) error {
		b := array.NewRecordBuilder(e.mem, schema)
		defer b.Release()
		for _, w := range []string{"fine", word} {
			b.Field(0).(*array.Int64Builder).Append(1)
			b.Field(1).(*array.StringBuilder).Append(w)
			l := b.Field(2).(*array.ListBuilder)
			l.Append(true)
			l.ValueBuilder().(*array.StringBuilder).Append(inner)
			b.Field(3).(*array.BinaryBuilder).Append([]byte("\xff"))
		}
		rec := b.NewRecordBatch()
		defer rec.Release()
		_, err := t.Append(e.ctx, 0, rec, "")
		return err
	}
	e.must(add("fine", "ä"))
	for _, err := range []error{add("b\xffd", "fine"), add("fine", "\xc3")} {
		e.is(err, tidemill.ErrInvalid)
		if !strings.Contains(err.Error(), "UTF-8") || !strings.Contains(err.Error(), "word") {
			e.Errorf("refused with %v", err)
		}
	}
	in, err := t.Info(e.ctx)
	e.must(err)
	if in.Next[0] != 2 {
		e.Errorf("the log ends at %d, 2 rows were good", in.Next[0])
	}
}
