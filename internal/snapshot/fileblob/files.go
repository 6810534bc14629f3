package fileblob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/tidemill/tidemill"
)

// files are the steps of a write that a disk can fail. Tests fail them one by one.
type files interface {
	// create makes a new file, or fails if it exists.
	create(path string) (file, error)
	// mkdir makes one folder, or fails if it exists.
	mkdir(path string) error
	// link gives a file a second name, or fails if that exists.
	link(from, to string) error
	// rename gives a file another name, replacing what had it.
	rename(from, to string) error
	// syncDir flushes a folder.
	syncDir(path string) error
}

type file interface {
	Write(p []byte) (int, error)
	Sync() error
	Close() error
}

type osFiles struct{}

func (osFiles) create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}
func (osFiles) mkdir(path string) error      { return os.Mkdir(path, 0o755) }
func (osFiles) link(from, to string) error   { return os.Link(from, to) }
func (osFiles) rename(from, to string) error { return os.Rename(from, to) }
func (osFiles) syncDir(path string) error    { return syncDir(path) }

// kindOf gives an error of the operating system its kind, and takes the path out of it: blobs
// have names, and where they lie is nobody's business.
func kindOf(err error) error {
	cause := err
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		cause = path.Err
	case errors.As(err, &link):
		cause = link.Err
	}
	switch {
	case errors.Is(cause, syscall.ENOSPC):
		return fmt.Errorf("%w: %w", tidemill.ErrFull, cause)
	case errors.Is(cause, fs.ErrPermission), errors.Is(cause, syscall.EROFS):
		return fmt.Errorf("%w: %w", tidemill.ErrDenied, cause)
	case errors.Is(cause, fs.ErrNotExist), errors.Is(cause, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", tidemill.ErrNotFound, cause)
	case errors.Is(cause, fs.ErrExist):
		return fmt.Errorf("%w: %w", tidemill.ErrExists, cause)
	default:
		return cause
	}
}
