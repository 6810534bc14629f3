//go:build !noasm

package kernel

import "unsafe"

func prefetch(at *unsafe.Pointer, n, lines int) {
	prefetchLines((**byte)(unsafe.Pointer(at)), n, lines)
}
