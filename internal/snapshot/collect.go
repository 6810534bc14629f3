package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// collectionRecord is a record of a job's chain of collections: the last one says what was
// taken so far.
type collectionRecord struct {
	Format int    `json:"format"`
	Job    string `json:"job"`
	Collection
	By string    `json:"by"`
	At time.Time `json:"at"`
}

const collectionFormat = 1

// Collector removes what of a job's snapshots nobody needs. Any number of them, in any number
// of processes, may run at the same time; one that was deposed or paused does no harm.
//
// It is safe against whoever takes up an older snapshot because both write before they look: the
// collector records what it is about to take, and then lists the savepoints; NewSavepoint
// writes its record, and then asks whether the snapshot was taken. At least one of them sees the
// other and gives way.
type Collector struct {
	bucket *blob.Bucket
	job    string
	by     string
	chain  *Chain
	taken  *Chain
	seen   map[int64]ChainRecord
}

// NewCollector returns a collector of a job's snapshots that signs with by.
func NewCollector(b *blob.Bucket, job, by string) (*Collector, error) {
	chain, err := Snapshots(b, job)
	if err != nil {
		return nil, err
	}
	taken, err := collections(b, job)
	if err != nil {
		return nil, err
	}
	return &Collector{bucket: b, job: job, by: by, chain: chain, taken: taken, seen: map[int64]ChainRecord{}}, nil
}

func collections(b *blob.Bucket, job string) (*Chain, error) {
	if err := CheckName("job", job); err != nil {
		return nil, err
	}
	return NewChain(b, "jobs/"+job+"/collected/", ".json"), nil
}

// Taken returns what collectors have taken of a job's snapshots.
func Taken(ctx context.Context, b *blob.Bucket, job string) (Collection, error) {
	c, err := collections(b, job)
	if err != nil {
		return Collection{}, err
	}
	_, taken, err := lastCollection(ctx, c, job)
	return taken, err
}

func lastCollection(ctx context.Context, c *Chain, job string) (int64, Collection, error) {
	n, data, err := c.Last(ctx)
	if err != nil || n == 0 {
		return 0, Collection{}, err
	}
	rec, err := decodeCollection(data)
	if err != nil {
		return 0, Collection{}, fmt.Errorf("blob %s: %w", c.Name(n), err)
	}
	if rec.Job != job {
		return 0, Collection{}, corrupt(c.Name(n), "it is about job %q", clip(rec.Job))
	}
	return n, rec.Collection, nil
}

func decodeCollection(data []byte) (*collectionRecord, error) {
	rec := new(collectionRecord)
	if err := Unseal(data, rec); err != nil {
		return nil, err
	}
	if rec.Format != collectionFormat {
		return nil, tidemill.Invalid("record of what was collected has format %d, and this program reads format %d", "use the program that wrote it, or a newer one", rec.Format, collectionFormat)
	}
	for i, n := range rec.Snapshots {
		if n < rec.Below || i > 0 && n <= rec.Snapshots[i-1] {
			return nil, fmt.Errorf("record is %w: what was collected is not ascending", tidemill.ErrCorrupt)
		}
	}
	return rec, nil
}

// CheckKept reports whether collectors have left snapshot n of a job alone; if not the error
// wraps tidemill.ErrNotFound.
func CheckKept(ctx context.Context, b *blob.Bucket, job string, n int64) error {
	taken, err := Taken(ctx, b, job)
	if err != nil {
		return err
	}
	if taken.Has(n) {
		return fmt.Errorf("snapshot %d of job %s is no longer kept: take one of the newest, which train.snapshot.keep counts, or a savepoint: %w", n, job, tidemill.ErrNotFound)
	}
	return nil
}

// Collected is what a run of a Collector removed.
type Collected struct {
	Snapshots int // that are whole no more
	Records   int // of the chain
	Blobs     int
}

// Run takes what nobody needs: keep snapshots stay, those of savepoints, and those that needed
// returns (nil: none); it is asked again after what is to be taken was recorded. At is the time
// of the record. After an error some of the garbage is still there, and another run removes it.
//
// As long as the newest manifest cannot be read nothing is taken, and tidemill.ErrCorrupt says
// so: nobody knows which blobs it names.
func (c *Collector) Run(ctx context.Context, keep int, needed func(context.Context) (map[int64]bool, error), at time.Time) (Collected, error) {
	for {
		out, err := c.run(ctx, keep, needed, at)
		if !errors.Is(err, tidemill.ErrExists) {
			return out, err
		}
		// Another collector recorded something meanwhile: look again.
	}
}

func (c *Collector) run(ctx context.Context, keep int, needed func(context.Context) (map[int64]bool, error), at time.Time) (Collected, error) {
	var done Collected
	records, err := c.records(ctx)
	if err != nil || len(records) == 0 {
		return done, err
	}
	for _, r := range slices.Backward(records) {
		if r.Damaged {
			return done, fmt.Errorf("nothing of job %s is collected: %w", c.job, corrupt(c.chain.Name(r.Number), "it is the newest snapshot"))
		}
		if !r.Fence {
			break
		}
	}
	seq, was, err := lastCollection(ctx, c.taken, c.job)
	if err != nil {
		return done, err
	}
	var names []string
	if err := list(ctx, c.bucket, c.chain.prefix, func(key string) error { names = append(names, key); return nil }); err != nil {
		return done, err
	}
	held, err := c.held(ctx, needed)
	if err != nil {
		return done, err
	}
	taken, gone := Decide(records, was, names, c.chain.prefix, Needs{Keep: keep, Held: held})
	first := records[0].Number
	if len(gone) == 0 && first >= taken.Below {
		return done, nil
	}
	for _, n := range taken.Snapshots {
		if !was.Has(n) {
			done.Snapshots++
		}
	}
	if done.Snapshots > 0 || taken.Below > was.Below {
		record, err := Seal(&collectionRecord{Format: collectionFormat, Job: c.job, Collection: taken, By: c.by, At: at.Round(0).UTC()})
		if err != nil {
			return done, err
		}
		if err := c.taken.Append(ctx, seq+1, record); err != nil {
			return Collected{}, err
		}
		seq++
	}
	// Only now, see above; and the chain after the savepoints.
	if held, err = c.held(ctx, needed); err != nil {
		return Collected{}, err
	}
	now, err := c.records(ctx)
	if err != nil {
		return Collected{}, err
	}
	for _, r := range now {
		if r.Damaged && r.Number > records[len(records)-1].Number {
			return Collected{}, fmt.Errorf("nothing of job %s is collected: %w", c.job, corrupt(c.chain.Name(r.Number), "it is the newest snapshot"))
		}
	}
	gone = Confirm(gone, now, records[len(records)-1].Number, held)
	below := taken.Below
	for n := range held {
		if n >= first {
			below = min(below, n)
		}
	}
	for _, name := range gone {
		if err := c.remove(ctx, name); err != nil {
			return done, err
		}
		done.Blobs++
	}
	// From the front, so that what is left is a chain without a gap whenever this ends.
	for _, r := range records {
		if r.Number >= below {
			break
		}
		if err := c.remove(ctx, c.chain.Name(r.Number)); err != nil {
			return done, err
		}
		delete(c.seen, r.Number)
		done.Records++
	}
	// The last record says it all.
	old, err := c.taken.List(ctx, 0)
	if err != nil {
		return done, err
	}
	for _, n := range old {
		if n >= seq {
			break
		}
		if err := c.remove(ctx, c.taken.Name(n)); err != nil {
			return done, err
		}
	}
	return done, nil
}

// held returns what savepoints and the caller hold.
func (c *Collector) held(ctx context.Context, needed func(context.Context) (map[int64]bool, error)) (map[int64]bool, error) {
	held, err := PinnedSnapshots(ctx, c.bucket, c.job)
	if err != nil || needed == nil {
		return held, err
	}
	more, err := needed(ctx)
	for n := range more {
		held[n] = true
	}
	return held, err
}

// records reads the chain; what was read before is remembered, since records never change.
func (c *Collector) records(ctx context.Context) ([]ChainRecord, error) {
	numbers, err := c.chain.List(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := make([]ChainRecord, 0, len(numbers))
	for _, n := range numbers {
		r, ok := c.seen[n]
		if !ok {
			m, err := ReadManifest(ctx, c.chain, n)
			if errors.Is(err, tidemill.ErrNotFound) && len(out) == 0 {
				continue // another collector is removing the front
			}
			switch {
			case errors.Is(err, tidemill.ErrCorrupt):
				r = ChainRecord{Number: n, Damaged: true} // somebody may yet mend it
			case err != nil:
				return nil, err
			default:
				r = ChainRecord{Number: n, Fence: m.Fence != nil, Blobs: m.BlobNames()}
				c.seen[n] = r
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (c *Collector) remove(ctx context.Context, name string) error {
	if err := c.bucket.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return storeError("delete", name, err)
	}
	return nil
}

// BlobNames returns the names of the blobs that a restore reads.
func (m *Manifest) BlobNames() []string {
	var out []string
	for _, p := range m.Parts {
		for _, b := range p.Blobs {
			out = append(out, b.Name)
		}
	}
	return out
}
