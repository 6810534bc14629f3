package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// Chain is a sequence of create-only records numbered 1, 2, 3, … without a gap, each a blob
// named prefix + nine digits + suffix. Appending a record is a commit: of two writers that
// append the same number, exactly one succeeds. Old records may be removed from the front;
// the last one never is.
//
// A Chain is safe for concurrent use, by any number of processes on one store.
type Chain struct {
	bucket         *blob.Bucket
	prefix, suffix string

	mu   sync.Mutex
	last int64 // a record that existed when last looked for; 0: none known
}

// NewChain returns the chain of records named prefix + nine digits + suffix. It reads nothing.
func NewChain(b *blob.Bucket, prefix, suffix string) *Chain {
	return &Chain{bucket: b, prefix: prefix, suffix: suffix}
}

// Name returns the name of record n's blob.
func (c *Chain) Name(n int64) string { return c.prefix + number(n) + c.suffix }

// Last returns the number and bytes of the last record; 0 and nil when there is none. The
// first call lists the whole chain and verifies that it has no gap (tidemill.ErrCorrupt);
// later ones look for successors only, so polling costs one look-up.
func (c *Chain) Last(ctx context.Context) (int64, []byte, error) {
	c.mu.Lock()
	n := c.last
	c.mu.Unlock()
	for tries := 0; ; tries++ {
		if n == 0 {
			all, err := c.List(ctx, 0)
			if err != nil || len(all) == 0 {
				return 0, nil, err
			}
			n = all[len(all)-1]
		}
		for {
			ok, err := c.bucket.Exists(ctx, c.Name(n+1))
			if err != nil {
				return 0, nil, storeError("look for", c.Name(n+1), err)
			}
			if !ok {
				break
			}
			n++
		}
		data, err := c.Read(ctx, n)
		if err == nil {
			c.saw(n)
			return n, data, nil
		}
		if !errors.Is(err, tidemill.ErrNotFound) {
			return 0, nil, err
		}
		// It was there. Either the front was removed, up to beyond it, since we looked last, or
		// somebody removed the last record.
		if all, lerr := c.List(ctx, 0); lerr != nil || len(all) == 0 || all[len(all)-1] <= n || tries == 10 {
			return 0, nil, errors.Join(fmt.Errorf("chain is %w: its last record, %s, was removed", tidemill.ErrCorrupt, c.Name(n)), lerr)
		}
		n = 0
	}
}

// saw moves the hint forward.
func (c *Chain) saw(n int64) {
	c.mu.Lock()
	c.last = max(c.last, n)
	c.mu.Unlock()
}

// Read returns the bytes of record n, or tidemill.ErrNotFound.
func (c *Chain) Read(ctx context.Context, n int64) ([]byte, error) {
	if n < 1 || n > maxNumber {
		return nil, fmt.Errorf("read record %d: %w", n, tidemill.ErrNotFound)
	}
	return readAll(ctx, c.bucket, c.Name(n), maxRecord)
}

// Append creates record n. Its predecessor must exist, unless n is 1
// (tidemill.ErrInvalid). tidemill.ErrExists means that n is taken: read it, then decide.
// After tidemill.ErrUnavailable or a context error the record may or may not have been
// created: read n to find out before anything else is done.
func (c *Chain) Append(ctx context.Context, n int64, record []byte) error {
	if n < 1 || n > maxNumber {
		return tidemill.Invalid("record number %d", "numbers are 1 to 999999999", n)
	}
	if n > 1 {
		ok, err := c.bucket.Exists(ctx, c.Name(n-1))
		if err != nil {
			return storeError("look for", c.Name(n-1), err)
		}
		if !ok {
			// The chain may have gone on, and its front may be gone up to here.
			if all, err := c.List(ctx, n); err != nil {
				return err
			} else if len(all) > 0 {
				return fmt.Errorf("create blob %s: %w", c.Name(n), tidemill.ErrExists)
			}
			return tidemill.Invalid("record %d cannot be appended: record %d does not exist", "read the chain's last record again", n, n-1)
		}
	}
	if err := create(ctx, c.bucket, c.Name(n), record); err != nil {
		return err
	}
	c.saw(n)
	return nil
}

// List returns the numbers of all records from number from on, ascending. A gap between them
// wraps tidemill.ErrCorrupt and names the missing record.
func (c *Chain) List(ctx context.Context, from int64) ([]int64, error) {
	var gap int64 // that the look before found
	for {
		all, err := c.numbers(ctx)
		if err != nil {
			return nil, err
		}
		at, _ := slices.BinarySearch(all, from)
		all = all[at:]
		i := 1
		for i < len(all) && all[i] == all[i-1]+1 {
			i++
		}
		if i >= len(all) {
			return all, nil
		}
		// Stores are listed while others add to the end and take from the front: a record may be listed
		// before it is removed, the next one removed before it is listed. A true gap is there again.
		missing := all[i-1] + 1
		if missing == gap {
			return all[:i], fmt.Errorf("chain is %w: record %s is missing, and a later one exists", tidemill.ErrCorrupt, c.Name(missing))
		}
		gap = missing
	}
}

// numbers returns the numbers of all records, ascending, whether or not some are missing.
func (c *Chain) numbers(ctx context.Context) ([]int64, error) {
	var out []int64
	err := list(ctx, c.bucket, c.prefix, func(key string) error {
		digits, ok := strings.CutSuffix(strings.TrimPrefix(key, c.prefix), c.suffix)
		if n, valid := parseNumber(digits); ok && valid {
			out = append(out, n)
		}
		return nil
	})
	return out, err
}

// list calls f with the name of every blob under prefix, in order.
func list(ctx context.Context, b *blob.Bucket, prefix string, f func(key string) error) error {
	it := b.List(&blob.ListOptions{Prefix: prefix})
	for {
		obj, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return storeError("list", prefix, err)
		}
		if obj.IsDir {
			continue
		}
		if err := f(obj.Key); err != nil {
			return err
		}
	}
}

// create writes a blob that must not exist yet (tidemill.ErrExists).
func create(ctx context.Context, b *blob.Bucket, name string, data []byte) error {
	return createError(name, b.WriteAll(ctx, name, data, &blob.WriterOptions{ContentType: contentType, IfNotExist: true}))
}

// contentType spares the store from guessing.
const contentType = "application/octet-stream"

// readAll returns a blob whole. One of more than limit bytes is tidemill.ErrCorrupt.
func readAll(ctx context.Context, b *blob.Bucket, name string, limit int64) ([]byte, error) {
	r, err := b.NewReader(ctx, name, nil)
	if err != nil {
		return nil, storeError("read", name, err)
	}
	defer r.Close()
	if r.Size() > limit {
		return nil, corrupt(name, "it has %d bytes, and at most %d are expected", r.Size(), limit)
	}
	data := make([]byte, r.Size())
	if n, err := io.ReadFull(r, data); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && gcerrors.Code(err) == gcerrors.Unknown {
			return nil, corrupt(name, "it ends after %d of %d bytes", n, len(data))
		}
		return nil, storeError("read", name, err)
	}
	return data, nil
}
