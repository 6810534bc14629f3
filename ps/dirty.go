package ps

import (
	"iter"
	"math/bits"
	"slices"
)

// dirty is a set of rows of a table, by row number: those that were inserted or changed since
// some moment. The zero value is the empty set. It grows with the table and costs a bit a row.
//
// A set is taken by swapping it for an empty one under the lock of the job; what was taken changes
// no more.
type dirty struct {
	words []uint64
	n     int
}

// add puts row into d and reports whether it was not in it.
func (d *dirty) add(row int) bool {
	w, bit := row>>6, uint64(1)<<(row&63)
	if w >= len(d.words) {
		// Tables grow by one row at a time.
		d.words = append(d.words, make([]uint64, max(w+1-len(d.words), len(d.words)/4))...)
	}
	if d.words[w]&bit != 0 {
		return false
	}
	d.words[w] |= bit
	d.n++
	return true
}

// has reports whether row is in d.
func (d *dirty) has(row int) bool {
	w := row >> 6
	return w < len(d.words) && d.words[w]&(1<<(row&63)) != 0
}

// remove takes row out of d.
func (d *dirty) remove(row int) {
	if d.has(row) {
		d.words[row>>6] &^= 1 << (row & 63)
		d.n--
	}
}

// minus takes the rows of o out of d.
func (d *dirty) minus(o *dirty) {
	for i := range min(len(d.words), len(o.words)) {
		d.n -= bits.OnesCount64(d.words[i] & o.words[i])
		d.words[i] &^= o.words[i]
	}
}

// clone returns a copy of d.
func (d *dirty) clone() dirty { return dirty{slices.Clone(d.words), d.n} }

// len returns the number of rows in d.
func (d *dirty) len() int { return d.n }

// merge puts the rows of o into d.
func (d *dirty) merge(o *dirty) {
	if len(o.words) > len(d.words) {
		d.words = append(d.words, make([]uint64, len(o.words)-len(d.words))...)
	}
	for i, w := range o.words {
		d.n += bits.OnesCount64(w &^ d.words[i])
		d.words[i] |= w
	}
}

// take returns the rows of d and leaves d empty. It allocates nothing: d grows again as rows
// are added.
func (d *dirty) take() *dirty {
	t := *d
	*d = dirty{}
	return &t
}

// rows yields the rows of d in ascending order.
func (d *dirty) rows() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range d.words {
			for ; w != 0; w &= w - 1 {
				if !yield(i<<6 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// changes are what became of a table's rows since some moment. A table notes what happens in every
// one that track was called with, so that several can watch it for reasons of their own.
type changes struct {
	rows dirty    // inserted or changed, and there
	gone []uint64 // ids whose rows went, in order; they may have come back
}

func (c *changes) removed(row int, id uint64) {
	c.rows.remove(row)
	c.gone = append(c.gone, id)
}

// len returns how many rows and ids there are to tell of.
func (c *changes) len() int { return c.rows.len() + len(c.gone) }

// take returns the changes and leaves c empty.
func (c *changes) take() *changes {
	t := *c
	*c = changes{}
	return &t
}
