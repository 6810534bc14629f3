package tidemill

import (
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
)

// Range is the half-open interval [First, Next) of offsets in one partition. Offsets need
// not be dense inside it (Kafka's have gaps), so Next-First bounds the rows, and no more.
type Range struct {
	First int64 `json:"first"`
	Next  int64 `json:"next"`
}

// Empty reports whether r holds no offset.
func (r Range) Empty() bool { return r.Next <= r.First }

func (r Range) String() string { return fmt.Sprintf("[%d,%d)", r.First, r.Next) }

// Overlaps reports whether r and s share an offset.
func (r Range) Overlaps(s Range) bool { return r.First < s.Next && s.First < r.Next }

// Cut is one offset per partition: everything below it is in, everything from it on is out.
type Cut []int64

// Clone returns a copy of c.
func (c Cut) Clone() Cut { return append(Cut(nil), c...) }

// Max returns the component-wise maximum of c and d, as long as the longer of the two.
func (c Cut) Max(d Cut) Cut {
	if len(d) > len(c) {
		c, d = d, c
	}
	m := c.Clone()
	for i, v := range d {
		m[i] = max(m[i], v)
	}
	return m
}

// Rows returns the sum of all components: the number of rows below the cut where offsets
// are dense and start at zero.
func (c Cut) Rows() int64 {
	var n int64
	for _, v := range c {
		n += v
	}
	return n
}

// Covers reports whether offset of partition lies below the cut.
func (c Cut) Covers(partition int, offset int64) bool {
	return partition < len(c) && offset < c[partition]
}

// Batch is contiguous examples of one partition.
type Batch struct {
	Partition int
	Range     Range
	// Rows holds the examples in offset order; the receiver releases it.
	Rows arrow.RecordBatch
	// Offsets[i] is the offset of row i, increasing. Nil where every offset of Range has its row:
	// row i is Range.First+i. Not nil, and empty, where Range holds no row.
	Offsets []int64
	// Bad lists what the stream holds in Range that is no row of the topic's schema, in offset
	// order; it is not in Rows.
	Bad []BadRecord
	// Appended is when the newest row was acknowledged by the stream.
	Appended time.Time
}

// Offset returns the offset of row i.
func (b Batch) Offset(i int) int64 {
	if b.Offsets != nil {
		return b.Offsets[i]
	}
	return b.Range.First + int64(i)
}

// BadRecord is what a stream holds at an offset and nobody can read as a row.
type BadRecord struct {
	Offset int64
	Reason string // what is wrong with it and where, one clause
	Raw    []byte // as it is stored; not to be changed
}

// Slice returns the part of b in r, which lies within b.Range. It shares b's rows; the caller
// releases it, and still owns b.
func (b Batch) Slice(r Range) Batch {
	lo, hi := r.First-b.Range.First, r.Next-b.Range.First
	out := b
	out.Range, out.Bad = r, nil
	if b.Offsets != nil {
		from, _ := slices.BinarySearch(b.Offsets, r.First)
		to, _ := slices.BinarySearch(b.Offsets, r.Next)
		lo, hi = int64(from), int64(to)
		out.Offsets = b.Offsets[from:to:to]
	}
	out.Rows = b.Rows.NewSlice(lo, hi)
	for _, bad := range b.Bad {
		if bad.Offset >= r.First && bad.Offset < r.Next {
			out.Bad = append(out.Bad, bad)
		}
	}
	return out
}
