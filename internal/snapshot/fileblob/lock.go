package fileblob

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidemill/tidemill"
)

// lockName is the file that is locked.
const lockName = "LOCK"

// errLocked is what lockFile returns when another process, or another open file of this one,
// holds the lock.
var errLocked = errors.New("locked")

// LockDir makes the caller the only one that uses dir, creating it if need be. It does not
// wait: a directory in use wraps tidemill.ErrExists. The lock ends with unlock or with the
// process, however that dies, so a stale one never has to be removed by hand.
func LockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory %q cannot be made: %w", filepath.Base(dir), kindOf(err))
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("data directory %q cannot be locked: %w", filepath.Base(dir), kindOf(err))
	}
	if err := lockFile(f); err != nil {
		f.Close()
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("%w: data directory %q is in use by another process; stop that one or choose another directory", tidemill.ErrExists, filepath.Base(dir))
		}
		return nil, fmt.Errorf("data directory %q cannot be locked: %w", filepath.Base(dir), kindOf(err))
	}
	// Closing the file ends the lock. The file stays: removing it would let a third process lock
	// a new one while a second still waits with the old one open.
	return f.Close, nil
}
