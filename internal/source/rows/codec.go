package rows

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
)

// AppendEncoded appends rows to dst as one encapsulated Arrow IPC message: a record batch
// without its schema. len(dst) must be a multiple of 8.
func AppendEncoded(dst []byte, rows arrow.RecordBatch, mem memory.Allocator) ([]byte, error) {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	p, err := ipc.GetRecordBatchPayload(rows, ipc.WithAllocator(mem))
	if err != nil {
		return dst, fmt.Errorf("encode %d rows: %w", rows.NumRows(), err)
	}
	defer p.Release()
	w := bytes.NewBuffer(dst)
	if _, err := p.WritePayload(w); err != nil {
		return dst, fmt.Errorf("encode %d rows: %w", rows.NumRows(), err)
	}
	return w.Bytes(), nil
}

// Decoder turns what AppendEncoded wrote back into record batches of one schema. It belongs
// to one goroutine.
type Decoder struct {
	schema *arrow.Schema
	mem    memory.Allocator
	feed   *feed
	r      *ipc.Reader
}

// NewDecoder returns a Decoder for messages of schema. mem nil means Go's heap.
func NewDecoder(schema *arrow.Schema, mem memory.Allocator) *Decoder {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	return &Decoder{schema: schema, mem: mem}
}

// Decode returns the rows of one message. The result may share msg, which must not change
// afterwards; the caller releases it. Bytes that are not such a message, or do not fit the
// schema, are tidemill.ErrCorrupt.
func (d *Decoder) Decode(msg []byte) (rec arrow.RecordBatch, err error) {
	m, err := parse(msg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", tidemill.ErrCorrupt, err)
	}
	defer func() {
		// The Arrow reader indexes by offsets that the bytes name; its own recovery covers
		// most, not the parts run here.
		if p := recover(); p != nil {
			d.Release()
			rec, err = nil, fmt.Errorf("%w: record batch does not hold together: %v", tidemill.ErrCorrupt, p)
		}
	}()
	if d.r == nil {
		d.feed = &feed{}
		if err := d.feed.put(schemaMessage(d.schema, d.mem)); err != nil {
			return nil, err
		}
		r, err := ipc.NewReaderFromMessageReader(d.feed, ipc.WithAllocator(d.mem))
		if err != nil {
			return nil, fmt.Errorf("decode schema: %w", err)
		}
		d.r = r
	}
	if err := d.feed.put(m, nil); err != nil {
		return nil, err
	}
	got, err := d.r.Read()
	if err != nil {
		d.Release() // the reader keeps its first error for ever
		return nil, fmt.Errorf("%w: %w", tidemill.ErrCorrupt, err)
	}
	if err := Validate(got); err != nil {
		return nil, fmt.Errorf("%w: %w", tidemill.ErrCorrupt, err)
	}
	got.Retain()
	return got, nil
}

// Release frees what the decoder keeps between calls. It may be used again.
func (d *Decoder) Release() {
	if d.r != nil {
		d.r.Release()
		d.r = nil
	}
	if d.feed != nil {
		d.feed.clear()
	}
}

// parse splits an encapsulated message and checks what the Arrow reader takes on trust.
func parse(msg []byte) (*ipc.Message, error) {
	if len(msg) < 16 || binary.LittleEndian.Uint32(msg) != 0xFFFFFFFF {
		return nil, errors.New("not an Arrow message")
	}
	n := int(int32(binary.LittleEndian.Uint32(msg[4:])))
	if n < 8 || n > len(msg)-8 || n%8 != 0 {
		return nil, fmt.Errorf("metadata of %d bytes in a message of %d", n, len(msg))
	}
	meta, body := msg[8:8+n], msg[8+n:]
	kind, length, err := header(meta)
	switch {
	case err != nil:
		return nil, err
	case kind != kindBatch:
		return nil, fmt.Errorf("message kind %d is not a record batch", kind)
	case length != int64(len(body)):
		return nil, fmt.Errorf("body of %d bytes where the metadata says %d", len(body), length)
	}
	if err := verifyBatch(meta, body, 0); err != nil {
		return nil, err
	}
	if len(body) > 0 && uintptr(unsafe.Pointer(&body[0]))%8 != 0 {
		// Network buffers begin anywhere; typed views of the values must not.
		aligned := make([]uint64, (len(body)+7)/8)
		b := unsafe.Slice((*byte)(unsafe.Pointer(&aligned[0])), len(body))
		copy(b, body)
		body = b
	}
	return ipc.NewMessage(memory.NewBufferBytes(meta), memory.NewBufferBytes(body)), nil
}

func schemaMessage(schema *arrow.Schema, mem memory.Allocator) (*ipc.Message, error) {
	p := ipc.GetSchemaPayload(schema, mem)
	defer p.Release()
	meta := p.Meta()
	defer meta.Release()
	// The payload's buffer goes back to mem; the reader keeps slices of the metadata.
	own := memory.NewBufferBytes(bytes.Clone(meta.Bytes()))
	return ipc.NewMessage(own, memory.NewBufferBytes(nil)), nil
}

// feed hands one message at a time to an ipc.Reader.
type feed struct{ next, cur *ipc.Message }

func (f *feed) put(m *ipc.Message, err error) error {
	if f.next != nil {
		f.next.Release()
	}
	f.next = m
	return err
}

func (f *feed) clear() {
	for _, m := range []*ipc.Message{f.next, f.cur} {
		if m != nil {
			m.Release()
		}
	}
	f.next, f.cur = nil, nil
}

// Message implements ipc.MessageReader: the message is valid until the next call.
func (f *feed) Message() (*ipc.Message, error) {
	if f.cur != nil {
		f.cur.Release()
	}
	f.cur, f.next = f.next, nil
	if f.cur == nil {
		return nil, io.ErrUnexpectedEOF
	}
	return f.cur, nil
}

// Retain and Release implement ipc.MessageReader; the Decoder owns the messages.
func (f *feed) Retain()  {}
func (f *feed) Release() {}

// EncodeSchema returns schema as an encapsulated Arrow IPC schema message.
func EncodeSchema(schema *arrow.Schema) ([]byte, error) {
	p := ipc.GetSchemaPayload(schema, memory.DefaultAllocator)
	defer p.Release()
	var w bytes.Buffer
	if _, err := p.WritePayload(&w); err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return w.Bytes(), nil
}

// DecodeSchema reads what EncodeSchema wrote, or an Arrow IPC stream's beginning.
func DecodeSchema(b []byte) (*arrow.Schema, error) {
	if len(b) < 8 || int(binary.LittleEndian.Uint32(b[4:])) > len(b)-8 {
		return nil, fmt.Errorf("%w: schema is cut short", tidemill.ErrCorrupt)
	}
	meta := b[8 : 8+binary.LittleEndian.Uint32(b[4:])]
	if err := verifySchema(meta); err != nil {
		return nil, fmt.Errorf("%w: schema: %w", tidemill.ErrCorrupt, err)
	}
	// The message is handed over without a body: reading it from the stream would allocate
	// whatever body length its metadata states.
	f := &feed{}
	defer f.clear()
	if err := f.put(ipc.NewMessage(memory.NewBufferBytes(bytes.Clone(meta)), memory.NewBufferBytes(nil)), nil); err != nil {
		return nil, err
	}
	r, err := ipc.NewReaderFromMessageReader(f, ipc.WithAllocator(memory.DefaultAllocator))
	if err != nil {
		return nil, fmt.Errorf("%w: schema: %w", tidemill.ErrCorrupt, err)
	}
	defer r.Release()
	s, err := Check(r.Schema())
	if err != nil {
		return nil, fmt.Errorf("%w: schema: %w", tidemill.ErrCorrupt, err)
	}
	return s, nil
}

// EncodeWithin encodes rows for one append of at most limit bytes. Rows that take more, or that
// have text which is not UTF-8, are refused with tidemill.ErrInvalid.
func EncodeWithin(limit int, rec arrow.RecordBatch, mem memory.Allocator) ([]byte, error) {
	if err := CheckText(rec); err != nil {
		return nil, err
	}
	tooLarge := func(size int) error {
		return tidemill.Invalid("%d rows take %d bytes, more than %d in one append", "split them", rec.NumRows(), size, limit)
	}
	// Size may say too much, but not this much: nothing huge is encoded only to be refused.
	if size := Size(rec); size > 64*limit {
		return nil, tooLarge(size)
	}
	body, err := AppendEncoded(nil, rec, mem)
	if err == nil && len(body) > limit {
		return nil, tooLarge(len(body))
	}
	return body, err
}
