package feature

import (
	"bytes"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/bitutil"
)

// fieldIDs holds one sparse field of a batch. offs is empty when each row has exactly one id;
// otherwise row i has ids[offs[i]:offs[i+1]].
type fieldIDs struct {
	ids  []uint64
	offs []int32
}

// multi is a category with several values per row.
type multi struct {
	category
	separator []byte
	max       int
}

// lists reads the ranges of a list column.
type lists struct {
	child arrow.Array
	o32   []int32
	o64   []int64
	width int
	off   int
}

func listsOf(arr arrow.Array) (lists, bool) {
	l := lists{off: arr.Data().Offset()}
	switch a := arr.(type) {
	case *array.List:
		l.child, l.o32 = a.ListValues(), a.Offsets()
	case *array.LargeList:
		l.child, l.o64 = a.ListValues(), a.Offsets()
	case *array.FixedSizeList:
		l.child, l.width = a.ListValues(), int(a.DataType().(*arrow.FixedSizeListType).Len())
	default:
		return l, false
	}
	return l, true
}

// at returns the child range of row i.
func (l *lists) at(i int) (lo, hi int) {
	i += l.off
	switch {
	case l.o32 != nil:
		return int(l.o32[i]), int(l.o32[i+1])
	case l.o64 != nil:
		return int(l.o64[i]), int(l.o64[i+1])
	}
	return i * l.width, (i + 1) * l.width
}

// raw fills out with each row's distinct raw ids, at most max of them, in order of first
// occurrence. A null row has the null id alone, an empty one none.
func (m *multi) raw(out *fieldIDs, w *Workspace, arr arrow.Array) error {
	n := arr.Len()
	out.ids, out.offs = out.ids[:0], append(out.offs[:0], 0)
	if n == 0 {
		return nil
	}
	bitmap, off := nulls(arr)
	if l, ok := listsOf(arr); ok {
		lo, _ := l.at(0)
		_, hi := l.at(n - 1)
		elems := grow(&w.elems, hi-lo)
		if err := m.category.raw(elems, w, l.child, lo); err != nil {
			return err
		}
		for i := range n {
			start := len(out.ids)
			if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
				out.ids = append(out.ids, m.null)
			} else {
				a, b := l.at(i)
				for _, id := range elems[a-lo : b-lo] {
					if out.ids = appendNew(out.ids, start, id); len(out.ids)-start == m.max {
						break
					}
				}
			}
			out.offs = append(out.offs, int32(len(out.ids)))
		}
		return nil
	}
	if d, ok := arr.(*array.Dictionary); ok {
		t, err := textsOfData(d.Data().Dictionary())
		if err != nil {
			return err
		}
		dict := d.Data().Dictionary()
		var valid []byte
		if bufs := dict.Buffers(); dict.NullN() != 0 && bufs[0] != nil {
			valid = bufs[0].Bytes()
		}
		for i := range n {
			if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
				out.ids = append(out.ids, m.null)
			} else if k := d.GetValueIndex(i); k >= t.n {
				return mismatch(arr, "a dictionary with indices inside it")
			} else if valid != nil && bitutil.BitIsNotSet(valid, t.off+k) {
				out.ids = append(out.ids, m.null)
			} else {
				out.ids = m.split(out.ids, t.at(k))
			}
			out.offs = append(out.offs, int32(len(out.ids)))
		}
		return nil
	}
	t, err := textsOf(arr)
	if err != nil {
		return mismatch(arr, "a list or text")
	}
	for i := range n {
		if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
			out.ids = append(out.ids, m.null)
		} else {
			out.ids = m.split(out.ids, t.at(i))
		}
		out.offs = append(out.offs, int32(len(out.ids)))
	}
	return nil
}

// split appends the distinct raw ids of the non-empty parts of text.
func (m *multi) split(ids []uint64, text []byte) []uint64 {
	start := len(ids)
	for len(text) > 0 && len(ids)-start < m.max {
		part := text
		if k := bytes.Index(text, m.separator); k >= 0 {
			part, text = text[:k], text[k+len(m.separator):]
		} else {
			text = nil
		}
		if len(part) > 0 {
			ids = appendNew(ids, start, hashText(m.seed, part))
		}
	}
	return ids
}

// appendNew appends id unless ids[start:] holds it. Rows are short, so a scan is cheapest.
func appendNew(ids []uint64, start int, id uint64) []uint64 {
	for _, have := range ids[start:] {
		if have == id {
			return ids
		}
	}
	return append(ids, id)
}

// final turns raw ids into final ones, again distinct within each row.
func (m *multi) final(f *fieldIDs, st *State) {
	if m.direct() {
		return
	}
	m.category.final(f.ids, st)
	out := f.ids[:0]
	lo := f.offs[0]
	for i := 1; i < len(f.offs); i++ {
		start, hi := len(out), f.offs[i]
		for _, id := range f.ids[lo:hi] {
			out = appendNew(out, start, id)
		}
		lo, f.offs[i] = hi, int32(len(out))
	}
	f.ids = out
}

// maxCross bounds the ids that a cross of lists yields for one row.
const maxCross = 256

// cross writes the ordered combinations of the parts' ids to out. The first part varies
// slowest; a row keeps its first maxCross combinations.
func cross(out *fieldIDs, w *Workspace, seed uint64, n int, parts []int) {
	single := true
	for _, p := range parts {
		single = single && len(w.fields[p].offs) == 0
	}
	if single {
		out.offs = out.offs[:0]
		dst := grow(&out.ids, n)
		for i := range dst {
			dst[i] = seed
		}
		for _, p := range parts {
			src := w.fields[p].ids[:len(dst)]
			for i, id := range src {
				dst[i] = crossStep(dst[i], id)
			}
		}
		return
	}
	out.ids, out.offs = out.ids[:0], append(out.offs[:0], 0)
	for i := range n {
		cur := append(w.crossA[:0], seed)
		next := w.crossB
		for _, p := range parts {
			f := &w.fields[p]
			lo, hi := i, i+1
			if len(f.offs) > 0 {
				lo, hi = int(f.offs[i]), int(f.offs[i+1])
			}
			next = next[:0]
			for _, h := range cur {
				for _, id := range f.ids[lo:hi] {
					if len(next) == maxCross {
						break
					}
					next = append(next, crossStep(h, id))
				}
			}
			cur, next = next, cur
		}
		out.ids = append(out.ids, cur...)
		out.offs = append(out.offs, int32(len(out.ids)))
		w.crossA, w.crossB = cur, next
	}
}
