package kernel

import (
	"testing"
	"unsafe"
)

// TestPrefetchTouchesNothing: neither the memory nor the list of addresses changes, any number of
// addresses will do, and lines beyond the end of what was allocated do no harm.
func TestPrefetchTouchesNothing(t *testing.T) {
	memory := make([]uint64, 1<<12)
	for i := range memory {
		memory[i] = uint64(i)
	}
	for n := range 20 {
		at := make([]unsafe.Pointer, n)
		for i := range at {
			at[i] = unsafe.Pointer(&memory[len(memory)-1-i*97])
		}
		for lines := range 5 {
			Prefetch(at, lines)
		}
		for i, p := range at {
			if p != unsafe.Pointer(&memory[len(memory)-1-i*97]) {
				t.Fatalf("address %d of %d is another one", i, n)
			}
		}
	}
	Prefetch([]unsafe.Pointer{nil}, 3)
	for i, v := range memory {
		if v != uint64(i) {
			t.Fatalf("value %d is %d", i, v)
		}
	}
}
