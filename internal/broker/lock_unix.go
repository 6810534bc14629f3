//go:build unix

package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tidemill/tidemill"
)

// lockDir takes the folder for this process; the system frees it when the process ends,
// however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the broker's folder: %w", pathless(err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another broker uses this folder: %w", tidemill.ErrConflict)
	}
	return f, nil
}

func unlockDir(f *os.File) error { return f.Close() }
