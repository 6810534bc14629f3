package ps

import (
	"iter"
	"math/bits"
)

// dirty is a set of rows of a table, by row number: those that were inserted or changed since
// some moment. The zero value is the empty set. It grows with the table and costs a bit a row.
//
// A table marks rows in every set that track was called with, so that several can watch it
// for reasons of their own. A set is taken by swapping it for an empty one under the lock of
// the job; what was taken changes no more.
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
