package ps

import (
	"math/bits"
	"unsafe"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// lineSlots is how many entries a line of an index has.
const lineSlots = 12

// line is one cache line of an index: twelve entries, each a tag of the id's hash and the number
// of its row, so that a look-up touches one line here and then the row.
//
// tags[0] holds the tags of entries 0 to 7, a byte each from the lowest on; the lower half of
// tags[1] those of entries 8 to 11. Tag 0 is a free entry. The upper half of tags[1] counts the
// rows that found this line full on their way to a later one: at 0 a look-up ends here.
type line struct {
	tags [2]uint64
	rows [lineSlots]uint32
}

const (
	low7  = 0x7f7f7f7f7f7f7f7f
	every = 0x0101010101010101
	half  = 1<<32 - 1
)

// match returns the entries with the given tag, as a set of bits: bit 8·i+7 of lo is entry i,
// bit 8·i+7 of hi entry 8+i.
func (l *line) match(tag uint8) (lo, hi uint64) {
	b := uint64(tag) * every
	lo, hi = l.tags[0]^b, l.tags[1]^b|^uint64(half)
	// A byte of x is 0 exactly where neither it nor the sum of its lower bits has the top bit.
	return ^((lo&low7 + low7) | lo | low7), ^((hi&low7 + low7) | hi | low7)
}

// first returns the row of the first entry of a match; ok is false when there is none.
func (l *line) first(lo, hi uint64) (row uint32, ok bool) {
	switch {
	case lo != 0:
		return l.rows[bits.TrailingZeros64(lo)>>3], true
	case hi != 0:
		return l.rows[8+bits.TrailingZeros64(hi)>>3], true
	}
	return 0, false
}

// passed returns how many rows found the line full.
func (l *line) passed() uint32 { return uint32(l.tags[1] >> 32) }

func (l *line) set(entry int, tag uint8, row uint32) {
	shift := entry & 7 * 8
	l.tags[entry>>3] = l.tags[entry>>3]&^(uint64(0xff)<<shift) | uint64(tag)<<shift
	l.rows[entry] = row
}

func (l *line) tag(entry int) uint8 { return uint8(l.tags[entry>>3] >> (entry & 7 * 8)) }

// place puts a row into the first free entry; false when there is none.
func (l *line) place(tag uint8, row uint32) bool {
	lo, hi := l.match(0)
	switch {
	case lo != 0:
		l.set(bits.TrailingZeros64(lo)>>3, tag, row)
	case hi != 0:
		l.set(8+bits.TrailingZeros64(hi)>>3, tag, row)
	default:
		return false
	}
	return true
}

// A segment holds at most segmentLines lines, unless ids were chosen to fall into one; it is
// all that ever moves at a time.
const segmentLines = 1024

// crowded reports whether a segment of m lines with n rows needs more lines before it takes
// another row: with more than seven of eight entries in use, too many look-ups need a second line.
func crowded(m int, n int32) bool { return int(n)*8 >= m*lineSlots*7 }

// lookup is a place in the directory of an index.
type lookup struct {
	lines   []line
	segment uint32
}

// segment is one of the small hash tables that an index consists of: those rows whose hashes
// agree in the lowest depth bits.
type segment struct {
	n     int32
	depth uint8
	low   uint32 // those bits
}

// index finds the number of a row by its id. It holds no ids: whoever looks up compares the id
// in the row's cell.
//
// It is a directory of segments (extendible hashing). A segment that is full grows by a
// quarter; one that is large splits in two. So what an insertion moves is bounded, however many
// rows there are, the memory follows the number of rows, and the garbage collector sees a
// pointer for every few thousand of them.
type index struct {
	dir      []lookup // 1<<depth
	depth    uint8
	segments []segment
	most     int // entries that one insertion has moved at most
}

func newIndex() index {
	return index{dir: []lookup{{lines: make([]line, 1)}}, segments: make([]segment, 1)}
}

// Of the hash of an id, tidemill.Mix, the upper bits choose the shard, those below tell the tag
// and the lower half the segment, by its lowest bits, and the line, by its highest.

func tagOf(hash uint64) uint8 {
	t := uint8(hash >> 32)
	return t + uint8((uint16(t)-1)>>15) // 1 in place of 0
}

// at returns where a hash is looked up first.
func (x *index) at(hash uint64) (in []line, first int) {
	in = x.dir[hash&uint64(len(x.dir)-1)].lines
	return in, startOf(in, hash)
}

func startOf(in []line, hash uint64) int {
	return int(uint64(uint32(hash)) * uint64(len(in)) >> 32)
}

// find returns the row whose cell has the id, or -1. hash is the id's.
func (x *index) find(c *cells, id, hash uint64) int {
	in, i := x.at(hash)
	tag := tagOf(hash)
	for range in {
		l := &in[i]
		lo, hi := l.match(tag)
		for ; lo != 0; lo &= lo - 1 {
			if row := l.rows[bits.TrailingZeros64(lo)>>3]; c.id(int(row)) == id {
				return int(row)
			}
		}
		for ; hi != 0; hi &= hi - 1 {
			if row := l.rows[8+bits.TrailingZeros64(hi)>>3]; c.id(int(row)) == id {
				return int(row)
			}
		}
		if l.passed() == 0 {
			return -1
		}
		if i++; i == len(in) {
			i = 0
		}
	}
	return -1
}

// insert adds a row whose id is not in the index.
func (x *index) insert(c *cells, hash uint64, row int) {
	d := &x.dir[hash&uint64(len(x.dir)-1)]
	if s := &x.segments[d.segment]; crowded(len(d.lines), s.n) {
		x.grow(c, d.segment)
		d = &x.dir[hash&uint64(len(x.dir)-1)]
	}
	x.segments[d.segment].n++
	put(d.lines, hash, uint32(row))
}

// put places a row in lines that have a free entry.
func put(in []line, hash uint64, row uint32) {
	tag := tagOf(hash)
	for i := startOf(in, hash); ; {
		if in[i].place(tag, row) {
			return
		}
		in[i].tags[1] += 1 << 32
		if i++; i == len(in) {
			i = 0
		}
	}
}

// remove takes a row out. It must be there.
func (x *index) remove(hash uint64, row int) {
	d := &x.dir[hash&uint64(len(x.dir)-1)]
	x.segments[d.segment].n--
	tag := tagOf(hash)
	for i := startOf(d.lines, hash); ; {
		l := &d.lines[i]
		for e := range lineSlots {
			if l.rows[e] == uint32(row) && l.tag(e) == tag {
				l.set(e, 0, 0)
				return
			}
		}
		l.tags[1] -= 1 << 32
		if i++; i == len(d.lines) {
			i = 0
		}
	}
}

// grow gives a crowded segment more lines, or splits it.
func (x *index) grow(c *cells, number uint32) {
	s := &x.segments[number]
	old := x.dir[s.low].lines
	rows, hashes := x.collect(c, old, int(s.n))
	x.most = max(x.most, len(rows))
	m := len(old) + max(1, len(old)/4)
	// Halves of rows that agree in many more bits would not be halves: rows that were made to
	// fall into one segment stay in one.
	if m <= segmentLines || int(s.depth) >= bits.Len(uint(c.n/segmentLines))+4 {
		in := make([]line, m)
		for i, row := range rows {
			put(in, hashes[i], row)
		}
		x.point(number, in)
		return
	}
	if s.depth == x.depth {
		x.dir = append(x.dir, x.dir...)
		x.depth++
	}
	bit := uint32(1) << s.depth
	s.depth++
	other := segment{depth: s.depth, low: s.low | bit}
	s.n = 0
	for _, h := range hashes {
		if uint32(h)&bit == 0 {
			s.n++
		} else {
			other.n++
		}
	}
	x.segments = append(x.segments, other)
	s = &x.segments[number]
	pair := [2][]line{make([]line, room(s.n)), make([]line, room(other.n))}
	for i, row := range rows {
		half := 0
		if uint32(hashes[i])&bit != 0 {
			half = 1
		}
		put(pair[half], hashes[i], row)
	}
	x.point(number, pair[0])
	x.point(uint32(len(x.segments)-1), pair[1])
}

// room returns how many lines n rows get: a fifth more than would be crowded.
func room(n int32) int { return int(n)*10/(lineSlots*7) + 1 }

// collect returns the rows of lines and the hashes of their ids.
func (x *index) collect(c *cells, in []line, n int) (rows []uint32, hashes []uint64) {
	rows, hashes = make([]uint32, 0, n), make([]uint64, 0, n)
	for i := range in {
		l := &in[i]
		for e := range lineSlots {
			if l.tag(e) != 0 {
				rows = append(rows, l.rows[e])
			}
		}
	}
	// The ids lie anywhere in memory.
	var cell [blockRows]unsafe.Pointer
	for from := 0; from < len(rows); from += blockRows {
		part := rows[from:min(len(rows), from+blockRows)]
		for i, row := range part {
			cell[i] = c.address(int(row))
		}
		kernel.Prefetch(cell[:len(part)], 1)
		for _, row := range part {
			hashes = append(hashes, tidemill.Mix(c.id(int(row))))
		}
	}
	return rows, hashes
}

// point makes in the lines of a segment.
func (x *index) point(number uint32, in []line) {
	s := &x.segments[number]
	for i := int(s.low); i < len(x.dir); i += 1 << s.depth {
		x.dir[i] = lookup{in, number}
	}
}
