package feature

import (
	"encoding/binary"
	"math/bits"
)

// hashTexts writes hashText of data[offs[i]:offs[i+1]] to dst[i]. Texts of 4 to 8 bytes, as ids and
// hashes written out are, take XXH3's short form without a call.
func hashTexts(dst []uint64, seed uint64, data []byte, offs []int32) {
	offs = offs[:len(dst)+1]
	// XXH3 of 4 to 8 bytes: what depends on the seed alone, with bytes 8 to 23 of its secret.
	const secret = 0x1cad21f72c81017c ^ 0xdb979083e96dd4de
	flip := secret - (seed ^ uint64(bits.ReverseBytes32(uint32(seed)))<<32)
	const prime = 0x9fb21c651e98df25
	from := offs[0]
	for i := range dst {
		to := offs[i+1]
		text := data[from:to]
		from = to
		if n := len(text); n >= 4 && n <= 8 {
			h := (uint64(binary.LittleEndian.Uint32(text[n-4:])) + uint64(binary.LittleEndian.Uint32(text))<<32) ^ flip
			h ^= bits.RotateLeft64(h, 49) ^ bits.RotateLeft64(h, 24)
			h *= prime
			h ^= h>>35 + uint64(n)
			h *= prime
			dst[i] = h ^ h>>28
			continue
		}
		dst[i] = hashText(seed, text)
	}
}

// ascii reports whether all bytes are below 0x80: such text is UTF-8 wherever it is cut.
func ascii(b []byte) bool {
	var all uint64
	for len(b) >= 32 {
		all |= binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) | binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		b = b[32:]
	}
	for _, c := range b {
		all |= uint64(c)
	}
	return all&0x8080808080808080 == 0
}

// span returns all bytes of t's values where they lie together, from the first to the last.
func (t *texts) span() ([]byte, bool) {
	switch {
	case t.n == 0:
		return nil, true
	case t.o32 != nil:
		return t.data[t.o32[t.off]:t.o32[t.off+t.n]], true
	case t.o64 != nil:
		return t.data[t.o64[t.off]:t.o64[t.off+t.n]], true
	}
	return nil, false
}
