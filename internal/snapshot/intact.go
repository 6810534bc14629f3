package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// NewestIntact returns the newest snapshot of a job that reads back whole, every byte
// compared with its checksum and the state with its digest, passing over damaged ones and those
// that were collected; tidemill.ErrNotFound when there is none. damaged says what is wrong with
// those passed over, newest first.
func NewestIntact(ctx context.Context, b *blob.Bucket, job string) (m *Manifest, damaged []error, err error) {
	chain, err := Snapshots(b, job)
	if err != nil {
		return nil, nil, err
	}
	// A gap in the chain is damage too; what is left of it is looked at all the same.
	numbers, err := chain.numbers(ctx)
	if err != nil {
		return nil, nil, err
	}
	taken, err := Taken(ctx, b, job)
	if errors.Is(err, tidemill.ErrCorrupt) {
		damaged, err = append(damaged, err), nil
	}
	if err != nil {
		return nil, damaged, err
	}
	for _, n := range slices.Backward(numbers) {
		m, err := ReadManifest(ctx, chain, n)
		if err == nil && (m.Fence != nil || taken.Has(n)) {
			continue
		}
		if err == nil {
			err = Verify(ctx, b, m)
		}
		switch {
		case err == nil:
			return m, damaged, nil
		case errors.Is(err, tidemill.ErrCorrupt), errors.Is(err, tidemill.ErrInvalid):
			damaged = append(damaged, fmt.Errorf("snapshot %d of job %s: %w", n, job, err))
		case !errors.Is(err, tidemill.ErrNotFound): // else it was collected meanwhile
			return nil, damaged, err
		}
	}
	return nil, damaged, fmt.Errorf("job %s has no snapshot that is intact: %w", job, tidemill.ErrNotFound)
}
