package feature

import (
	"bytes"
	"math"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Texts hashed together have the hashes that they have alone.
func FuzzHashTexts(f *testing.F) {
	f.Add(uint64(0), []byte("0123456789abcdefghijklmnopqrstuvwxyz"), []byte{4, 5, 6, 7, 8, 0, 1, 2, 3})
	f.Add(uint64(math.MaxUint64), []byte("\x00\xff\x00\xff\x00\xff\x00\xff"), []byte{8})
	f.Fuzz(func(t *testing.T, seed uint64, data, lengths []byte) {
		offs := []int32{0}
		for _, n := range lengths {
			if end := offs[len(offs)-1] + int32(n); int(end) <= len(data) {
				offs = append(offs, end)
			}
		}
		got := make([]uint64, len(offs)-1)
		hashTexts(got, seed, data, offs)
		for i, h := range got {
			if text := data[offs[i]:offs[i+1]]; h != hashText(seed, text) {
				t.Errorf("%q under %d: %#x, alone %#x", text, seed, h, hashText(seed, text))
			}
		}
	})
}

func TestASCII(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Repeat([]byte{'a'}, rapid.IntRange(0, 99).Draw(t, "length"))
		if !ascii(b) {
			t.Fatalf("%d letters", len(b))
		}
		if len(b) > 0 {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = byte(rapid.IntRange(utf8.RuneSelf, 255).Draw(t, "byte"))
			if ascii(b) {
				t.Fatalf("%q", b)
			}
		}
	})
}

// Logarithms from the table are the same bits as those that are computed.
func TestLogTable(t *testing.T) {
	n := number{log1p: true, logs: logTable()}
	for _, v := range []float64{0, math.Copysign(0, -1), 0.5, 1, 1.5, -1, -3, 4095, 4095.5, 4096, 1e9, math.Inf(1), math.NaN(), 17, 2.0000000000000004} {
		want := math.Copysign(math.Log1p(math.Abs(v)), v)
		x := []float64{v}
		n.logarithm(x)
		if math.Float64bits(x[0]) != math.Float64bits(want) {
			t.Errorf("%v: %v, want %v", v, x[0], want)
		}
	}
}
