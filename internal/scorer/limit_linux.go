package scorer

import (
	"fmt"
	"runtime/debug"
	"syscall"
)

// Limit bounds the memory of this process: what it may write to, of its own. An allocation beyond
// ends it. 0 is no limit.
func Limit(bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	debug.SetMemoryLimit(bytes / 10 * 9)
	const data = 2 // RLIMIT_DATA, which counts private writable memory, and not what is only reserved
	if err := syscall.Setrlimit(data, &syscall.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}); err != nil {
		return fmt.Errorf("limit memory to %d bytes: %w", bytes, err)
	}
	return nil
}
