package ps

import (
	"math/bits"

	"github.com/tidemill/tidemill"
)

// A table's rows are looked at in slices, one after the other: which slice a row belongs to is in
// eight bits of its id's hash, whatever shard it is in. So which rows go when is a function of the
// examples of the job, and none of what looking takes is done at once.
const slicesOfRows = 256

// mostUses is where a row's count of uses stops.
const mostUses = 1 << 24

// In the word of a row that counts its uses the lowest bit says that it was looked at before, the
// others are the batches that updated it since.

// used counts an update of a row.
func (t *table) used(row []float32) {
	if w := t.layout.UsesOf(row); w < mostUses<<1 {
		t.layout.PutUses(row, w+2)
	}
}

// looks returns how many slices a job has looked at after so many examples.
func looks(every, examples int64) int64 {
	return examples/every*slicesOfRows + examples%every*slicesOfRows/every
}

// expire looks at the slices that are due once a batch of k examples after before of the job is
// applied, and removes the rows in them that were not used often enough.
func (t *table) expire(before, k int64) {
	if !t.layout.Uses || k <= 0 {
		return
	}
	from, to := looks(t.layout.Expire.Every, before), looks(t.layout.Expire.Every, before+k)
	for n := max(from, to-slicesOfRows); n < to; n++ {
		t.look(uint32(n%slicesOfRows), max(1, uint32(t.layout.Expire.Uses)))
	}
}

// look looks at the rows of one slice: those whose hash has the slice's lower half in its lowest
// bits, which segments are chosen by, and its upper half in the upper bits of the tag. So a part
// of the segments is read, and of the rows hardly more than those of the slice.
func (t *table) look(slice, least uint32) {
	const low = 4 // bits
	var due []int
	x := &t.index
	at, step := int(slice&(1<<low-1)), 1<<low
	for i := at & (len(x.dir) - 1); i < len(x.dir); i += step {
		s := &x.segments[x.dir[i].segment]
		if i >= 1<<max(s.depth, low) {
			continue // seen at a lower place of the directory
		}
		for l := range x.dir[i].lines {
			in := &x.dir[i].lines[l]
			lo, hi := in.matchUpper(uint8(slice >> low))
			for ; lo != 0; lo &= lo - 1 {
				due = t.due(due, in, bits.TrailingZeros64(lo)>>3, slice&(1<<low-1), least)
			}
			for ; hi != 0; hi &= hi - 1 {
				due = t.due(due, in, 8+bits.TrailingZeros64(hi)>>3, slice&(1<<low-1), least)
			}
		}
	}
	for _, row := range due {
		t.remove(row)
	}
}

// due looks at the row of an entry, if there is one and its hash ends in low, and appends it to
// rows if it is to go.
func (t *table) due(rows []int, l *line, entry int, low, least uint32) []int {
	if l.tag(entry) == 0 {
		return rows
	}
	row := int(l.rows[entry])
	id := t.id(row)
	if uint32(tidemill.Mix(id))&15 != low || id == t.fallback && t.most > 0 {
		return rows
	}
	if uses := t.layout.UsesOf(t.row(row)); uses&1 == 1 && uses>>1 < least {
		return append(rows, row)
	}
	r := t.writable(row)
	t.layout.PutUses(r, 1)
	t.store(row, r)
	return rows
}

// matchUpper returns the entries whose tag has the given upper half, free ones among them where
// that is 0.
func (l *line) matchUpper(upper uint8) (lo, hi uint64) {
	const halves = 0xf0f0f0f0f0f0f0f0
	b := uint64(upper) << 4 * every
	lo, hi = (l.tags[0]^b)&halves, (l.tags[1]^b)&halves|^uint64(half)
	return ^((lo&low7 + low7) | lo | low7), ^((hi&low7 + low7) | hi | low7)
}
