package feature

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
)

// category turns values into ids. Raw ids identify the value (or null); final ids are what
// tables are keyed by: raw ids reduced to buckets, or those outside the vocabulary merged.
type category struct {
	seed    uint64
	buckets uint64 // 0: all 64 bits
	vocab   *idSet // given vocabulary, or nil
	learned int    // index of the learned vocabulary, or -1
	null    uint64
	other   uint64
	unknown uint64
}

func newCategory(seed uint64) category {
	return category{
		seed:    seed,
		learned: -1,
		null:    special(seed, tagNull),
		other:   special(seed, tagOther),
		unknown: special(seed, tagUnknown),
	}
}

// direct reports whether raw ids are final.
func (c *category) direct() bool { return c.buckets == 0 && c.vocab == nil && c.learned < 0 }

func hashSigned[T ~int8 | ~int16 | ~int32 | ~int64](dst []uint64, seed uint64, src []T) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = hashNumber(seed, uint64(int64(v)))
	}
}

func hashUnsigned[T ~uint8 | ~uint16 | ~uint32 | ~uint64](dst []uint64, seed uint64, src []T) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = hashNumber(seed, canonUint(uint64(v)))
	}
}

func hashFloats[T ~float32 | ~float64](dst []uint64, seed uint64, src []T) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] = hashNumber(seed, canonFloat(float64(v)))
	}
}

// raw writes the raw ids of arr[lo:lo+len(dst)].
func (c *category) raw(dst []uint64, w *Workspace, arr arrow.Array, lo int) error {
	hi := lo + len(dst)
	switch a := arr.(type) {
	case *array.String:
		// The commonest layout gets a loop of its own.
		if len(dst) == 0 {
			return nil
		}
		hashTexts(dst, c.seed, w.bytesOf(arr), a.ValueOffsets()[lo:hi+1])
	case *array.Dictionary:
		return c.rawDictionary(dst, w, a, lo)
	case *array.Int64:
		hashSigned(dst, c.seed, a.Int64Values()[lo:hi])
	case *array.Int32:
		hashSigned(dst, c.seed, a.Int32Values()[lo:hi])
	case *array.Int16:
		hashSigned(dst, c.seed, a.Int16Values()[lo:hi])
	case *array.Int8:
		hashSigned(dst, c.seed, a.Int8Values()[lo:hi])
	case *array.Uint64:
		hashUnsigned(dst, c.seed, a.Uint64Values()[lo:hi])
	case *array.Uint32:
		hashUnsigned(dst, c.seed, a.Uint32Values()[lo:hi])
	case *array.Uint16:
		hashUnsigned(dst, c.seed, a.Uint16Values()[lo:hi])
	case *array.Uint8:
		hashUnsigned(dst, c.seed, a.Uint8Values()[lo:hi])
	case *array.Float64:
		hashFloats(dst, c.seed, a.Float64Values()[lo:hi])
	case *array.Float32:
		hashFloats(dst, c.seed, a.Float32Values()[lo:hi])
	case *array.Float16:
		for i, v := range a.Values()[lo:hi] {
			dst[i] = hashNumber(c.seed, canonFloat(float64(v.Float32())))
		}
	case *array.Boolean:
		for i := range dst {
			var x uint64
			if a.Value(lo + i) {
				x = 1
			}
			dst[i] = hashNumber(c.seed, x)
		}
	case *array.Timestamp, *array.Date32, *array.Date64:
		ms := grow(&w.millis, arr.Len())
		if err := loadMillis(ms, arr); err != nil {
			return err
		}
		hashSigned(dst, c.seed, ms[lo:hi])
	default:
		t, err := textsOf(arr)
		if err != nil {
			return err
		}
		for i := range dst {
			dst[i] = hashText(c.seed, t.at(lo+i))
		}
	}
	if bitmap, off := nulls(arr); bitmap != nil {
		for i := range dst {
			if bitutil.BitIsNotSet(bitmap, off+lo+i) {
				dst[i] = c.null
			}
		}
	}
	return nil
}

// rawDictionary is raw for dictionary-encoded text. A dictionary no longer than the rows is
// hashed once; a longer one (a few rows of a large table) only where it is used.
func (c *category) rawDictionary(dst []uint64, w *Workspace, a *array.Dictionary, lo int) error {
	d := a.Data().Dictionary()
	t, err := textsOfData(d)
	if err != nil {
		return err
	}
	var valid []byte
	if bufs := d.Buffers(); d.NullN() != 0 && bufs[0] != nil {
		valid = bufs[0].Bytes()
	}
	bitmap, off := nulls(a)
	var table []uint64
	if t.n <= len(dst) {
		table = grow(&w.dict, t.n)
		for k := range table {
			table[k] = hashText(c.seed, t.at(k))
		}
	}
	for i := range dst {
		if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+lo+i) {
			dst[i] = c.null
			continue
		}
		k := a.GetValueIndex(lo + i)
		switch {
		case k >= t.n:
			return mismatch(a, "a dictionary with indices inside it")
		case valid != nil && bitutil.BitIsNotSet(valid, t.off+k):
			dst[i] = c.null
		case table != nil:
			dst[i] = table[k]
		default:
			dst[i] = hashText(c.seed, t.at(k))
		}
	}
	return nil
}

// final turns raw ids into final ones in place.
func (c *category) final(ids []uint64, st *State) {
	switch {
	case c.buckets > 0:
		for i, id := range ids {
			if id != c.null {
				ids[i] = reduce(c.seed, id, c.buckets)
			}
		}
	case c.vocab != nil:
		for i, id := range ids {
			if id != c.null && c.vocab.get(id) < 0 {
				ids[i] = c.other
			}
		}
	case c.learned >= 0:
		v := &st.vocabs[c.learned]
		for i, id := range ids {
			switch {
			case id == c.null:
			case !v.frozen:
				ids[i] = c.unknown
			case v.set.get(id) < 0:
				ids[i] = v.other
			}
		}
	}
}

// bytesOf returns all value bytes that the offsets of a text array index.
func (w *Workspace) bytesOf(arr arrow.Array) []byte {
	if b := arr.Data().Buffers()[2]; b != nil {
		return b.Bytes()
	}
	return nil
}
