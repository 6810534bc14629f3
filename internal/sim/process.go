package sim

import (
	"context"
	"fmt"
	"iter"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// process is code that runs on the store one access at a time: whatever else happens to the
// world happens in between, and an access can be lost, late, or carried out without an answer.
// The code may not use the bucket from goroutines of its own.
type process struct {
	*disk
	yield func(func()) bool
	gone  bool  // the world goes on without it
	lost  error // the last access had no answer
}

var errGone = fmt.Errorf("the process has ended: %w", tidemill.ErrUnavailable)

// process runs f on the store in the name of n, access by access, and then done at n.
func (w *World) process(n *node, f func(ctx context.Context, b *blob.Bucket) error, done func(error)) {
	by, incarnation := n.id(), n.incarnation
	p := &process{disk: w.disk}
	var result error
	next, stop := iter.Pull(func(yield func(func()) bool) {
		p.yield = yield
		b := blob.NewBucket(p)
		result = f(context.Background(), b)
		_ = b.Close()
	})
	w.processes = append(w.processes, stop)
	var step func()
	step = func() {
		access, more := next()
		if !more {
			done(result)
			return
		}
		w.call(n, "store", "store", func(s *node, answer func(any, error)) {
			w.on(s, s.incarnation, w.disk.latency()/4, func() { // some of it goes on in parallel
				access()
				w.checks.stored(w, by)
				answer(nil, nil)
			})
		}, func(_ any, err error) {
			p.lost = err
			step()
		})
	}
	w.on(n, incarnation, 0, step)
}

// access carries one access out, when its time has come.
func (p *process) access(f func() error) error {
	if p.gone {
		return errGone
	}
	var err error
	if !p.yield(func() { err = f() }) {
		p.gone = true
		return errGone
	}
	if p.lost != nil {
		return p.lost
	}
	return err
}

// ErrorCode implements driver.Bucket.
func (p *process) ErrorCode(err error) gcerrors.ErrorCode { return p.disk.ErrorCode(err) }

// Attributes implements driver.Bucket.
func (p *process) Attributes(ctx context.Context, name string) (a *driver.Attributes, err error) {
	err = p.access(func() (err error) { a, err = p.disk.Attributes(ctx, name); return err })
	return a, err
}

// ListPaged implements driver.Bucket.
func (p *process) ListPaged(ctx context.Context, opts *driver.ListOptions) (page *driver.ListPage, err error) {
	err = p.access(func() (err error) { page, err = p.disk.ListPaged(ctx, opts); return err })
	return page, err
}

// NewRangeReader implements driver.Bucket.
func (p *process) NewRangeReader(ctx context.Context, name string, offset, length int64, opts *driver.ReaderOptions) (r driver.Reader, err error) {
	err = p.access(func() (err error) { r, err = p.disk.NewRangeReader(ctx, name, offset, length, opts); return err })
	return r, err
}

// NewTypedWriter implements driver.Bucket.
func (p *process) NewTypedWriter(ctx context.Context, name, _ string, opts *driver.WriterOptions) (driver.Writer, error) {
	return &processWriter{diskWriter{ctx: ctx, d: p.disk, name: name, create: opts.IfNotExist}, p}, nil
}

type processWriter struct {
	diskWriter
	p *process
}

func (w *processWriter) Close() error { return w.p.access(w.diskWriter.Close) }

// Delete implements driver.Bucket.
func (p *process) Delete(ctx context.Context, name string, opts *driver.DeleteOptions) error {
	return p.access(func() error { return p.disk.Delete(ctx, name, opts) })
}
