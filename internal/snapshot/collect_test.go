package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

// past is a random history of a chain, as Decide sees it, with what really is in the store.
type past struct {
	records []ChainRecord
	taken   Collection
	blobs   map[string]bool
	base    *ChainRecord // what the next snapshot is written on top of
	held    map[int64]bool
}

const pastPrefix = "jobs/j/snapshot/"

func (p *past) last() int64 {
	if len(p.records) == 0 {
		return 0
	}
	return p.records[len(p.records)-1].Number
}

// attempt writes the blobs of a next snapshot: some of the base's stay in use.
func (p *past) attempt(rng *rand.Rand, id int) ChainRecord {
	r := ChainRecord{Number: p.last() + 1}
	if p.base != nil {
		for _, b := range p.base.Blobs {
			if rng.IntN(3) > 0 {
				r.Blobs = append(r.Blobs, b)
			}
		}
	}
	for i := range 1 + rng.IntN(3) {
		name := fmt.Sprintf("%s%09d/a%d-%d.arrow", pastPrefix, r.Number, id, i)
		p.blobs[name] = true
		r.Blobs = append(r.Blobs, name)
	}
	return r
}

func (p *past) record(n int64) *ChainRecord {
	for i := range p.records {
		if p.records[i].Number == n {
			return &p.records[i]
		}
	}
	return nil
}

// plan is a collector between its decision and its removals.
type plan struct {
	records []ChainRecord
	was     Collection
	names   []string // nil: confirmed
	taken   Collection
	gone    []string
}

// TestNothingReachableIsTaken runs random histories of commits, failed attempts, fence records,
// rewinds, savepoints and forks from them, with several collectors that stop anywhere and go on
// at any time, deposed or not. What may be restored must be there, always; and in the end,
// one undisturbed run leaves nothing that nobody needs.
func TestNothingReachableIsTaken(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 8))
		p := &past{blobs: map[string]bool{}, held: map[int64]bool{}}
		keep := 1 + rng.IntN(4)
		var open []plan         // decided, not yet recorded
		var recorded []plan     // recorded, removals to come
		var pending ChainRecord // blobs written, not committed
		list := func() (names []string) {
			for b := range p.blobs {
				names = append(names, b)
			}
			slices.Sort(names)
			return names
		}
		held := func() map[int64]bool {
			h := map[int64]bool{}
			for n := range p.held {
				h[n] = true
			}
			return h
		}
		remove := func(c plan) {
			gone := slices.Clone(c.gone)
			rng.Shuffle(len(gone), func(i, k int) { gone[i], gone[k] = gone[k], gone[i] })
			for _, b := range gone[:len(gone)-rng.IntN(len(gone)+1)/2] { // it may crash on the way
				delete(p.blobs, b)
			}
		}
		decide := func() plan {
			c := plan{records: slices.Clone(p.records), was: p.taken, names: list()}
			c.taken, c.gone = Decide(c.records, c.was, c.names, pastPrefix, Needs{keep, held()})
			return c
		}
		check := func(what string) {
			whole := func(n int64) {
				rec := p.record(n)
				if rec == nil {
					r.Fatalf("%s: record %d is gone", what, n)
				}
				for _, b := range rec.Blobs {
					if !p.blobs[b] {
						r.Fatalf("%s: snapshot %d needs %s, which is gone", what, n, b)
					}
				}
			}
			if p.base != nil {
				whole(p.base.Number)
			}
			for n := range p.held {
				whole(n)
			}
			for _, b := range pending.Blobs {
				if pending.Number == p.last()+1 && !p.blobs[b] {
					r.Fatalf("%s: %s is about to be committed, and gone", what, b)
				}
			}
		}
		for step := range 80 {
			what := "step"
			switch rng.IntN(11) {
			case 0, 1:
				what = "attempt"
				pending = p.attempt(rng, step)
			case 2, 3:
				what = "commit"
				if pending.Number == p.last()+1 {
					p.records = append(p.records, pending)
					rec := pending
					p.base = &rec
				}
			case 4:
				what = "fence" // and go back to the last manifest before it
				p.records = append(p.records, ChainRecord{Number: p.last() + 1, Fence: true})
				pending = ChainRecord{}
			case 5:
				what = "savepoint" // its record first, then a look at what was taken
				if len(p.records) > 0 {
					if rec := p.records[rng.IntN(len(p.records))]; !rec.Fence && !p.taken.Has(rec.Number) {
						p.held[rec.Number] = true
					}
				}
			case 6:
				what = "savepoint deleted"
				for n := range p.held {
					delete(p.held, n)
					break
				}
			case 7:
				what = "fork" // training goes on from a savepoint, in a new lineage
				for n := range p.held {
					rec := *p.record(n)
					pending, p.base = ChainRecord{}, &rec
					pending = p.attempt(rng, 1000+step)
					p.records = append(p.records, pending)
					rec = pending
					p.base = &rec
					break
				}
			case 8:
				what = "decide"
				if len(p.records) > 0 {
					open = append(open, decide())
				}
			case 9:
				what = "record"
				if len(open) > 0 {
					c := open[0]
					open = open[1:]
					// Create-only: who decided on an older collection than the last one begins again.
					if c.was.Below == p.taken.Below && slices.Equal(c.was.Snapshots, p.taken.Snapshots) {
						p.taken = c.taken
						// Savepoints and chain are looked at again after the record, at some time.
						recorded = append(recorded, c)
					}
				}
			case 10:
				what = "remove"
				if n := len(recorded); n > 0 {
					i := rng.IntN(n)
					if c := &recorded[i]; c.names != nil {
						c.gone, c.names = Confirm(c.gone, p.records, c.records[len(c.records)-1].Number, held()), nil
						break
					}
					remove(recorded[i])
					if rng.IntN(2) == 0 {
						recorded = slices.Delete(recorded, i, i+1)
					}
				}
			}
			check(what)
		}
		// Everything that nobody needs goes in the end.
		pending = ChainRecord{}
		c := decide()
		p.taken = c.taken
		for _, b := range c.gone {
			delete(p.blobs, b)
		}
		check("end")
		needed := map[string]bool{}
		kept := 0
		for _, rec := range slices.Backward(p.records) {
			if rec.Fence || !p.held[rec.Number] && p.taken.Has(rec.Number) {
				continue
			}
			kept++
			for _, b := range rec.Blobs {
				needed[b] = true
			}
		}
		if kept > keep+len(p.held) {
			r.Fatalf("%d snapshots are whole, %d are to be kept and %d held", kept, keep, len(p.held))
		}
		for b := range p.blobs {
			if n, ok := folderOf(b, pastPrefix); ok && n <= p.last() && !needed[b] {
				r.Fatalf("%s is needed by nobody and still there", b)
			}
		}
	})
}

// TestDecideWhenDamaged: nothing is taken while nobody knows what the newest snapshot needs; an
// older one that is damaged is passed over.
func TestDecideWhenDamaged(t *testing.T) {
	name := func(n int) string { return fmt.Sprintf("%s%09d/x.arrow", pastPrefix, n) }
	records := func(damaged int64) (out []ChainRecord) {
		for n := range int64(5) {
			r := ChainRecord{Number: n + 1, Blobs: []string{name(int(n) + 1)}}
			if r.Number == damaged {
				r = ChainRecord{Number: n + 1, Damaged: true}
			}
			out = append(out, r)
		}
		return out
	}
	blobs := []string{name(1), name(2), name(3), name(4), name(5)}
	if taken, gone := Decide(records(5), Collection{}, blobs, pastPrefix, Needs{Keep: 2}); len(gone) > 0 || taken.Below != 0 {
		t.Errorf("the newest is damaged, and %v goes", gone)
	}
	taken, gone := Decide(records(4), Collection{}, blobs, pastPrefix, Needs{Keep: 2})
	if taken.Below != 3 || !slices.Equal(gone, []string{name(1), name(2), name(4)}) {
		t.Errorf("below %d, %v", taken.Below, gone)
	}
}

// TestCollectors runs several collectors at once on a real chain while snapshots are committed
// and savepoints come and go: every savepoint that was granted can be restored, and so can the
// newest snapshots.
func TestCollectors(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	s := small()
	chain, err := Snapshots(b, "job")
	must(t, err)
	commit := func(n int64) {
		must(t, Commit(ctx, chain, s.manifest(n, s.write(t, b, n, 2, nil))))
	}
	commit(1)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			c, err := NewCollector(b, "job", fmt.Sprint("trainer", i))
			for err == nil && ctx.Err() == nil {
				_, err = c.Run(ctx, 3, nil, time.Unix(1, 0))
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	var granted []int64
	for n := int64(2); n <= 30; n++ {
		commit(n)
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		at := max(1, n-rng.Int64N(6))
		m, err := ReadManifest(ctx, chain, at)
		if err == nil {
			_, err = NewSavepoint(ctx, b, m, fmt.Sprint("keep-", n), "me", "", time.Unix(2, 0))
		}
		switch {
		case err == nil:
			granted = append(granted, n)
			must(t, Verify(ctx, b, m))
		case !errors.Is(err, tidemill.ErrNotFound):
			t.Fatal(err)
		}
		if len(granted) > 3 {
			must(t, DeleteSavepoint(ctx, b, "job", fmt.Sprint("keep-", granted[0])))
			granted = granted[1:]
		}
		for _, g := range granted {
			sp, err := ReadSavepoint(ctx, b, "job", fmt.Sprint("keep-", g))
			must(t, err)
			m, err := ReadManifest(ctx, chain, sp.Snapshot)
			must(t, err)
			must(t, Verify(ctx, b, m))
		}
	}
	stop()
	wg.Wait()
	c, err := NewCollector(b, "job", "last")
	must(t, err)
	if _, err := c.Run(context.Background(), 3, nil, time.Unix(3, 0)); err != nil {
		t.Fatal(err)
	}
	again, err := c.Run(context.Background(), 3, nil, time.Unix(3, 0))
	must(t, err)
	if again != (Collected{}) {
		t.Errorf("a second run takes %+v", again)
	}
	taken, err := Taken(context.Background(), b, "job")
	must(t, err)
	whole := 0
	for n := int64(1); n <= 30; n++ {
		if taken.Has(n) {
			if err := CheckKept(context.Background(), b, "job", n); !errors.Is(err, tidemill.ErrNotFound) {
				t.Errorf("snapshot %d was taken: %v", n, err)
			}
			continue
		}
		whole++
		m, err := ReadManifest(context.Background(), chain, n)
		must(t, err)
		must(t, Verify(context.Background(), b, m))
	}
	if whole < 3 || whole > 3+len(granted) {
		t.Errorf("%d snapshots are whole", whole)
	}
}

// TestRetireVersions: what serves, served, may be gone back to or can still be published stays.
func TestRetireVersions(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 9))
		n := rng.IntN(30)
		var versions []VersionRecord
		for i := range n {
			versions = append(versions, VersionRecord{Number: int64(i + 1), Over: rng.IntN(2) == 0, Held: rng.IntN(9) == 0})
		}
		var champions []int64
		for range rng.IntN(6) {
			if n > 0 {
				champions = append(champions, 1+rng.Int64N(int64(n)))
			}
		}
		anchor := int64(0)
		if len(champions) > 0 {
			anchor = champions[rng.IntN(len(champions))]
		}
		keep, older := rng.IntN(5), rng.IntN(3)
		gone := RetireVersions(versions, champions, anchor, keep, older)
		for _, g := range gone {
			v := versions[g-1]
			if v.Held || g == anchor || len(champions) > 0 && g == champions[len(champions)-1] || int(g) > n-max(1, keep) {
				r.Fatalf("version %d goes", g)
			}
			if serves := append([]int64{0}, champions...)[len(champions)]; g > serves && !v.Over {
				r.Fatalf("version %d can still be published, and goes", g)
			}
		}
		if !slices.IsSorted(gone) {
			r.Fatalf("%v", gone)
		}
	})
}

func FuzzDecodeCollection(f *testing.F) {
	good, err := Seal(&collectionRecord{Format: collectionFormat, Job: "job", Collection: Collection{Below: 3, Snapshots: []int64{4, 7}}, By: "t", At: time.Unix(1, 0).UTC()})
	must(f, err)
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeCollection(data)
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
			t.Fatal(err)
		}
		if err == nil && rec.Has(rec.Below) && !slices.Contains(rec.Snapshots, rec.Below) {
			t.Fatal("the first record that stays was taken")
		}
	})
}
