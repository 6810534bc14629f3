package kernel

import "unsafe"

// LineBytes is the size of a cache line that Prefetch counts in.
const LineBytes = 64

// Prefetch asks the processor to bring lines cache lines, at least 1, from each address on into
// its caches, and waits for none of them: whoever then works through the addresses in order finds
// most of them there. It reads nothing and changes no bit; addresses need not be valid. Where
// there is no such instruction (another processor than amd64, or the tag noasm) it does nothing.
func Prefetch(at []unsafe.Pointer, lines int) {
	if len(at) > 0 && lines > 0 {
		prefetch(&at[0], len(at), lines)
	}
}
