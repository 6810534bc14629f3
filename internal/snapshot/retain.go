package snapshot

import (
	"slices"
	"strings"
)

// This file decides what of a job's snapshots may go. It is pure: collect.go looks, asks Decide
// and carries out.
//
// Why what it finds is garbage stays garbage, whoever runs it and however late the removal
// comes: a snapshot written later refers to blobs of its own, in the folder of its own number,
// and to blobs that the snapshot committed just before it refers to. The newest snapshot is
// always kept, and nothing is removed from folders above the last record. So no later manifest
// can come to need what the newest one that the collector saw does not need, not even when that
// one is old by now. Only somebody who takes up an older snapshot could, and he holds it by a
// savepoint, made so that one of the two always sees the other (docs/design/0016).

// ChainRecord is what Decide looks at of one record of a job's chain.
type ChainRecord struct {
	Number int64
	Fence  bool
	// Damaged: it cannot be read, and so neither be restored nor say what it needs.
	Damaged bool
	Blobs   []string // that a restore of it reads
}

// Collection is what a collector has taken, or is about to: it is recorded before anything is
// removed, so that nobody counts on it any more.
type Collection struct {
	// Below is the first record of the chain that stays.
	Below int64 `json:"below"`
	// Snapshots, ascending, are those from Below on whose records stay and whose blobs do not: they
	// cannot be restored, but say how training went on from one that can.
	Snapshots []int64 `json:"snapshots"`
}

// Has reports whether snapshot n is taken.
func (c *Collection) Has(n int64) bool {
	_, found := slices.BinarySearch(c.Snapshots, n)
	return found || n < c.Below
}

// Needs is what must stay.
type Needs struct {
	// Keep is how many of the newest snapshots stay whole, at least 1.
	Keep int
	// Held snapshots stay whole as well: those of savepoints, and whatever else reads one.
	Held map[int64]bool
}

// Decide returns what may be taken, given the records of a chain (ascending, without a gap),
// what was taken before, and the names of all blobs below the chain's prefix; and of those the
// ones that may be removed, in their order.
//
// The last record and the newest snapshot are always kept. What was taken once is not whole
// any more, and does not count as kept; if it is held all the same, what is left of it stays.
// While the newest snapshot is damaged nothing may be taken: a trainer that still runs bases
// its next one on it.
func Decide(records []ChainRecord, was Collection, blobs []string, prefix string, n Needs) (Collection, []string) {
	if len(records) == 0 {
		return was, nil
	}
	last := records[len(records)-1].Number
	whole := map[int64]bool{}
	left := max(1, n.Keep)
	newest := true
	for _, r := range slices.Backward(records) {
		if r.Damaged && newest {
			return was, nil
		}
		if r.Fence || r.Damaged {
			continue
		}
		if left > 0 && (newest || !was.Has(r.Number)) {
			whole[r.Number] = true
			left--
		}
		newest = false
	}
	needed := map[string]bool{}
	below := last
	taken := Collection{}
	for _, r := range slices.Backward(records) {
		if r.Fence || r.Damaged || !whole[r.Number] && !n.Held[r.Number] {
			continue
		}
		below = r.Number
		for _, b := range r.Blobs {
			needed[b] = true
		}
	}
	taken.Below = max(below, was.Below)
	for _, r := range records {
		if !r.Fence && r.Number >= taken.Below && !whole[r.Number] && (!n.Held[r.Number] || was.Has(r.Number)) {
			taken.Snapshots = append(taken.Snapshots, r.Number)
		}
	}
	var gone []string
	for _, name := range blobs {
		number, ok := folderOf(name, prefix)
		if ok && number <= last && !needed[name] {
			gone = append(gone, name)
		}
	}
	return taken, gone
}

// Confirm returns what of gone may really be removed, once it was recorded what is taken: of
// records, looked at after held, those above last (the last one when it was decided) and the
// held ones need what they need. Who took up an older snapshot before it was recorded as taken
// shows in one or the other: by a savepoint that is still there, or by what was committed before
// that was deleted.
func Confirm(gone []string, records []ChainRecord, last int64, held map[int64]bool) []string {
	needed := map[string]bool{}
	for _, r := range records {
		if r.Number > last || held[r.Number] {
			for _, b := range r.Blobs {
				needed[b] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(gone), func(name string) bool { return needed[name] })
}

// folderOf returns the number of the snapshot in whose folder a blob lies; ok is false for
// records and for whatever is not a snapshot's blob.
func folderOf(name, prefix string) (number int64, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	digits, file, ok := strings.Cut(rest, "/")
	if !ok || file == "manifest.json" || !strings.HasSuffix(file, ".arrow") {
		return 0, false
	}
	return parseNumber(digits)
}

// VersionRecord is what RetireVersions looks at of a version.
type VersionRecord struct {
	Number int64
	// Over: the gate has rejected it, or passed it over for a newer one.
	Over bool
	// Held: somebody promoted it by hand, or is about to.
	Held bool
	// Gone: its files are removed already.
	Gone bool
}

// RetireVersions returns the versions whose files may go, ascending, given all versions
// (ascending) and the champions in the order in which they served. The newest keep versions
// stay; those that serve, their anchor and the champions before them, as many as older asks
// for; what is held; and whatever the gate can still publish: every version after the
// champion that is not over.
func RetireVersions(versions []VersionRecord, champions []int64, anchor int64, keep, older int) []int64 {
	serves := int64(0)
	if len(champions) > 0 {
		serves = champions[len(champions)-1]
	}
	stay := map[int64]bool{}
	for _, v := range slices.Backward(champions) {
		if len(stay) > older {
			break // the one that serves, and older before it
		}
		stay[v] = true
	}
	stay[anchor] = true
	var out []int64
	for i, v := range versions {
		if len(versions)-i <= max(1, keep) || v.Held || v.Gone || stay[v.Number] || v.Number > serves && !v.Over {
			continue
		}
		out = append(out, v.Number)
	}
	return out
}
