package frame

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := Frame{
			First:       rapid.Int64Range(0, 1<<62).Draw(rt, "first"),
			Rows:        rapid.Int64Range(1, 1<<32-1).Draw(rt, "rows"),
			Fingerprint: rapid.Uint64().Draw(rt, "fingerprint"),
			Mark:        rapid.Uint64().Draw(rt, "mark"),
			Key:         rapid.SampledFrom([]string{"", "a/1", "/0", "a/b c/77", "äöü/9223372036854775807"}).Draw(rt, "key"),
			Body:        rapid.SliceOf(rapid.Byte()).Draw(rt, "body"),
		}
		b := New(f)
		Seal(b, f.First)
		got, err := Parse(b)
		if err != nil {
			rt.Fatal(err)
		}
		if got.First != f.First || got.Rows != f.Rows || got.Fingerprint != f.Fingerprint || got.Mark != f.Mark || got.Key != f.Key || !bytes.Equal(got.Body, f.Body) {
			rt.Fatalf("wrote %+v, read %+v", f, got)
		}
		if (len(b)-len(f.Body))%8 != 0 {
			rt.Fatalf("the body begins at byte %d", len(b)-len(f.Body))
		}
		// Any flipped bit and any cut is noticed.
		i := rapid.IntRange(0, len(b)*8-1).Draw(rt, "bit")
		flipped := bytes.Clone(b)
		flipped[i/8] ^= 1 << (i % 8)
		if got, err := Parse(flipped); !errors.Is(err, tidemill.ErrCorrupt) {
			rt.Fatalf("bit %d flipped: %+v %v", i, got, err)
		}
		if _, err := Parse(b[:rapid.IntRange(0, len(b)-1).Draw(rt, "cut")]); !errors.Is(err, tidemill.ErrCorrupt) {
			rt.Fatalf("cut: %v", err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	for _, key := range []string{"", "a/1"} {
		b := New(Frame{Rows: 2, Fingerprint: 3, Mark: 4, Key: key, Body: []byte("12345678")})
		Seal(b, 7)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize {
			// Past the checksum, or nothing would be tried.
			Seal(b, int64(b[16]))
		}
		got, err := Parse(b)
		if err != nil {
			if !errors.Is(err, tidemill.ErrCorrupt) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if got.Rows < 1 || got.First < 0 || len(got.Body) > len(b) {
			t.Fatalf("%+v", got)
		}
	})
}
