package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// disk is the object store: a driver.Bucket in memory, so that the code of internal/snapshot
// runs on it as it is, and what a power cut leaves of it. An object appears whole or not at
// all, unless an fsync lied.
//
// A caller's writes happen at one simulated instant; what can come between them is that some
// fail: those of records or those of other blobs, as long as such a fault is on.
type disk struct {
	w      *World
	bucket *blob.Bucket

	full    int // faults that are on, by how many ops
	failing int // fsync reports an error; the object may be there all the same
	lying   int // fsync says yes and does nothing
	partial int // blobs that are no records fail
	slow    int64
	lied    bool // something that was said to be durable was lost

	by string // who is calling

	mu      sync.Mutex // guards what follows: snapshot writes blobs from several goroutines
	objects map[string]object
	tries   map[string]uint64
	created []string // since the last look
	deleted []string
}

type object struct {
	data    []byte
	durable bool
}

func newDisk(w *World) *disk {
	d := &disk{w: w, objects: map[string]object{}, tries: map[string]uint64{}, slow: 1}
	d.bucket = blob.NewBucket(d)
	return d
}

// heal ends all faults.
func (d *disk) heal() { d.full, d.failing, d.lying, d.partial, d.slow = 0, 0, 0, 0, 1 }

// crashed is a power cut: what is not durable is lost, torn, or there by luck.
func (d *disk) crashed() {
	for _, name := range sortedKeys(d.objects) {
		o := d.objects[name]
		if o.durable {
			continue
		}
		d.lied = true
		switch d.w.rng.IntN(3) {
		case 0:
			d.w.say("the store has lost %s", name)
			delete(d.objects, name)
		case 1:
			d.w.say("the store has torn %s", name)
			d.objects[name] = object{o.data[:len(o.data)/2], true}
		default:
			d.objects[name] = object{o.data, true}
		}
	}
}

func (d *disk) restarted() {}

// latency is how long an access takes.
func (d *disk) latency() int64 {
	if d.w.cfg.Steady {
		return 3 * ms * d.slow
	}
	return (ms/2 + d.w.rng.Int64N(8*ms)) * d.slow
}

// do runs f on the store in the name of n, and then done at n. Of an error that wraps
// ErrUnavailable f may have happened, whole or in part.
func (w *World) do(n *node, f func(ctx context.Context, b *blob.Bucket) error, done func(error)) {
	by, d := n.id(), w.disk
	w.call(n, "store", "store", func(s *node, answer func(any, error)) {
		w.on(s, s.incarnation, d.latency(), func() {
			d.by = by
			err := f(context.Background(), d.bucket)
			d.by = ""
			w.checks.stored(w, by)
			answer(nil, err)
		})
	}, func(_ any, err error) { done(err) })
}

// storing is a way to run code on the store.
type storing func(n *node, f func(ctx context.Context, b *blob.Bucket) error, done func(error))

// again is do, tried anew until it succeeds, fails for good, or go says no. The same kinds end
// it as in the trainer. How is do, or process.
func (w *World) again(n *node, goes func() bool, how storing, f func(ctx context.Context, b *blob.Bucket) error, done func(error)) {
	wait := int64(20 * ms)
	var try func()
	try = func() {
		how(n, f, func(err error) {
			switch {
			case !goes():
			case err == nil || errors.Is(err, tidemill.ErrExists) || errors.Is(err, tidemill.ErrConflict) ||
				errors.Is(err, tidemill.ErrInvalid) || errors.Is(err, tidemill.ErrCorrupt):
				done(err)
			default:
				w.on(n, n.incarnation, wait, func() {
					if goes() {
						try()
					}
				})
				wait = min(2*wait, 600*ms)
			}
		})
	}
	try()
}

// record reports whether a blob is a record, which commits, and not what one names.
func isRecord(name string) bool { return strings.HasSuffix(name, ".json") }

var errNotFound = errors.New("no such object")

// put is the end of a write.
func (d *disk) put(name string, data []byte, create bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries[name]++
	// Decided by name and number of the try: the order of goroutines does not matter.
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	luck := tidemill.Mix(h.Sum64() ^ d.tries[name]<<32 ^ d.w.cfg.Seed)
	switch {
	case d.full > 0:
		return fmt.Errorf("write %s: %w", name, tidemill.ErrFull)
	case d.partial > 0 && !isRecord(name):
		return fmt.Errorf("write %s: %w", name, tidemill.ErrUnavailable)
	}
	if _, ok := d.objects[name]; ok && create {
		return errExists
	}
	fails := d.failing > 0 && luck%2 == 0
	if !fails || luck%4 == 0 {
		d.objects[name] = object{slices.Clone(data), d.lying == 0}
		d.created = append(d.created, name)
	}
	if fails {
		return fmt.Errorf("fsync %s: input/output error: %w", name, tidemill.ErrUnavailable)
	}
	return nil
}

var errExists = errors.New("an object has that name")

// take returns the names created and deleted since the last call.
func (d *disk) take() (created, deleted []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	created, deleted = d.created, d.deleted
	d.created, d.deleted = nil, nil
	slices.Sort(created)
	return created, deleted
}

// ErrorCode implements driver.Bucket.
func (d *disk) ErrorCode(err error) gcerrors.ErrorCode {
	switch {
	case errors.Is(err, errNotFound):
		return gcerrors.NotFound
	case errors.Is(err, errExists):
		return gcerrors.FailedPrecondition
	}
	return gcerrors.Unknown
}

// As implements driver.Bucket.
func (d *disk) As(any) bool { return false }

// ErrorAs implements driver.Bucket.
func (d *disk) ErrorAs(error, any) bool { return false }

// Close implements driver.Bucket.
func (d *disk) Close() error { return nil }

// Attributes implements driver.Bucket.
func (d *disk) Attributes(_ context.Context, name string) (*driver.Attributes, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.objects[name]
	if !ok {
		return nil, errNotFound
	}
	return &driver.Attributes{Size: int64(len(o.data)), ModTime: d.time()}, nil
}

func (d *disk) time() time.Time { return time.UnixMicro(d.w.now) }

// ListPaged implements driver.Bucket: one page holds all.
func (d *disk) ListPaged(_ context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	page := &driver.ListPage{}
	folders := map[string]bool{}
	for name, o := range d.objects {
		rest, ok := strings.CutPrefix(name, opts.Prefix)
		if !ok {
			continue
		}
		if i := strings.Index(rest, opts.Delimiter); opts.Delimiter != "" && i >= 0 {
			folders[opts.Prefix+rest[:i+len(opts.Delimiter)]] = true
			continue
		}
		page.Objects = append(page.Objects, &driver.ListObject{Key: name, Size: int64(len(o.data)), ModTime: d.time()})
	}
	for f := range folders {
		page.Objects = append(page.Objects, &driver.ListObject{Key: f, IsDir: true})
	}
	sort.Slice(page.Objects, func(i, k int) bool { return page.Objects[i].Key < page.Objects[k].Key })
	return page, nil
}

type diskReader struct {
	*bytes.Reader
	attrs driver.ReaderAttributes
}

func (r *diskReader) Close() error                         { return nil }
func (r *diskReader) Attributes() *driver.ReaderAttributes { return &r.attrs }
func (r *diskReader) As(any) bool                          { return false }

// NewRangeReader implements driver.Bucket.
func (d *disk) NewRangeReader(_ context.Context, name string, offset, length int64, _ *driver.ReaderOptions) (driver.Reader, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.objects[name]
	if !ok {
		return nil, errNotFound
	}
	data := o.data[min(offset, int64(len(o.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return &diskReader{bytes.NewReader(data), driver.ReaderAttributes{Size: int64(len(o.data)), ModTime: d.time()}}, nil
}

type diskWriter struct {
	bytes.Buffer
	ctx    context.Context
	d      *disk
	name   string
	create bool
}

func (w *diskWriter) Close() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return w.d.put(w.name, w.Bytes(), w.create)
}

// NewTypedWriter implements driver.Bucket.
func (d *disk) NewTypedWriter(ctx context.Context, name, _ string, opts *driver.WriterOptions) (driver.Writer, error) {
	return &diskWriter{ctx: ctx, d: d, name: name, create: opts.IfNotExist}, nil
}

// Copy implements driver.Bucket.
func (d *disk) Copy(context.Context, string, string, *driver.CopyOptions) error {
	return fmt.Errorf("copy: %w", tidemill.ErrInvalid)
}

// Delete implements driver.Bucket.
func (d *disk) Delete(_ context.Context, name string, _ *driver.DeleteOptions) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.objects[name]; !ok {
		return errNotFound
	}
	delete(d.objects, name)
	d.deleted = append(d.deleted, name)
	return nil
}

// SignedURL implements driver.Bucket.
func (d *disk) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", fmt.Errorf("signed URL: %w", tidemill.ErrInvalid)
}
