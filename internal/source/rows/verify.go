package rows

import (
	"encoding/binary"
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

// verifySchema checks that the lists inside the metadata of an Arrow schema message lie
// within it. The Arrow reader allocates by their stated lengths
// before it looks at them, so that a damaged file of a few hundred bytes could ask for more
// memory than there is.
func verifySchema(meta []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("metadata does not hold together: %v", p)
		}
	}()
	const (
		slotMessageMeta = 12 // of Message
		slotFields      = 6  // of Schema
		slotSchemaMeta  = 8  // of Schema
		slotChildren    = 14 // of Field
		slotFieldMeta   = 16 // of Field
		maxFields       = 16 * MaxColumns
	)
	v := verifier{left: maxFields}
	if len(meta) < 8 {
		return errors.New("metadata is cut short")
	}
	root := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	var schema flatbuffers.Table
	if _, _, err := v.list(root, slotMessageMeta, 4); err != nil {
		return err
	}
	o := flatbuffers.UOffsetT(root.Offset(slotMessageHeader))
	if o == 0 {
		return errors.New("no schema")
	}
	root.Union(&schema, o)
	if _, _, err := v.list(schema, slotSchemaMeta, 4); err != nil {
		return err
	}
	return v.fields(schema, slotFields, slotChildren, slotFieldMeta, 0)
}

// verifyBatch checks a record batch message before the Arrow reader sees it: that its lists
// lie within the metadata, its buffers within the body, and that compressed buffers unfold
// to no more than unfold bytes together (0: none may be compressed).
func verifyBatch(meta []byte, body []byte, unfold int64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("metadata does not hold together: %v", p)
		}
	}()
	const (
		slotMessageMeta = 12 // of Message
		slotNodes       = 6  // of RecordBatch
		slotBuffers     = 8
		slotCompression = 10
		slotVariadic    = 12
	)
	t := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	v := verifier{}
	if _, _, err := v.list(t, slotMessageMeta, 4); err != nil {
		return err
	}
	o := flatbuffers.UOffsetT(t.Offset(slotMessageHeader))
	if o == 0 {
		return errors.New("no record batch in the message")
	}
	var batch flatbuffers.Table
	t.Union(&batch, o)
	if _, _, err := v.list(batch, slotNodes, 16); err != nil {
		return err
	}
	if _, _, err := v.list(batch, slotVariadic, 8); err != nil {
		return err
	}
	at, n, err := v.list(batch, slotBuffers, 16)
	if err != nil {
		return err
	}
	compressed := batch.Offset(slotCompression) != 0
	if compressed && unfold == 0 {
		return errors.New("compressed record batch")
	}
	for i := range n {
		p := at + flatbuffers.UOffsetT(16*i)
		off, size := batch.GetInt64(p), batch.GetInt64(p+8)
		if off < 0 || size < 0 || off > int64(len(body)) || size > int64(len(body))-off {
			return fmt.Errorf("buffer %d has bytes [%d,+%d) of %d", i, off, size, len(body))
		}
		if !compressed || size == 0 {
			continue
		}
		if size < 8 {
			return fmt.Errorf("compressed buffer %d has %d bytes", i, size)
		}
		// Each begins with its unfolded size; -1 means that it was left as it is.
		u := int64(binary.LittleEndian.Uint64(body[off:]))
		if u < -1 || u > unfold {
			return fmt.Errorf("compressed buffers of more than the %d bytes allowed", unfold)
		}
		unfold -= max(0, u)
	}
	return nil
}

// Kinds of Arrow messages.
const (
	kindSchema = 1
	kindBatch  = 3
)

const slotMessageHeader = 8 // of Message

// header reads what kind of message meta describes and how long its body is.
func header(meta []byte) (kind byte, body int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("metadata does not hold together: %v", p)
		}
	}()
	const slotHeaderType, slotBodyLength = 6, 10
	if len(meta) < 8 {
		return 0, 0, errors.New("metadata is cut short")
	}
	t := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	if o := flatbuffers.UOffsetT(t.Offset(slotHeaderType)); o != 0 {
		kind = t.GetByte(t.Pos + o)
	}
	if o := flatbuffers.UOffsetT(t.Offset(slotBodyLength)); o != 0 {
		body = t.GetInt64(t.Pos + o)
	}
	if body < 0 {
		return 0, 0, fmt.Errorf("a body of %d bytes", body)
	}
	return kind, body, nil
}

type verifier struct{ left int }

// list returns where a list of elements of size bytes begins and how many it has.
func (v *verifier) list(t flatbuffers.Table, slot flatbuffers.VOffsetT, size int) (at flatbuffers.UOffsetT, n int, err error) {
	o := flatbuffers.UOffsetT(t.Offset(slot))
	if o == 0 {
		return 0, 0, nil
	}
	at, n = t.Vector(o), t.VectorLen(o)
	if n < 0 || int(at) > len(t.Bytes) || n > (len(t.Bytes)-int(at))/size {
		return 0, 0, fmt.Errorf("a list of %d in %d bytes of metadata", n, len(t.Bytes))
	}
	return at, n, nil
}

// fields walks fields and their children; tables may be shared, so the walk is counted.
func (v *verifier) fields(t flatbuffers.Table, slot, children, meta flatbuffers.VOffsetT, depth int) error {
	at, n, err := v.list(t, slot, 4)
	if err != nil {
		return err
	}
	if v.left -= n; v.left < 0 || depth > maxDepth+1 {
		return errors.New("too many or too deeply nested fields")
	}
	for i := range n {
		f := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at + flatbuffers.UOffsetT(4*i))}
		if _, _, err := v.list(f, meta, 4); err != nil {
			return err
		}
		if err := v.fields(f, children, children, meta, depth+1); err != nil {
			return err
		}
	}
	return nil
}
