package snapshot

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/endian"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// Digest is a 128-bit number, low word first, that stands for a set of rows, blocks and
// named bytes: the sum, modulo 2^128, of a hash of each. Sums do not depend on order, so the
// digest of a job is the sum of the digests of its shards, however they are spread; and a
// change to one row costs one subtraction and one addition. The zero Digest is the empty set.
//
// It finds accidents, not adversaries: the hash is not cryptographic.
type Digest [2]uint64

// Add adds o to d.
func (d *Digest) Add(o Digest) {
	var carry uint64
	d[0], carry = bits.Add64(d[0], o[0], 0)
	d[1], _ = bits.Add64(d[1], o[1], carry)
}

// Sub takes o out of d: the inverse of Add.
func (d *Digest) Sub(o Digest) {
	var borrow uint64
	d[0], borrow = bits.Sub64(d[0], o[0], 0)
	d[1], _ = bits.Sub64(d[1], o[1], borrow)
}

// AddRow adds row id of a table, laid out as TableLayout says. table is tidemill.Hash of the
// table's name.
func (d *Digest) AddRow(table, id uint64, row []float32) { d.Add(RowDigest(table, id, row)) }

// SubRow takes a row out again; row must have the bits it was added with.
func (d *Digest) SubRow(table, id uint64, row []float32) { d.Sub(RowDigest(table, id, row)) }

// AddBlock adds a block of the dense tensor whose name hashes to tensor.
func (d *Digest) AddBlock(tensor uint64, b Block) { d.Add(BlockDigest(tensor, b)) }

// SubBlock takes a block out again; b must have the bits it was added with.
func (d *Digest) SubBlock(tensor uint64, b Block) { d.Sub(BlockDigest(tensor, b)) }

// AddAux adds named bytes.
func (d *Digest) AddAux(name string, data []byte) { d.Add(AuxDigest(name, data)) }

// SubAux takes named bytes out again.
func (d *Digest) SubAux(name string, data []byte) { d.Sub(AuxDigest(name, data)) }

// Kinds keep a row, a block and named bytes apart that happen to have equal contents.
const (
	digestRow uint64 = 1 + iota
	digestBlock
	digestAux
)

// RowDigest is what one row contributes: XXH3-128 over kind, table, id and the raw bits of
// the whole row, all little-endian. It allocates only for rows of more than 1000 floats.
func RowDigest(table, id uint64, row []float32) Digest {
	if len(row) <= 120 {
		var buf [24 + 4*120]byte
		return rowDigest(buf[:], table, id, row)
	}
	if len(row) <= 1000 {
		var buf [24 + 4*1000]byte
		return rowDigest(buf[:], table, id, row)
	}
	return rowDigest(make([]byte, 24+4*len(row)), table, id, row)
}

// rowDigest uses buf, which must hold 24+4*len(row) bytes.
func rowDigest(buf []byte, table, id uint64, row []float32) Digest {
	binary.LittleEndian.PutUint64(buf, digestRow)
	binary.LittleEndian.PutUint64(buf[8:], table)
	binary.LittleEndian.PutUint64(buf[16:], id)
	putFloats(buf[24:], row)
	return fromHash(xxh3.Hash128(buf[:24+4*len(row)]))
}

// putFloats writes the bits of src to dst, little-endian.
func putFloats(dst []byte, src []float32) {
	if !endian.IsBigEndian {
		copy(dst, arrow.Float32Traits.CastToBytes(src))
		return
	}
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

func fromHash(h xxh3.Uint128) Digest { return Digest{h.Lo, h.Hi} }

// BlockDigest is what one block contributes: XXH3-128 over kind, tensor, block number, the
// count at which the average was caught up, and weight, state and average, each after its
// length.
func BlockDigest(tensor uint64, b Block) Digest {
	h := xxh3.New128()
	var buf [4096]byte
	binary.LittleEndian.PutUint64(buf[:], digestBlock)
	binary.LittleEndian.PutUint64(buf[8:], tensor)
	binary.LittleEndian.PutUint64(buf[16:], uint64(b.Block))
	binary.LittleEndian.PutUint64(buf[24:], b.At)
	h.Write(buf[:32])
	for _, values := range [...][]float32{b.Weight, b.State, b.Average} {
		binary.LittleEndian.PutUint64(buf[:], uint64(len(values)))
		h.Write(buf[:8])
		for len(values) > 0 {
			n := min(len(values), len(buf)/4)
			putFloats(buf[:], values[:n])
			h.Write(buf[:4*n])
			values = values[n:]
		}
	}
	return fromHash(h.Sum128())
}

// AuxDigest is what named bytes contribute.
func AuxDigest(name string, data []byte) Digest {
	h := xxh3.New128()
	var buf [16]byte
	binary.LittleEndian.PutUint64(buf[:], digestAux)
	binary.LittleEndian.PutUint64(buf[8:], uint64(len(name)))
	h.Write(buf[:])
	h.WriteString(name)
	h.Write(data)
	return fromHash(h.Sum128())
}

// String returns d as 32 hexadecimal digits, high word first.
func (d Digest) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], d[1])
	binary.BigEndian.PutUint64(b[8:], d[0])
	return hex.EncodeToString(b[:])
}

// ParseDigest reads what String wrote. Anything else wraps tidemill.ErrInvalid.
func ParseDigest(s string) (Digest, error) {
	var b [16]byte
	if len(s) != 2*len(b) {
		return Digest{}, tidemill.Invalid("digest %q has %d characters", "a digest is 32 hexadecimal digits", clip(s), len(s))
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return Digest{}, tidemill.Invalid("digest %q is not hexadecimal", "a digest is 32 hexadecimal digits", clip(s))
	}
	return Digest{binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[:])}, nil
}

// clip shortens text of unknown origin before it goes into an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// MarshalText makes a Digest its String in JSON.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) error {
	v, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = v
	return nil
}
