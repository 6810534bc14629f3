// Package peers carries the scripts that run other systems on the benchmark's rows, and the lock
// files of the versions that they are run with: one for each system, all into one environment.
//
// Each script runs one system once, as a process of its own, and prints one line of JSON. What they
// have in common is in peer.py. lock.py makes the lock files.
package peers

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed peer.py vw.py tf.py torch_peer.py openblas.py *.lock
var files embed.FS

// Unpack writes all scripts and lock files to dir, which must exist.
func Unpack(dir string) error {
	entries, err := files.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, e.Name()), data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("the peers' scripts cannot be written: %w", err)
		}
	}
	return nil
}

// Lock returns a lock file.
func Lock(name string) ([]byte, error) { return files.ReadFile(name) }
