//go:build !unix

package broker

import (
	"fmt"
	"os"
	"path/filepath"
)

// lockDir opens the lock file; here nothing stops a second broker on the same folder.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the broker's folder: %w", pathless(err))
	}
	return f, nil
}

func unlockDir(f *os.File) error { return f.Close() }
