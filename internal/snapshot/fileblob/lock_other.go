//go:build !unix || solaris || aix

package fileblob

import (
	"errors"
	"os"
)

// lockFile refuses: a directory that two processes write to would lose data, so a platform
// without flock cannot keep a store in one.
func lockFile(*os.File) error {
	return errors.ErrUnsupported
}

// syncDir is never reached: without a lock no directory is opened for writing.
func syncDir(string) error { return errors.ErrUnsupported }
