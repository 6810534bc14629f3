package parquet

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/file"
)

func written(t testing.TB, n int) []byte {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64},
		{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for i := range n {
		b.Field(0).(*array.Int64Builder).Append(int64(i))
		if i%3 == 0 {
			b.Field(1).AppendNull()
		} else {
			b.Field(1).(*array.StringBuilder).Append("x")
		}
	}
	rec := b.NewRecordBatch()
	var w bytes.Buffer
	pw, err := pqarrow.NewFileWriter(schema, &w, parquet.NewWriterProperties(parquet.WithMaxRowGroupLength(100)), pqarrow.DefaultWriterProps())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pw.Write(rec), pw.Close()); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func TestRead(t *testing.T) {
	const n = 1000
	rs, err := file.OpenRows("x.parquet", bytes.NewReader(written(t, n)), file.Options{Parquet: Open})
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Close()
	next := int64(0)
	for {
		c, err := rs.Next(64)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.First != next {
			t.Fatalf("rows from %d where %d was next", c.First, next)
		}
		for i := range int(c.Rows.NumRows()) {
			if id := c.Rows.Column(0).(*array.Int64).Value(i); id != next || c.Rows.Column(1).IsNull(i) != (id%3 == 0) {
				t.Fatalf("row %d: %d %s", next, id, c.Rows.Column(1).ValueStr(i))
			}
			next++
		}
		c.Rows.Release()
	}
	if next != n {
		t.Errorf("%d rows, want %d", next, n)
	}
}

func TestDamaged(t *testing.T) {
	whole := written(t, 10)
	for _, b := range [][]byte{[]byte("PAR1"), whole[:len(whole)/2], bytes.Repeat([]byte("PAR1"), 100)} {
		if _, err := file.OpenRows("x.parquet", bytes.NewReader(b), file.Options{Parquet: Open}); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
}
