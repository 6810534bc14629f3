package snapshot

import (
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// Format is the highest number of a manifest's format that this package writes: 3 where rows have
// uses, else 2. It also reads format 1, in which every blob belonged to the snapshot that named it.
const Format = 3

// fileFormat is in the metadata of every Arrow file.
const fileFormat = 1

// Columns are built over the caller's slices without a copy: an array made here is valid for
// as long as its slices are left alone, and needs no Release.

func fixed(t arrow.FixedWidthDataType, n int, bytes []byte) arrow.Array {
	return array.MakeFromData(array.NewData(t, n, []*memory.Buffer{nil, memory.NewBufferBytes(bytes)}, nil, 0, 0))
}

func uint16s(v []uint16) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Uint16.(*arrow.Uint16Type), len(v), arrow.Uint16Traits.CastToBytes(v))
}

func int32s(v []int32) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Int32.(*arrow.Int32Type), len(v), arrow.Int32Traits.CastToBytes(v))
}

func int64s(v []int64) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Int64.(*arrow.Int64Type), len(v), arrow.Int64Traits.CastToBytes(v))
}

func uint64s(v []uint64) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Uint64.(*arrow.Uint64Type), len(v), arrow.Uint64Traits.CastToBytes(v))
}

func uint32s(v []uint32) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Uint32.(*arrow.Uint32Type), len(v), arrow.Uint32Traits.CastToBytes(v))
}

func floats(v []float32) arrow.Array {
	return fixed(arrow.PrimitiveTypes.Float32.(*arrow.Float32Type), len(v), arrow.Float32Traits.CastToBytes(v))
}

// vectors makes len(v)/dim lists of dim floats each.
func vectors(dim int, v []float32) arrow.Array {
	t := vectorType(dim)
	return array.MakeFromData(array.NewData(t, len(v)/dim, []*memory.Buffer{nil}, []arrow.ArrayData{floats(v).Data()}, 0, 0))
}

func vectorType(dim int) arrow.DataType {
	return arrow.FixedSizeListOfNonNullable(int32(dim), arrow.PrimitiveTypes.Float32)
}

var listType = arrow.ListOfNonNullable(arrow.PrimitiveTypes.Float32)

// lists makes one list of floats of each of v.
func lists(v [][]float32) arrow.Array {
	offsets := make([]int32, 1, len(v)+1)
	var all []float32
	for _, l := range v {
		all = append(all, l...)
		offsets = append(offsets, int32(len(all)))
	}
	return array.MakeFromData(array.NewData(listType, len(v),
		[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets))}, []arrow.ArrayData{floats(all).Data()}, 0, 0))
}

// texts makes an array of t (utf8 or binary) of v, which together are less than 2 GiB.
func texts(t arrow.DataType, v ...[]byte) arrow.Array {
	offsets := make([]int32, 1, len(v)+1)
	all := v[0]
	if len(v) > 1 {
		all = nil
		for _, s := range v {
			all = append(all, s...)
			offsets = append(offsets, int32(len(all)))
		}
	} else {
		offsets = append(offsets, int32(len(all)))
	}
	return array.MakeFromData(array.NewData(t, len(v),
		[]*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(offsets)), memory.NewBufferBytes(all)}, nil, 0, 0))
}

func field(name string, t arrow.DataType) arrow.Field { return arrow.Field{Name: name, Type: t} }

// schema is a file's, marked with the format and what the file holds.
func schema(kind, table string, fields ...arrow.Field) *arrow.Schema {
	keys, values := []string{"tidemill.format", "tidemill.kind"}, []string{strconv.Itoa(fileFormat), kind}
	if table != "" {
		keys, values = append(keys, "tidemill.table"), append(values, table)
	}
	md := arrow.NewMetadata(keys, values)
	return arrow.NewSchema(fields, &md)
}

// tableSchema is that of a table in a snapshot. Groups that the layout lacks have no column.
func tableSchema(t TableLayout) *arrow.Schema {
	fields := []arrow.Field{
		field("shard", arrow.PrimitiveTypes.Uint16),
		field("id", arrow.PrimitiveTypes.Uint64),
		field("weight", vectorType(t.Dim)),
	}
	if t.State > 0 {
		fields = append(fields, field("state", vectorType(t.State)))
	}
	if t.Average {
		fields = append(fields, field("average", vectorType(t.Dim)), field("average_at", arrow.PrimitiveTypes.Uint64))
	}
	if t.Uses {
		fields = append(fields, field("uses", arrow.PrimitiveTypes.Uint32))
	}
	return schema(KindTable, t.Name, fields...)
}

// removedSchema is that of the rows of a table that are gone.
func removedSchema(table string) *arrow.Schema {
	return schema(KindRemoved, table, field("shard", arrow.PrimitiveTypes.Uint16), field("id", arrow.PrimitiveTypes.Uint64))
}

// denseSchema is that of dense tensors in a snapshot.
func denseSchema() *arrow.Schema {
	return schema(KindDense, "",
		field("shard", arrow.PrimitiveTypes.Uint16),
		field("tensor", arrow.BinaryTypes.String),
		field("block", arrow.PrimitiveTypes.Int32),
		field("first", arrow.PrimitiveTypes.Int64),
		field("weight", listType),
		field("state", listType),
		field("average", listType),
		field("average_at", arrow.PrimitiveTypes.Uint64))
}

// auxSchema is that of named bytes in a snapshot.
func auxSchema() *arrow.Schema {
	return schema(KindAux, "",
		field("shard", arrow.PrimitiveTypes.Uint16),
		field("name", arrow.BinaryTypes.String),
		field("bytes", arrow.BinaryTypes.Binary))
}

// frozenTableSchema is that of a table in a version.
func frozenTableSchema(t tidemill.TableSpec) *arrow.Schema {
	return schema(KindTable, t.Name, field("id", arrow.PrimitiveTypes.Uint64), field("weight", vectorType(t.Dim)))
}

// frozenTensorSchema is that of dense tensors in a version.
func frozenTensorSchema() *arrow.Schema {
	return schema(KindDense, "",
		field("tensor", arrow.BinaryTypes.String),
		field("block", arrow.PrimitiveTypes.Int32),
		field("first", arrow.PrimitiveTypes.Int64),
		field("weight", listType))
}

// expectedSchema is that of the predictions that a version's probe rows must give.
func expectedSchema() *arrow.Schema {
	return schema(KindExpected, "", field("prediction", arrow.PrimitiveTypes.Float32))
}

// arrowWriter writes an Arrow IPC file of one schema.
type arrowWriter struct {
	schema *arrow.Schema
	w      *ipc.FileWriter
}

func newArrowWriter(w io.Writer, s *arrow.Schema) (*arrowWriter, error) {
	fw, err := ipc.NewFileWriter(w, ipc.WithSchema(s))
	if err != nil {
		return nil, err
	}
	return &arrowWriter{s, fw}, nil
}

// write appends one record batch; the columns' slices may be reused once it returns.
func (a *arrowWriter) write(columns ...arrow.Array) error {
	rec := array.NewRecordBatch(a.schema, columns, int64(columns[0].Len()))
	defer rec.Release()
	return a.w.Write(rec)
}

func (a *arrowWriter) close() error { return a.w.Close() }

// errShape is what a decoder returns for bytes that are no Arrow file of the wanted schema.
var errShape = errors.New("not the expected Arrow file")

// arrowFile reads an Arrow IPC file held in memory. Whatever the bytes are, its methods return
// an error that wraps errShape rather than panic.
type arrowFile struct {
	r    *ipc.FileReader
	data []byte
	at   []int64 // where each batch begins
}

// openArrow opens a file whose schema must be want, metadata included.
func openArrow(data []byte, want *arrow.Schema) (f *arrowFile, err error) {
	defer notPanic(&err)
	at := checkFooter(data)
	r, err := ipc.NewMappedFileReader(data, ipc.WithAllocator(noMemory{}))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errShape, err)
	}
	if got := r.Schema(); !got.Equal(want) || !got.Metadata().Equal(want.Metadata()) {
		return nil, fmt.Errorf("%w: its columns or its metadata differ", errShape)
	}
	return &arrowFile{r, data, at}, nil
}

func (f *arrowFile) batches() int { return len(f.at) }

// read calls decode with batch i. Slices of its columns refer to the file's bytes and stay
// valid. decode must not call into other people's code: its panics are taken for the file's.
func (f *arrowFile) read(i int, decode func(rec arrow.RecordBatch) error) (err error) {
	defer notPanic(&err)
	checkMessage(f.data, f.at[i])
	rec, err := f.r.RecordBatchAt(i)
	if err != nil {
		return fmt.Errorf("%w: batch %d: %w", errShape, i, err)
	}
	defer rec.Release()
	for c, column := range rec.Columns() {
		if int64(column.Len()) != rec.NumRows() || column.NullN() != 0 {
			return fmt.Errorf("%w: column %d of batch %d has %d values and %d nulls in %d rows", errShape, c, i, column.Len(), column.NullN(), rec.NumRows())
		}
	}
	return decode(rec)
}

// noMemory refuses to allocate. What this package writes is read in place; only compressed
// buffers would be allocated, of whatever size the file claims.
type noMemory struct{}

func (noMemory) Allocate(int) []byte           { panic("a buffer is compressed") }
func (noMemory) Reallocate(int, []byte) []byte { panic("a buffer is compressed") }
func (noMemory) Free([]byte)                   {}

// notPanic turns the panic of a library that trips over bad bytes into an error.
func notPanic(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errShape, p)
	}
}

// vectorValues returns the values of a fixed-size list column, len × dim of them.
func vectorValues(a arrow.Array, dim int) []float32 {
	l := a.(*array.FixedSizeList)
	v := l.ListValues().(*array.Float32).Float32Values()
	return v[l.Offset()*dim : (l.Offset()+l.Len())*dim]
}

// listValues returns list i of a list column.
func listValues(a arrow.Array, i int) []float32 {
	l := a.(*array.List)
	from, to := l.ValueOffsets(i)
	return l.ListValues().(*array.Float32).Float32Values()[from:to]
}
