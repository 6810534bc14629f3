package quant

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var all = []Format{Float32, BFloat16, Float16, Int8}

func bits(w []float32) []uint32 {
	out := make([]uint32, len(w))
	for i, x := range w {
		out[i] = math.Float32bits(x)
	}
	return out
}

func weights(rng *rand.Rand, n int) []float32 {
	w := make([]float32, n)
	for i := range w {
		switch rng.IntN(12) {
		case 0:
			w[i] = float32(math.Copysign(0, rng.NormFloat64()))
		case 1:
			w[i] = math.Float32frombits(rng.Uint32() & 0xbfffffff) // up to 2
		case 2:
			w[i] = math.Float32frombits(rng.Uint32())
			if w[i] != w[i] {
				w[i] = float32(math.Inf(1))
			}
		case 3:
			w[i] = float32(rng.NormFloat64()) * 0x1p-20
		default:
			w[i] = float32(rng.NormFloat64())
		}
	}
	return w
}

// step is the distance of two neighbouring values of f about x, in a row whose scale is given.
func step(f Format, x, scale float32) float64 {
	_, e := math.Frexp(float64(x)) // |x| in [2^(e-1), 2^e)
	switch f {
	case BFloat16:
		return math.Ldexp(1, max(e-8, -133))
	case Float16:
		return math.Ldexp(1, max(e-11, -24))
	case Int8:
		return float64(scale)
	}
	return 0
}

// TestPackedIsRounded: rounding moves a weight by less than a step, rounding again and packing
// change nothing, and words are as many as stated.
func TestPackedIsRounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := weights(rng, 1+rng.IntN(40))
		for _, f := range all {
			most := map[Format]float64{Float32: math.Inf(1), BFloat16: 0x1.fep127, Float16: 65504, Int8: 127 * 0x1p121}[f]
			for _, nearest := range []bool{false, true} {
				r := slices.Clone(w)
				if nearest {
					f.Nearest(r)
				} else {
					f.Round(r, rng.Uint64())
				}
				scale := int8Scale(f, w)
				for i, x := range w {
					want := max(-most, min(most, float64(x)))
					if d := math.Abs(float64(r[i]) - want); f != Float32 && d > 0 && (d >= step(f, x, scale) || nearest && d > step(f, x, scale)/2) {
						t.Fatalf("%d: %v of %v became %v, further than a step of %v", f, x, w, r[i], step(f, x, scale))
					}
				}
				again := slices.Clone(r)
				f.Nearest(again)
				if !slices.Equal(bits(again), bits(r)) {
					t.Fatalf("%d: %v rounded again is %v", f, r, again)
				}
				f.Round(again, rng.Uint64())
				if !slices.Equal(bits(again), bits(r)) {
					t.Fatalf("%d: %v rounded again at random is %v", f, r, again)
				}
				packed, out := make([]float32, f.Words(len(r))), make([]float32, len(r))
				f.Pack(packed, r)
				if f.Unpack(out, packed); !slices.Equal(bits(out), bits(r)) {
					t.Fatalf("%d: %v packed and unpacked is %v", f, r, out)
				}
			}
		}
	})
}

// TestRoundIsFair: the mean over many keys is the weight, to within what chance allows, and the
// bits depend on the key alone.
func TestRoundIsFair(t *testing.T) {
	w := []float32{0.3001, -0.7003, 1.0009, 3e-6, -0.11}
	const n = 20_000
	for _, f := range all[1:] {
		sum := make([]float64, len(w))
		for key := range uint64(n) {
			a, b := slices.Clone(w), slices.Clone(w)
			f.Round(a, key*0x9e3779b97f4a7c15)
			f.Round(b, key*0x9e3779b97f4a7c15)
			if !slices.Equal(bits(a), bits(b)) {
				t.Fatalf("%d: the same key rounds to %v and %v", f, a, b)
			}
			for i, x := range a {
				sum[i] += float64(x)
			}
		}
		for i, s := range sum {
			d := step(f, w[i], int8Scale(f, w))
			// One draw deviates by at most half a step in the mean square, and 2^-16 of a step is lost.
			if off := math.Abs(s/n - float64(w[i])); off > d*(6*0.5/math.Sqrt(n)+0x1p-15) {
				t.Errorf("%d: the mean of %v is %v, off by %v steps", f, w[i], s/n, off/d)
			}
		}
	}
}

// TestNaN: a weight that is no number stays none.
func TestNaN(t *testing.T) {
	for _, f := range all {
		w := []float32{1, float32(math.NaN()), 2}
		f.Round(w, 7)
		packed, out := make([]float32, f.Words(3)), make([]float32, 3)
		f.Pack(packed, w)
		if f.Unpack(out, packed); out[1] == out[1] {
			t.Errorf("%d: NaN became %v", f, out[1])
		}
	}
}

func TestNames(t *testing.T) {
	for i, name := range Names() {
		if f, ok := Parse(name); !ok || f != Format(i) {
			t.Errorf("%s is %d, %v", name, f, ok)
		}
	}
	if f, ok := Parse(""); !ok || f != Float32 {
		t.Error("no name is not float32")
	}
	if _, ok := Parse("float8"); ok {
		t.Error("float8 is a format")
	}
}
