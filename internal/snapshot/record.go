package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/tidemill/tidemill"
)

// A record is a JSON object whose first member is the SHA-256 of all bytes after it:
//
//	{"checksum":"64 lower-case hexadecimal digits",…rest
//
// The checksum covers everything from the comma after it to the last byte, and what stands
// before that comma is compared exactly, so any flipped bit is found.
const (
	recordHead = `{"checksum":"`
	recordMid  = len(recordHead) + 2*sha256.Size // where the closing quote stands
)

// maxRecord bounds a record in bytes. It guards a reader against a store gone wrong.
const maxRecord = 256 << 20

// Seal encodes v, which must marshal to a JSON object with at least one member, as a record.
// Equal values give equal bytes.
func Seal(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w: %w", tidemill.ErrInvalid, err)
	}
	if len(body) < 3 || body[0] != '{' {
		return nil, tidemill.Invalid("a record must be a JSON object with members", "")
	}
	body[0] = ','
	sum := sha256.Sum256(body)
	out := make([]byte, 0, recordMid+1+len(body))
	out = append(out, recordHead...)
	out = hex.AppendEncode(out, sum[:])
	out = append(out, '"')
	return append(out, body...), nil
}

// Unseal verifies a record and decodes it into v. Any difference from what Seal wrote wraps
// tidemill.ErrCorrupt. Members that v does not know are ignored: a change that a reader must
// not ignore raises the record's format number.
func Unseal(data []byte, v any) error {
	if len(data) < recordMid+2 || !bytes.HasPrefix(data, []byte(recordHead)) || data[recordMid] != '"' || data[recordMid+1] != ',' {
		return fmt.Errorf("record is %w: it does not begin with a checksum", tidemill.ErrCorrupt)
	}
	body := data[recordMid+1:]
	sum := sha256.Sum256(body)
	var want [2 * sha256.Size]byte
	hex.Encode(want[:], sum[:])
	if !bytes.Equal(want[:], data[len(recordHead):recordMid]) {
		return fmt.Errorf("record is %w: its checksum is another one", tidemill.ErrCorrupt)
	}
	object := make([]byte, len(body))
	copy(object, body)
	object[0] = '{'
	if err := json.Unmarshal(object, v); err != nil {
		return fmt.Errorf("record is %w: %w", tidemill.ErrCorrupt, err)
	}
	return nil
}
