// Package frame is one message of a topic whose messages are Tidemill's own: the rows of one
// append as an Arrow record batch, with the offset of the first row, so that offsets count rows
// whatever the broker counts. The nats and kafka drivers store it.
//
// The bytes are described in docs/format/stream-message.md.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// Frame is a message of a partition, but for the rows, which stay encoded in Body.
type Frame struct {
	First       int64  // offset of the first row
	Rows        int64  // 1 to 2^32-1
	Fingerprint uint64 // of the schema that Body is encoded with
	Mark        uint64 // random; by which an append knows its own message again
	Key         string // "" or PREFIX/NUMBER
	Body        []byte // one encapsulated Arrow record batch message
}

// Next is the offset after the last row.
func (f Frame) Next() int64 { return f.First + f.Rows }

const (
	magic      = 'T'
	version    = 1
	headerSize = 40
)

// New returns f as bytes; Seal completes it. The offset is not known yet when rows are
// encoded, and may change when an append is tried again.
func New(f Frame) []byte {
	pad := -len(f.Key) & 7
	b := make([]byte, headerSize, headerSize+len(f.Key)+pad+len(f.Body))
	b[0], b[1] = magic, version
	binary.LittleEndian.PutUint16(b[2:], uint16(len(f.Key)))
	binary.LittleEndian.PutUint32(b[4:], uint32(f.Rows))
	binary.LittleEndian.PutUint64(b[24:], f.Fingerprint)
	binary.LittleEndian.PutUint64(b[32:], f.Mark)
	b = append(b, f.Key...)
	b = append(b, make([]byte, pad)...)
	return append(b, f.Body...)
}

// Seal writes the first offset and the checksum.
func Seal(b []byte, first int64) {
	binary.LittleEndian.PutUint64(b[16:], uint64(first))
	binary.LittleEndian.PutUint64(b[8:], checksum(b))
}

// checksum covers everything but itself: the first 8 bytes are its seed.
func checksum(b []byte) uint64 {
	return xxh3.HashSeed(b[16:], binary.LittleEndian.Uint64(b))
}

// Parse reads what New and Seal wrote; the result shares b. Anything else is
// tidemill.ErrCorrupt.
func Parse(b []byte) (Frame, error) {
	f, err := parse(b)
	if err != nil {
		return Frame{}, fmt.Errorf("%w: message %w", tidemill.ErrCorrupt, err)
	}
	return f, nil
}

func parse(b []byte) (f Frame, err error) {
	if len(b) < headerSize {
		return f, fmt.Errorf("has %d bytes, fewer than its header", len(b))
	}
	if b[0] != magic || b[1] != version {
		return f, fmt.Errorf("is of kind %#x version %d", b[0], b[1])
	}
	if checksum(b) != binary.LittleEndian.Uint64(b[8:]) {
		return f, errors.New("does not match its checksum")
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	f = Frame{
		Rows:        int64(binary.LittleEndian.Uint32(b[4:])),
		First:       int64(binary.LittleEndian.Uint64(b[16:])),
		Fingerprint: binary.LittleEndian.Uint64(b[24:]),
		Mark:        binary.LittleEndian.Uint64(b[32:]),
	}
	end := headerSize + n + (-n & 7)
	if n > source.MaxKeyLength || end > len(b) {
		return f, fmt.Errorf("has a key of %d bytes", n)
	}
	if f.Rows == 0 || f.First < 0 || f.First > 1<<62 {
		return f, fmt.Errorf("has %d rows from offset %d", f.Rows, f.First)
	}
	f.Key = string(b[headerSize : headerSize+n])
	if f.Key != "" {
		if _, _, err := source.ParseKey(f.Key); err != nil {
			return f, err
		}
	}
	f.Body = b[end:]
	return f, nil
}
