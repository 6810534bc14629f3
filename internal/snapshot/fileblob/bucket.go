package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

const contentType = "application/octet-stream"

// bucket is a driver.Bucket over a directory.
type bucket struct {
	root   string // absolute
	files  files
	unlock func() error // nil: read-only

	temps atomic.Uint64 // numbers the temporary files

	// folders is held for reading while a write makes folders and gives its name, and for
	// writing while a delete removes folders that became empty.
	folders sync.RWMutex

	mu sync.Mutex
	// durable holds the folders whose own names are known to be flushed.
	durable map[string]bool
	// pending holds the names that are given but not yet flushed. Whoever wants one of them
	// waits until its channel is closed.
	pending map[string]chan struct{}
}

func newBucket(root string, f files, unlock func() error) *bucket {
	return &bucket{root: root, files: f, unlock: unlock, pending: map[string]chan struct{}{}, durable: map[string]bool{root: true}}
}

// path returns where a blob lies; name has been checked.
func (b *bucket) path(name string) string { return filepath.Join(b.root, filepath.FromSlash(name)) }

// settled waits until a write of name that is going on has become durable, or has failed.
func (b *bucket) settled(ctx context.Context, name string) error {
	for {
		b.mu.Lock()
		wait := b.pending[name]
		b.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// claim makes the caller the only one that gives name to a file, until release.
func (b *bucket) claim(ctx context.Context, name string) (release func(), err error) {
	for {
		b.mu.Lock()
		wait := b.pending[name]
		if wait == nil {
			done := make(chan struct{})
			b.pending[name] = done
			b.mu.Unlock()
			return func() {
				b.mu.Lock()
				delete(b.pending, name)
				b.mu.Unlock()
				close(done)
			}, nil
		}
		b.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// stat returns what is known of a blob once it is settled; a folder is not found.
func (b *bucket) stat(ctx context.Context, name string) (fs.FileInfo, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := b.settled(ctx, name); err != nil {
		return nil, err
	}
	info, err := os.Stat(b.path(name))
	if err != nil {
		return nil, kindOf(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: a folder has that name", tidemill.ErrNotFound)
	}
	return info, nil
}

func (b *bucket) Attributes(ctx context.Context, name string) (*driver.Attributes, error) {
	info, err := b.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	return &driver.Attributes{ContentType: contentType, ModTime: info.ModTime(), Size: info.Size(), ETag: etag(info)}, nil
}

func etag(info fs.FileInfo) string {
	return fmt.Sprintf("\"%x-%x\"", info.ModTime().UnixNano(), info.Size())
}

func (b *bucket) NewRangeReader(ctx context.Context, name string, offset, length int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	if _, err := b.stat(ctx, name); err != nil {
		return nil, err
	}
	f, err := os.Open(b.path(name))
	if err != nil {
		return nil, kindOf(err)
	}
	// Of the open file, so that size and bytes belong together whatever happens to the name.
	info, err := f.Stat()
	if err == nil && opts.BeforeRead != nil {
		err = opts.BeforeRead(func(any) bool { return false })
	}
	if err != nil {
		f.Close()
		return nil, kindOf(err)
	}
	if length < 0 {
		length = max(0, info.Size()-offset)
	}
	return &reader{Reader: io.NewSectionReader(f, offset, length), f: f,
		attrs: driver.ReaderAttributes{ContentType: contentType, ModTime: info.ModTime(), Size: info.Size()}}, nil
}

type reader struct {
	io.Reader
	f     *os.File
	attrs driver.ReaderAttributes
}

func (r *reader) Close() error                         { return r.f.Close() }
func (r *reader) Attributes() *driver.ReaderAttributes { return &r.attrs }
func (r *reader) As(any) bool                          { return false }

func (b *bucket) Delete(ctx context.Context, name string, opts *driver.DeleteOptions) error {
	if b.unlock == nil {
		return errReadOnly
	}
	if _, err := b.stat(ctx, name); err != nil {
		return err
	}
	if opts.BeforeDelete != nil {
		if err := opts.BeforeDelete(func(any) bool { return false }); err != nil {
			return err
		}
	}
	release, err := b.claim(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if err := os.Remove(b.path(name)); err != nil {
		return kindOf(err)
	}
	parent := filepath.Dir(b.path(name))
	if err := b.files.syncDir(parent); err != nil {
		return kindOf(err)
	}
	// Folders are not blobs: those that became empty go. One that comes back after a power cut
	// does no harm, so they are not flushed.
	b.folders.Lock()
	defer b.folders.Unlock()
	for ; parent != b.root; parent = filepath.Dir(parent) {
		if os.Remove(parent) != nil {
			break
		}
		b.mu.Lock()
		delete(b.durable, parent)
		b.mu.Unlock()
	}
	return nil
}

func (b *bucket) Copy(ctx context.Context, dst, src string, opts *driver.CopyOptions) error {
	r, err := b.NewRangeReader(ctx, src, 0, -1, &driver.ReaderOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	if opts.BeforeCopy != nil {
		if err := opts.BeforeCopy(func(any) bool { return false }); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewTypedWriter(ctx, dst, contentType, &driver.WriterOptions{})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel()
		_ = w.Close()
		return err
	}
	return w.Close()
}

// defaultPage is how many blobs a page lists unless the caller says.
const defaultPage = 1000

func (b *bucket) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	if opts.BeforeList != nil {
		if err := opts.BeforeList(func(any) bool { return false }); err != nil {
			return nil, err
		}
	}
	size := opts.PageSize
	if size <= 0 {
		size = defaultPage
	}
	l := lister{b: b, ctx: ctx, opts: opts, after: string(opts.PageToken), seen: map[string]bool{}, most: size + 1}
	// Only the folder that the prefix names, or lies in, can hold anything of interest.
	folder := ""
	if i := strings.LastIndexByte(opts.Prefix, '/'); i >= 0 {
		folder = opts.Prefix[:i]
		if err := checkName(folder); err != nil {
			return &driver.ListPage{}, nil // no blob has such a name
		}
	}
	if err := l.walk(folder); err != nil && err != errEnough {
		return nil, err
	}
	page := &driver.ListPage{}
	if len(l.objects) > size {
		l.objects = l.objects[:size]
		page.NextPageToken = []byte(l.objects[size-1].Key)
	}
	for _, o := range l.objects {
		if !o.IsDir {
			info, err := b.stat(ctx, o.Key)
			if errors.Is(err, tidemill.ErrNotFound) {
				continue // deleted meanwhile, or its write failed
			}
			if err != nil {
				return nil, err
			}
			o.ModTime, o.Size = info.ModTime(), info.Size()
		}
		page.Objects = append(page.Objects, o)
	}
	return page, nil
}

// lister collects the objects of one ListPaged call that come after a name.
type lister struct {
	b       *bucket
	ctx     context.Context // of the one call that this lister lives in
	opts    *driver.ListOptions
	after   string
	seen    map[string]bool // collapsed folders
	most    int             // how many objects are wanted
	objects []*driver.ListObject
}

// errEnough ends a walk that has found what is wanted.
var errEnough = errors.New("enough")

// walk adds what is in a folder, in the order of names: a page of a store with many thousands
// of blobs reads the folders that it is about, and no others.
func (l *lister) walk(folder string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.b.path(folder))
	if errors.Is(err, fs.ErrNotExist) || err != nil && folder != "" && !l.isDir(folder) {
		return nil
	}
	if err != nil {
		return kindOf(err)
	}
	// A folder's blobs come where its name with the slash does: "a-b" is before "a/b".
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(listedAs(a), listedAs(b)) })
	for _, e := range entries {
		if len(l.objects) >= l.most {
			return errEnough
		}
		name := e.Name()
		if folder != "" {
			name = folder + "/" + name
		}
		if checkName(name) != nil {
			continue // the package's own, or nothing that it wrote
		}
		if !e.IsDir() {
			l.add(name)
			continue
		}
		below := name + "/"
		switch {
		case !strings.HasPrefix(below, l.opts.Prefix) && !strings.HasPrefix(l.opts.Prefix, below):
		case below < l.after && !strings.HasPrefix(l.after, below): // all of it was listed before
		case l.opts.Delimiter == "/" && len(below) > len(l.opts.Prefix):
			// Everything in it collapses to this one; it counts if anything is in it.
			if l.after < below && l.holdsAny(name) {
				l.objects = append(l.objects, &driver.ListObject{Key: below, IsDir: true})
			}
		default:
			if err := l.walk(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func listedAs(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

func (l *lister) isDir(folder string) bool {
	info, err := os.Stat(l.b.path(folder))
	return err == nil && info.IsDir()
}

// holdsAny reports whether a folder holds a file at any depth: a write that failed can leave
// empty folders.
func (l *lister) holdsAny(folder string) bool {
	found := false
	_ = filepath.WalkDir(l.b.path(folder), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return found
}

func (l *lister) add(name string) {
	rest, ok := strings.CutPrefix(name, l.opts.Prefix)
	if !ok {
		return
	}
	if l.opts.Delimiter != "" {
		if i := strings.Index(rest, l.opts.Delimiter); i >= 0 {
			dir := l.opts.Prefix + rest[:i+len(l.opts.Delimiter)]
			if l.after < dir && !l.seen[dir] {
				l.seen[dir] = true
				l.objects = append(l.objects, &driver.ListObject{Key: dir, IsDir: true})
			}
			return
		}
	}
	if name > l.after {
		l.objects = append(l.objects, &driver.ListObject{Key: name})
	}
}

func (b *bucket) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", errUnsupported
}

func (b *bucket) As(any) bool { return false }

func (b *bucket) ErrorAs(error, any) bool { return false }

func (b *bucket) ErrorCode(err error) gcerrors.ErrorCode {
	switch {
	case errors.Is(err, errUnsupported):
		return gcerrors.Unimplemented
	case errors.Is(err, tidemill.ErrNotFound):
		return gcerrors.NotFound
	case errors.Is(err, tidemill.ErrExists):
		return gcerrors.FailedPrecondition
	case errors.Is(err, tidemill.ErrInvalid):
		return gcerrors.InvalidArgument
	case errors.Is(err, tidemill.ErrDenied):
		return gcerrors.PermissionDenied
	case errors.Is(err, tidemill.ErrFull):
		return gcerrors.ResourceExhausted
	default:
		return gcerrors.Unknown
	}
}

var (
	errUnsupported = fmt.Errorf("%w: a store in a directory does not keep that", tidemill.ErrInvalid)
	errReadOnly    = fmt.Errorf("%w: the store was opened read-only", tidemill.ErrDenied)
)

// Close gives the directory free. Writers that are still open fail.
func (b *bucket) Close() error {
	if b.unlock == nil {
		return nil
	}
	return b.unlock()
}
