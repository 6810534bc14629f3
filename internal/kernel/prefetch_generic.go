//go:build !amd64 || noasm

package kernel

import "unsafe"

func prefetch(*unsafe.Pointer, int, int) {}
