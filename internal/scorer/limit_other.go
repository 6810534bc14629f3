//go:build !linux

package scorer

import "runtime/debug"

// Limit bounds the memory of this process as far as the system lets it: what Go manages. 0 is no
// limit.
func Limit(bytes int64) error {
	if bytes > 0 {
		debug.SetMemoryLimit(bytes / 10 * 9)
	}
	return nil
}
