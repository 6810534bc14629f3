package tidemill

import (
	"fmt"
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
	// Offsets[i] is the offset of row i. Nil where offsets are dense: row i is Range.First+i.
	Offsets []int64
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
