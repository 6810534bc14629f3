package fileblob

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// Format is the number of the directory format that this package writes. It reads this one
// only; a newer one is refused.
const Format = 1

const (
	formatName = "FORMAT"
	tempName   = ".tmp"
)

// Options changes how a directory is opened; the zero value is for its owner.
type Options struct {
	// ReadOnly opens an existing directory without locking it or touching anything in it, for
	// looking into one that may be in use. Writes are refused.
	ReadOnly bool
}

// Open opens the store in dir, creating both unless they exist, and locks it until the bucket
// is closed. Files that a dead process left half written are removed.
//
// A directory that another process uses wraps tidemill.ErrExists, one of a newer format, or
// that holds other things, tidemill.ErrInvalid, a missing one opened read-only
// tidemill.ErrNotFound.
func Open(dir string, opts Options) (*blob.Bucket, error) {
	b, err := open(dir, opts)
	if err != nil {
		return nil, err
	}
	return blob.NewBucket(b), nil
}

func open(dir string, opts Options) (*bucket, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store directory: %w", kindOf(err))
	}
	if opts.ReadOnly {
		switch found, err := checkFormat(root); {
		case err != nil:
			return nil, err
		case !found:
			return nil, fmt.Errorf("store directory %q holds no store: %w", filepath.Base(root), tidemill.ErrNotFound)
		}
		return newBucket(root, osFiles{}, nil), nil
	}
	// Looked at before the lock too, so that a folder of somebody else's is left as it is.
	if err := checkUsable(root); err != nil {
		return nil, err
	}
	unlock, err := LockDir(root)
	if err != nil {
		return nil, err
	}
	if err := prepare(root); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return newBucket(root, osFiles{}, unlock), nil
}

// prepare makes a locked directory ready for writing.
func prepare(root string) error {
	if err := checkUsable(root); err != nil {
		return err
	}
	found, err := checkFormat(root)
	if err != nil {
		return err
	}
	temp := filepath.Join(root, tempName)
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("store directory: half-written files cannot be removed: %w", kindOf(err))
	}
	if err := os.Mkdir(temp, 0o755); err != nil {
		return fmt.Errorf("store directory cannot be written to: %w", kindOf(err))
	}
	if found {
		return nil
	}
	// The same steps as for any blob: whole and durable, or not there.
	name := filepath.Join(temp, formatName)
	err = writeSynced(name, []byte(strconv.Itoa(Format)+"\n"))
	if err == nil {
		err = os.Rename(name, filepath.Join(root, formatName))
	}
	if err == nil {
		err = errors.Join(syncDir(root), syncDir(filepath.Dir(root)))
	}
	if err != nil {
		return fmt.Errorf("store directory: its format cannot be recorded: %w", kindOf(err))
	}
	return nil
}

func writeSynced(name string, data []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// checkFormat reports whether root holds a store, and an error if this program cannot read it.
func checkFormat(root string) (found bool, err error) {
	data, err := os.ReadFile(filepath.Join(root, formatName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store directory: its format cannot be read: %w", kindOf(err))
	}
	digits, whole := strings.CutSuffix(string(data), "\n")
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n < 1 || !whole || strconv.Itoa(n) != digits:
		return false, fmt.Errorf("store directory %q is %w: its file FORMAT holds no number", filepath.Base(root), tidemill.ErrCorrupt)
	case n > Format:
		return false, tidemill.Invalid("store directory %q has format %d, and this program knows formats up to %d", "use the program that wrote it, or a newer one", filepath.Base(root), n, Format)
	}
	return true, nil
}

// checkUsable refuses a directory that holds something else than a store of a known format: a
// store spreads over its folder, and nobody wants one in a home directory by accident.
func checkUsable(root string) error {
	if found, err := checkFormat(root); found || err != nil {
		return err
	}
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store directory cannot be read: %w", kindOf(err))
	}
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != tempName {
			return tidemill.Invalid("directory %q is not empty and holds no store", "choose an empty or a new one", filepath.Base(root))
		}
	}
	return nil
}
