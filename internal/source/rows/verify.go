package rows

import (
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

// VerifySchema checks that the lists inside the metadata of an Arrow schema message, or of
// an Arrow file's footer, lie within it. The Arrow reader allocates by their stated lengths
// before it looks at them, so that a damaged file of a few hundred bytes could ask for more
// memory than there is.
func VerifySchema(meta []byte, footer bool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("metadata does not hold together: %v", p)
		}
	}()
	const (
		slotMessageHeader = 8 // of Message
		slotFooterSchema  = 6 // of Footer
		slotFooterLists   = 8 // of Footer: dictionaries, record batches, metadata
		footerLists       = 3
		slotFields        = 6  // of Schema
		slotSchemaMeta    = 8  // of Schema
		slotChildren      = 14 // of Field
		slotFieldMeta     = 16 // of Field
		maxFields         = 16 * MaxColumns
	)
	v := verifier{left: maxFields}
	if len(meta) < 8 {
		return errors.New("metadata is cut short")
	}
	root := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	var schema flatbuffers.Table
	slot := flatbuffers.VOffsetT(slotMessageHeader)
	if footer {
		slot = slotFooterSchema
		for i := range flatbuffers.VOffsetT(footerLists) {
			if _, _, err := v.list(root, slotFooterLists+2*i, 4); err != nil {
				return err
			}
		}
	}
	o := flatbuffers.UOffsetT(root.Offset(slot))
	if o == 0 {
		return errors.New("no schema")
	}
	root.Union(&schema, o)
	if _, _, err := v.list(schema, slotSchemaMeta, 4); err != nil {
		return err
	}
	return v.fields(schema, slotFields, slotChildren, slotFieldMeta, 0)
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
