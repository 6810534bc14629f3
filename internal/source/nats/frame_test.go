package nats

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := frame{
			first:       rapid.Int64Range(0, 1<<62).Draw(rt, "first"),
			rows:        rapid.Int64Range(1, 1<<32-1).Draw(rt, "rows"),
			fingerprint: rapid.Uint64().Draw(rt, "fingerprint"),
			mark:        rapid.Uint64().Draw(rt, "mark"),
			key:         rapid.SampledFrom([]string{"", "a/1", "/0", "a/b c/77", "äöü/9223372036854775807"}).Draw(rt, "key"),
			body:        rapid.SliceOf(rapid.Byte()).Draw(rt, "body"),
		}
		b := newFrame(f)
		seal(b, f.first)
		got, err := parseFrame(b)
		if err != nil {
			rt.Fatal(err)
		}
		if got.first != f.first || got.rows != f.rows || got.fingerprint != f.fingerprint || got.mark != f.mark || got.key != f.key || !bytes.Equal(got.body, f.body) {
			rt.Fatalf("wrote %+v, read %+v", f, got)
		}
		if (len(b)-len(f.body))%8 != 0 {
			rt.Fatalf("the body begins at byte %d", len(b)-len(f.body))
		}
		// Any flipped bit and any cut is noticed.
		i := rapid.IntRange(0, len(b)*8-1).Draw(rt, "bit")
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		if got, err := parseFrame(flipped); !errors.Is(err, tidemill.ErrCorrupt) {
			rt.Fatalf("bit %d flipped: %+v %v", i, got, err)
		}
		if _, err := parseFrame(b[:rapid.IntRange(0, len(b)-1).Draw(rt, "cut")]); !errors.Is(err, tidemill.ErrCorrupt) {
			rt.Fatalf("cut: %v", err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, key := range []string{"", "a/1"} {
		b := newFrame(frame{rows: 2, fingerprint: 3, mark: 4, key: key, body: []byte("12345678")})
		seal(b, 7)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= frameHeader {
			// Past the checksum, or nothing would be tried.
			seal(b, int64(b[16]))
		}
		got, err := parseFrame(b)
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if got.rows < 1 || got.first < 0 || len(got.body) > len(b) {
			t.Fatalf("%+v", got)
		}
	})
}
