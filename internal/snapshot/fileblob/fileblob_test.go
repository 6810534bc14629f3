package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Options{}, func(t *testing.T) *blob.Bucket {
		b, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// TestMemory shows that the suite asks for nothing that a store without folders cannot do.
func TestMemory(t *testing.T) {
	storetest.Run(t, storetest.Options{AnyName: true}, func(t *testing.T) *blob.Bucket { return memblob.OpenBucket(nil) })
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	unlock, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockDir(dir)
	if !errors.Is(err, tidemill.ErrExists) || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("second lock: %v", err)
	}
	if strings.Contains(err.Error(), filepath.Dir(dir)) {
		t.Errorf("the error tells where the directory lies: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	unlock, err = LockDir(dir)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestOpen(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := Open(dir, Options{ReadOnly: true}); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("read-only open of nothing: %v", err)
	}
	b, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteAll(ctx, "a/b", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("second open: %v", err)
	}

	// Somebody may look while it is in use, and change nothing.
	look, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := look.ReadAll(ctx, "a/b"); err != nil || string(got) != "x" {
		t.Errorf("read-only read: %q, %v", got, err)
	}
	if err := look.WriteAll(ctx, "a/c", nil, nil); gcerrors.Code(err) != gcerrors.PermissionDenied {
		t.Errorf("read-only write: %v", err)
	}
	if err := look.Delete(ctx, "a/b"); gcerrors.Code(err) != gcerrors.PermissionDenied {
		t.Errorf("read-only delete: %v", err)
	}
	if err := errors.Join(look.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}

	// What a dead process left half written goes at the next open.
	left := filepath.Join(dir, tempName, "7-1")
	if err := os.WriteFile(left, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a half-written file is still there: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		kind                error
	}{
		{"newer format", formatName, "2\n", tidemill.ErrInvalid},
		{"no number", formatName, "one", tidemill.ErrCorrupt},
		{"other things", "thesis.txt", "precious", tidemill.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{}); !errors.Is(err, c.kind) {
				t.Fatalf("open: %v", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("a refused directory was changed: %v %v", entries, err)
			}
		})
	}
}

// faulty fails one kind of step with an error, and counts what was asked.
type faulty struct {
	osFiles
	step string // create, write, sync, close, mkdir, link, rename, syncDir
	err  error
	on   func(path string) bool // nil: always
}

func (f *faulty) fail(step, path string) error {
	if f.step == step && (f.on == nil || f.on(path)) {
		return &fs.PathError{Op: step, Path: path, Err: f.err}
	}
	return nil
}

func (f *faulty) create(path string) (file, error) {
	if err := f.fail("create", path); err != nil {
		return nil, err
	}
	file, err := f.osFiles.create(path)
	return &faultyFile{file, f, path}, err
}

func (f *faulty) mkdir(path string) error {
	if err := f.fail("mkdir", path); err != nil {
		return err
	}
	return f.osFiles.mkdir(path)
}

func (f *faulty) link(from, to string) error {
	if err := f.fail("link", to); err != nil {
		return err
	}
	return f.osFiles.link(from, to)
}

func (f *faulty) rename(from, to string) error {
	if err := f.fail("rename", to); err != nil {
		return err
	}
	return f.osFiles.rename(from, to)
}

func (f *faulty) syncDir(path string) error {
	if err := f.fail("syncDir", path); err != nil {
		return err
	}
	return f.osFiles.syncDir(path)
}

type faultyFile struct {
	file
	f    *faulty
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.f.fail("write", f.path); err != nil {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, err
	}
	return f.file.Write(p)
}

func (f *faultyFile) Sync() error {
	if err := f.f.fail("sync", f.path); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) Close() error {
	return errors.Join(f.file.Close(), f.f.fail("close", f.path))
}

// TestFaults fails every step of a write: nothing may be visible then, what was there before
// stays, no temporary file is left, and the next write succeeds.
func TestFaults(t *testing.T) {
	ctx := context.Background()
	for _, step := range []string{"create", "write", "sync", "close", "mkdir", "link", "rename", "syncDir"} {
		for _, createOnly := range []bool{true, false} {
			if createOnly && step == "rename" || !createOnly && step == "link" {
				continue
			}
			for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
				t.Run(fmt.Sprintf("%s/create=%v/%v", step, createOnly, cause), func(t *testing.T) {
					f := &faulty{err: cause}
					drv, err := open(filepath.Join(t.TempDir(), "store"), Options{})
					if err != nil {
						t.Fatal(err)
					}
					drv.files = f
					b := blob.NewBucket(drv)
					defer b.Close()
					if !createOnly && step != "mkdir" {
						if err := b.WriteAll(ctx, "x/y", []byte("old"), nil); err != nil {
							t.Fatal(err)
						}
					}
					f.step = step
					if createOnly && step == "syncDir" {
						// The folder that gets the name, not those above it: the last possible moment.
						f.on = func(path string) bool { return filepath.Base(path) == "x" }
					}
					err = b.WriteAll(ctx, "x/y", []byte("new"), &blob.WriterOptions{IfNotExist: createOnly})
					if err == nil {
						t.Fatal("the write succeeded")
					}
					if full := gcerrors.Code(err) == gcerrors.ResourceExhausted; full != (cause == syscall.ENOSPC) {
						t.Errorf("code %v of %v", gcerrors.Code(err), err)
					}
					if strings.Contains(err.Error(), drv.root) {
						t.Errorf("the error tells where the store lies: %v", err)
					}
					f.step = ""
					got, err := b.ReadAll(ctx, "x/y")
					if !createOnly && step != "mkdir" {
						if string(got) != "old" {
							t.Errorf("after the failure it reads %q, %v", got, err)
						}
					} else if gcerrors.Code(err) != gcerrors.NotFound {
						t.Errorf("after the failure it reads %q, %v", got, err)
					}
					left, err := os.ReadDir(filepath.Join(drv.root, tempName))
					if err != nil || len(left) != 0 {
						t.Errorf("left behind: %v %v", left, err)
					}
					if err := b.WriteAll(ctx, "x/y", []byte("new"), &blob.WriterOptions{IfNotExist: createOnly}); err != nil {
						t.Errorf("the next write: %v", err)
					}
				})
			}
		}
	}
}

// TestUnflushedIsUnseen holds up the last flush of a create-only write: until it is done
// nobody sees the blob, and whoever wants to know waits.
func TestUnflushedIsUnseen(t *testing.T) {
	ctx := context.Background()
	drv, err := open(filepath.Join(t.TempDir(), "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	drv.files = &faulty{step: "syncDir", err: syscall.EIO, on: func(path string) bool {
		if filepath.Base(path) == "x" {
			once.Do(func() { close(reached) })
			<-goOn
			return true
		}
		return false
	}}
	b := blob.NewBucket(drv)
	defer b.Close()
	var wg sync.WaitGroup
	var writeErr error
	wg.Go(func() {
		writeErr = b.WriteAll(ctx, "x/y", []byte("new"), &blob.WriterOptions{IfNotExist: true})
	})
	<-reached
	if _, err := os.Stat(drv.path("x/y")); err != nil {
		t.Fatalf("the name is not given yet: %v", err)
	}
	stop, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := b.Exists(stop, "x/y"); !errors.Is(err, context.Canceled) {
		t.Errorf("a reader did not wait for the flush: %v", err)
	}
	if got, _, err := b.ListPage(stop, blob.FirstPageToken, 10, nil); err == nil {
		t.Errorf("a listing did not wait for the flush: %v", got)
	}
	close(goOn)
	wg.Wait()
	if writeErr == nil {
		t.Error("the write succeeded though its flush failed")
	}
	if ok, err := b.Exists(ctx, "x/y"); ok || err != nil {
		t.Errorf("after the flush failed: exists %v, %v", ok, err)
	}
}

// TestTwoProcesses races create-only writes of two drivers that share a directory and nothing
// else, as two processes would if the lock were defeated: still one wins.
func TestTwoProcesses(t *testing.T) {
	ctx := context.Background()
	one, err := open(filepath.Join(t.TempDir(), "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	two := newBucket(one.root, osFiles{}, func() error { return nil })
	two.temps.Store(1 << 32)
	buckets := []*blob.Bucket{blob.NewBucket(one), blob.NewBucket(two)}
	for round := range 50 {
		name := fmt.Sprintf("r/%d", round)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, b := range buckets {
			wg.Go(func() {
				errs[i] = b.WriteAll(ctx, name, []byte{byte(i)}, &blob.WriterOptions{IfNotExist: true})
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("round %d: %v, %v", round, errs[0], errs[1])
		}
	}
	if err := errors.Join(buckets[0].Close(), buckets[1].Close()); err != nil {
		t.Fatal(err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a/b", "../x", "/x", "a/./b", ".tmp/x", "ü", "a//b"} {
		f.Add(s)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		path := filepath.Join(root, filepath.FromSlash(name))
		rel, err := filepath.Rel(root, path)
		if err != nil || filepath.ToSlash(rel) != name || !filepath.IsLocal(rel) {
			t.Fatalf("%q lies at %q", name, rel)
		}
	})
}

// TestPages lists stores of random names page by page: whatever the size of a page, prefix and
// delimiter, the pages together are what one page would be.
func TestPages(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp("", "pages")
		if err != nil {
			r.Fatal(err)
		}
		defer os.RemoveAll(dir)
		b, err := Open(dir, Options{})
		if err != nil {
			r.Fatal(err)
		}
		defer b.Close()
		segment := rapid.SampledFrom([]string{"a", "a-b", "ab", "a.c", "b", "z0", "z"})
		for range rapid.IntRange(0, 25).Draw(r, "blobs") {
			name := strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(r, "name"), "/")
			_ = b.WriteAll(context.Background(), name, []byte("x"), nil) // part of the name can be a blob's
		}
		list := func(opts blob.ListOptions, size int) (out []string) {
			token := blob.FirstPageToken
			for token != nil {
				page, next, err := b.ListPage(context.Background(), token, size, &opts)
				if err != nil {
					r.Fatal(err)
				}
				for _, o := range page {
					out = append(out, o.Key)
				}
				token = next
			}
			return out
		}
		for _, opts := range []blob.ListOptions{{}, {Delimiter: "/"}, {Prefix: "a"}, {Prefix: "a/"}, {Prefix: "a/", Delimiter: "/"}, {Prefix: "z", Delimiter: "-"}} {
			all := list(opts, 1000)
			if !slices.IsSorted(all) {
				r.Fatalf("%+v: %v", opts, all)
			}
			for _, size := range []int{1, 2, 5} {
				if got := list(opts, size); !slices.Equal(got, all) {
					r.Fatalf("%+v in pages of %d: %v, want %v", opts, size, got, all)
				}
			}
		}
	})
}
