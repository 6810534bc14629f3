package nats

import (
	"math"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// A message's header is a multiple of 8 bytes on the wire, while sequences have up to 13 digits.
func TestHeaderIsAligned(t *testing.T) {
	for _, seq := range []uint64{0, 7, 123456, 1e13 - 1} {
		h := expect(seq)
		n := len("NATS/1.0\r\n") + len("\r\n")
		for k, v := range h {
			n += len(k) + len(": ") + len(v[0]) + len("\r\n")
		}
		if n%8 != 0 {
			t.Errorf("sequence %d: a header of %d bytes", seq, n)
		}
	}
	if v := expect(math.MaxUint64)[nats.ExpectedLastSeqHdr][0]; strings.TrimLeft(v, "0") != "18446744073709551615" {
		t.Errorf("the largest sequence is %s", v)
	}
}
