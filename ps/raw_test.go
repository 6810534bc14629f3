package ps

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func bitsOf(v []float32) []uint32 {
	out := make([]uint32, len(v))
	for i, x := range v {
		out[i] = math.Float32bits(x)
	}
	return out
}

// TestRaw: what goes out is little-endian, whatever the machine, and comes back bit for bit,
// NaNs and unaligned bytes included.
func TestRaw(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		ids, values := make([]uint64, n), make([]float32, n)
		for i := range n {
			ids[i], values[i] = rng.Uint64(), math.Float32frombits(rng.Uint32())
		}
		if i := n - 1; i >= 0 {
			values[i] = math.Float32frombits(0x7f800001) // a signalling NaN
		}
		if !bytes.Equal(rawOf(ids), encode(ids)) || !bytes.Equal(rawOf(values), encode(values)) {
			t.Fatalf("%d values: memory and the written rule differ", n)
		}
		for shift := range 9 {
			wide := append(make([]byte, shift), encode(ids)...)[shift:]
			narrow := append(make([]byte, shift), encode(values)...)[shift:]
			again := make([]uint64, n)
			decode(again, wide)
			if !slices.Equal(valuesOf[uint64](wide), ids) || !slices.Equal(again, ids) {
				t.Fatalf("%d ids, shifted by %d: other ids came back", n, shift)
			}
			portable := make([]float32, n)
			decode(portable, narrow)
			if !slices.Equal(bitsOf(valuesOf[float32](narrow)), bitsOf(values)) || !slices.Equal(bitsOf(portable), bitsOf(values)) {
				t.Fatalf("%d values, shifted by %d: other bits came back", n, shift)
			}
			dst := make([]float32, 3, 64)
			if got := copyValues(dst, narrow); !slices.Equal(bitsOf(got), bitsOf(values)) || n > 0 && &got[0] != &dst[0] {
				t.Fatalf("%d values: not copied in place", n)
			}
		}
	}
	if whole[uint64](make([]byte, 12)) || !whole[float32](make([]byte, 12)) || whole[float32](make([]byte, 13)) {
		t.Error("whole numbers are miscounted")
	}
}
