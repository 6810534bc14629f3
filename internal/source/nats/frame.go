package nats

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// frame is a message of a partition, but for the rows, which stay encoded in body.
type frame struct {
	first       int64  // offset of the first row
	rows        int64  // 1 to 2^32-1
	fingerprint uint64 // of the schema that body is encoded with
	mark        uint64 // random; by which an append knows its own message again
	key         string // "" or PREFIX/NUMBER
	body        []byte // one encapsulated Arrow record batch message
}

func (f frame) next() int64 { return f.first + f.rows }

const (
	frameMagic   = 'T'
	frameVersion = 1
	frameHeader  = 40
)

// newFrame returns f as bytes; seal completes it. The offset is not known yet when rows are
// encoded, and may change when an append is tried again.
func newFrame(f frame) []byte {
	pad := -len(f.key) & 7
	b := make([]byte, frameHeader, frameHeader+len(f.key)+pad+len(f.body))
	b[0], b[1] = frameMagic, frameVersion
	binary.LittleEndian.PutUint16(b[2:], uint16(len(f.key)))
	binary.LittleEndian.PutUint32(b[4:], uint32(f.rows))
	binary.LittleEndian.PutUint64(b[24:], f.fingerprint)
	binary.LittleEndian.PutUint64(b[32:], f.mark)
	b = append(b, f.key...)
	b = append(b, make([]byte, pad)...)
	return append(b, f.body...)
}

// seal writes the first offset and the checksum.
func seal(b []byte, first int64) {
	binary.LittleEndian.PutUint64(b[16:], uint64(first))
	binary.LittleEndian.PutUint64(b[8:], checksum(b))
}

// checksum covers everything but itself: the first 8 bytes are its seed.
func checksum(b []byte) uint64 {
	return xxh3.HashSeed(b[16:], binary.LittleEndian.Uint64(b))
}

// parseFrame reads what newFrame and seal wrote; the result shares b. Anything else is
// tidemill.ErrCorrupt.
func parseFrame(b []byte) (frame, error) {
	f, err := parse(b)
	if err != nil {
		return frame{}, fmt.Errorf("%w: message %w", tidemill.ErrCorrupt, err)
	}
	return f, nil
}

func parse(b []byte) (f frame, err error) {
	if len(b) < frameHeader {
		return f, fmt.Errorf("has %d bytes, fewer than its header", len(b))
	}
	if b[0] != frameMagic || b[1] != frameVersion {
		return f, fmt.Errorf("is of kind %#x version %d", b[0], b[1])
	}
	if checksum(b) != binary.LittleEndian.Uint64(b[8:]) {
		return f, errors.New("does not match its checksum")
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	f = frame{
		rows:        int64(binary.LittleEndian.Uint32(b[4:])),
		first:       int64(binary.LittleEndian.Uint64(b[16:])),
		fingerprint: binary.LittleEndian.Uint64(b[24:]),
		mark:        binary.LittleEndian.Uint64(b[32:]),
	}
	end := frameHeader + n + (-n & 7)
	if n > source.MaxKeyLength || end > len(b) {
		return f, fmt.Errorf("has a key of %d bytes", n)
	}
	if f.rows == 0 || f.first < 0 || f.first > 1<<62 {
		return f, fmt.Errorf("has %d rows from offset %d", f.rows, f.first)
	}
	f.key = string(b[frameHeader : frameHeader+n])
	if f.key != "" {
		if _, _, err := source.ParseKey(f.key); err != nil {
			return f, err
		}
	}
	f.body = b[end:]
	return f, nil
}
