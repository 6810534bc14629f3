package engine

import "github.com/tidemill/tidemill"

// Scratch is the memory that BuildLookup works in. The zero value is ready; one goroutine at
// a time may use it, for any number of tables and batches.
type Scratch struct {
	// slots is open addressing by linear probing: the stamp of the call that filled a slot
	// (upper half) and the index into Unique (lower half). A slot with another stamp is
	// empty, so nothing is cleared between calls and a small batch after a large one costs
	// what a small one does.
	slots []uint64
	stamp uint32
	uses  []bool
	// Of Sort: the shard of each id, then where it goes; where a shard's begin; the ids.
	place  []int32
	starts []int32
	ids    []uint64
}

// BuildLookup finds the distinct ids that a table needs of in and writes them, and where each
// occurrence finds its row, to look, whose slices it reuses. uses says whether a field looks
// up in the table; it is asked once for each field. In the steady state nothing is allocated.
func BuildLookup(look *Lookup, scratch *Scratch, in *Inputs, uses func(field int) bool) {
	look.Unique = look.Unique[:0]
	look.Index = grow(look.Index, len(in.IDs))
	if len(in.IDs) == 0 {
		return
	}
	scratch.uses = grow(scratch.uses, in.Fields)
	every := true
	for f := range scratch.uses {
		scratch.uses[f] = uses(f)
		every = every && scratch.uses[f]
	}
	mask := scratch.begin(len(in.IDs))
	if every {
		scratch.add(look, in.IDs, look.Index, mask)
		return
	}
	for i := range in.N {
		for f, used := range scratch.uses {
			at := i*in.Fields + f
			lo, hi := in.Offsets[at], in.Offsets[at+1]
			if used {
				scratch.add(look, in.IDs[lo:hi], look.Index[lo:hi], mask)
				continue
			}
			for j := lo; j < hi; j++ {
				look.Index[j] = -1
			}
		}
	}
}

// Lookups builds the lookup of every table of m, reusing look.
func Lookups(look []Lookup, scratch *Scratch, in *Inputs, m Model) []Lookup {
	n := len(m.Tables())
	for len(look) < n {
		look = append(look, Lookup{})
	}
	look = look[:n]
	for t := range look {
		BuildLookup(&look[t], scratch, in, func(f int) bool { return m.UsesField(t, f) })
	}
	return look
}

// Sort brings the distinct ids of look, all of which have been built, into the order of their shards
// of v, those of one shard in order of first occurrence. A parameter server finds rows of one shard
// close to each other, and can serve shards at the same time.
func (s *Scratch) Sort(look *Lookup, v int) {
	n := len(look.Unique)
	s.place, s.starts, s.ids = grow(s.place, n), grow(s.starts, v+1), grow(s.ids, n)
	clear(s.starts)
	for k, id := range look.Unique {
		shard := tidemill.ShardOf(id, v)
		s.place[k] = int32(shard)
		s.starts[shard+1]++
	}
	for i := range v {
		s.starts[i+1] += s.starts[i]
	}
	for k, id := range look.Unique {
		at := s.starts[s.place[k]]
		s.starts[s.place[k]]++
		s.place[k], s.ids[at] = at, id
	}
	look.Unique, s.ids = s.ids, look.Unique
	for j, k := range look.Index {
		if k >= 0 {
			look.Index[j] = s.place[k]
		}
	}
}

// begin starts a call with at most n distinct ids and returns the mask of slot positions; at
// most half of the slots under it will be filled.
func (s *Scratch) begin(n int) (mask uint64) {
	size := 16
	for size < 2*n {
		size *= 2
	}
	if len(s.slots) < size {
		s.slots = make([]uint64, size)
		s.stamp = 0
	}
	s.stamp++
	if s.stamp == 0 { // wrapped: old stamps would look new
		clear(s.slots)
		s.stamp = 1
	}
	return uint64(size - 1)
}

// add writes the positions of ids in look.Unique to index, appending those that are new.
func (s *Scratch) add(look *Lookup, ids []uint64, index []int32, mask uint64) {
	stamp := uint64(s.stamp) << 32
	unique := look.Unique
	for j, id := range ids {
		for h := tidemill.Mix(id); ; h++ {
			slot := s.slots[h&mask]
			if slot&^0xffffffff != stamp {
				s.slots[h&mask] = stamp | uint64(len(unique))
				index[j] = int32(len(unique))
				unique = append(unique, id)
				break
			}
			if at := uint32(slot); unique[at] == id {
				index[j] = int32(at)
				break
			}
		}
	}
	look.Unique = unique
}

// grow returns a slice of length n, s itself where it is large enough. Its contents are
// unspecified.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/4)
	}
	return s[:n]
}
