package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"gocloud.dev/blob/driver"

	"github.com/tidemill/tidemill"
)

func (b *bucket) NewTypedWriter(ctx context.Context, name, _ string, opts *driver.WriterOptions) (driver.Writer, error) {
	if b.unlock == nil {
		return nil, errReadOnly
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if len(opts.Metadata) > 0 || opts.CacheControl != "" || opts.ContentDisposition != "" || opts.ContentEncoding != "" || opts.ContentLanguage != "" {
		return nil, errUnsupported
	}
	temp := filepath.Join(b.root, tempName, strconv.FormatUint(b.temps.Add(1), 10)+"-"+strconv.Itoa(os.Getpid()))
	f, err := b.files.create(temp)
	if err != nil {
		return nil, kindOf(err)
	}
	w := &writer{ctx: ctx, b: b, name: name, temp: temp, f: f, createOnly: opts.IfNotExist}
	if opts.BeforeWrite != nil {
		if err := opts.BeforeWrite(func(any) bool { return false }); err != nil {
			w.discard(err)
			return nil, err
		}
	}
	return w, nil
}

// writer is a blob that has no name yet.
type writer struct {
	ctx        context.Context // ends the write, as the driver's contract wants it
	b          *bucket
	name, temp string
	f          file
	createOnly bool
	err        error // first failure: the blob will not be published
}

func (w *writer) Write(p []byte) (int, error) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	if err != nil {
		// Not left to Close: the portable type does not call it after each failed write.
		w.discard(kindOf(err))
	}
	return n, w.err
}

// discard gives up a blob that has no name yet, for the reason err.
func (w *writer) discard(err error) {
	w.err = err
	_ = w.f.Close()
	_ = os.Remove(w.temp)
}

// Close publishes the blob: whole, durable, or not at all.
func (w *writer) Close() error {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil {
		if err := w.f.Sync(); err != nil {
			w.err = kindOf(err)
		}
	}
	if w.err != nil {
		w.discard(w.err)
		return w.err
	}
	if err := w.f.Close(); err != nil {
		w.discard(kindOf(err))
		return w.err
	}
	w.err = w.publish()
	_ = os.Remove(w.temp)
	return w.err
}

func (w *writer) publish() error {
	release, err := w.b.claim(w.ctx, w.name)
	if err != nil {
		return err
	}
	defer release()
	w.b.folders.RLock()
	defer w.b.folders.RUnlock()

	path := w.b.path(w.name)
	parent := filepath.Dir(path)
	if err := w.b.makeFolder(parent); err != nil {
		return err
	}
	if !w.createOnly {
		return w.replace(path, parent)
	}
	if err := w.b.files.link(w.temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: blob %s", tidemill.ErrExists, w.name)
		}
		return kindOf(err)
	}
	if err := w.b.files.syncDir(parent); err != nil {
		// Nobody has seen it, because readers wait for the claim; so it can be taken back.
		return errors.Join(kindOf(err), pathless(os.Remove(path)))
	}
	return nil
}

// replace gives the name to the new file. Should the folder not flush, the old file is put
// back, so that the failed write is not seen.
func (w *writer) replace(path, parent string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%w: blob %s: there are blobs below that name", tidemill.ErrInvalid, w.name)
	}
	old := w.temp + "-old"
	defer os.Remove(old)
	had := os.Link(path, old) == nil
	if err := w.b.files.rename(w.temp, path); err != nil {
		return kindOf(err)
	}
	err := w.b.files.syncDir(parent)
	if err == nil {
		return nil
	}
	if had {
		return errors.Join(kindOf(err), pathless(os.Rename(old, path)))
	}
	return errors.Join(kindOf(err), pathless(os.Remove(path)))
}

func pathless(err error) error {
	if err == nil {
		return nil
	}
	return kindOf(err)
}

// makeFolder makes a folder and those above it, each durable before something is put into it.
func (b *bucket) makeFolder(path string) error {
	b.mu.Lock()
	durable := b.durable[path]
	b.mu.Unlock()
	if durable {
		return nil
	}
	if err := b.makeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	err := b.files.mkdir(path)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := os.Stat(path)
		if err = statErr; err == nil && !info.IsDir() {
			return fmt.Errorf("%w: part of the name is a blob's", tidemill.ErrInvalid)
		}
	}
	if err == nil {
		// Also where it exists: whoever made it may not have flushed it yet.
		err = b.files.syncDir(filepath.Dir(path))
	}
	if err != nil {
		return kindOf(err)
	}
	b.mu.Lock()
	b.durable[path] = true
	b.mu.Unlock()
	return nil
}
