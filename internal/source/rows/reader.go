package rows

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// StreamReader reads an Arrow IPC stream, or a file, which is a stream between "ARROW1" and
// a footer. Every message is checked before the Arrow reader allocates for it, so that bytes
// from anywhere cost no more memory than they have, or than maxBytes.
type StreamReader struct {
	r        *bufio.Reader
	maxBytes int64
	file     bool // begins with the magic, so that it must end with it
	mem      memory.Allocator
	cur      *ipc.Message
	reader   *ipc.Reader
}

// NewStreamReader reads the beginning of r up to its schema, which has passed Check. No
// message may be larger than maxBytes, nor unfold to more. mem nil means Go's heap.
func NewStreamReader(r io.Reader, maxBytes int64, mem memory.Allocator) (_ *StreamReader, err error) {
	if mem == nil {
		mem = memory.DefaultAllocator
	}
	s := &StreamReader{r: bufio.NewReaderSize(r, 64<<10), maxBytes: maxBytes, mem: mem}
	if magic, _ := s.r.Peek(8); len(magic) == 8 && bytes.Equal(magic[:6], []byte("ARROW1")) {
		s.r.Discard(8) //nolint:errcheck // the bytes were peeked
		s.file = true
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it does not hold together: %v", p)
		}
	}()
	if s.reader, err = ipc.NewReaderFromMessageReader((*messages)(s), ipc.WithAllocator(mem)); err != nil {
		return nil, err
	}
	if _, err := Check(s.reader.Schema()); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Schema is the stream's own.
func (s *StreamReader) Schema() *arrow.Schema { return s.reader.Schema() }

// Read returns the next record batch, every value of which can be read, or io.EOF. The
// caller releases it.
func (s *StreamReader) Read() (rec arrow.RecordBatch, err error) {
	defer func() {
		if p := recover(); p != nil {
			rec, err = nil, fmt.Errorf("it does not hold together: %v", p)
		}
	}()
	rec, err = s.reader.Read()
	if err != nil {
		return nil, err
	}
	if err := Validate(rec); err != nil {
		return nil, err
	}
	rec.Retain()
	return rec, nil
}

// Close frees what the reader keeps. It does not close what it reads from.
func (s *StreamReader) Close() error {
	if s.reader != nil {
		s.reader.Release()
		s.reader = nil
	}
	if s.cur != nil {
		s.cur.Release()
		s.cur = nil
	}
	return nil
}

// messages is the StreamReader as the Arrow reader sees it.
type messages StreamReader

func (m *messages) Retain()  {}
func (m *messages) Release() {}

// Message implements ipc.MessageReader: the message is valid until the next call.
func (m *messages) Message() (*ipc.Message, error) {
	if m.cur != nil {
		m.cur.Release()
		m.cur = nil
	}
	n, err := m.length()
	if err != nil {
		return nil, err
	}
	meta, err := m.bytes(n)
	if err != nil {
		return nil, err
	}
	kind, length, err := header(meta)
	if err != nil {
		return nil, err
	}
	body, err := m.bytes(length)
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindSchema:
		err = verifySchema(meta)
	case kindBatch:
		err = verifyBatch(meta, body, m.maxBytes)
	default:
		err = fmt.Errorf("a message of kind %d", kind)
	}
	if err != nil {
		return nil, err
	}
	m.cur = ipc.NewMessage(memory.NewBufferBytes(meta), memory.NewBufferBytes(body))
	return m.cur, nil
}

// length reads how long the next message's metadata is, or io.EOF at the end.
func (m *messages) length() (int64, error) {
	var b [4]byte
	if _, err := io.ReadFull(m.r, b[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || m.file && errors.Is(err, io.EOF) {
			return 0, errors.New("cut short")
		}
		return 0, err // a stream may end without saying so
	}
	n := binary.LittleEndian.Uint32(b[:])
	if n == 0xFFFFFFFF { // before Arrow 0.15 the length came first
		if _, err := io.ReadFull(m.r, b[:]); err != nil {
			return 0, errors.New("cut short")
		}
		n = binary.LittleEndian.Uint32(b[:])
	}
	if n == 0 {
		return 0, m.atEnd()
	}
	return int64(n), nil
}

// atEnd returns io.EOF after the last message, once a file has been seen to be whole.
func (m *messages) atEnd() error {
	if !m.file {
		return io.EOF
	}
	var tail [6]byte
	for {
		b, err := m.r.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		copy(tail[:], tail[1:])
		tail[len(tail)-1] = b
	}
	if string(tail[:]) != "ARROW1" {
		return errors.New("cut short in its footer")
	}
	return io.EOF
}

// bytes reads n bytes. What is not there is not allocated for.
func (m *messages) bytes(n int64) ([]byte, error) {
	if n > m.maxBytes {
		return nil, fmt.Errorf("a message of more than %d bytes", m.maxBytes)
	}
	const trusted = 1 << 20
	if n <= trusted {
		b := make([]byte, n)
		if _, err := io.ReadFull(m.r, b); err != nil {
			return nil, errors.New("cut short")
		}
		return b, nil
	}
	var b bytes.Buffer
	b.Grow(trusted)
	if got, err := io.CopyN(&b, m.r, n); err != nil || got < n {
		return nil, errors.New("cut short")
	}
	return b.Bytes(), nil
}
