package engine

import "sync/atomic"

// Cores are the processors that the steppers of a process share, so that all of them together
// never compute with more goroutines than there are. A stepper counts its own while it computes
// and takes others that are idle; results do not depend on how many it gets. A nil *Cores has
// none to take.
type Cores struct {
	n    int32
	busy atomic.Int32
}

// NewCores returns n processors, at least 1.
func NewCores(n int) *Cores { return &Cores{n: int32(max(1, n))} }

// N is their number, 1 of a nil *Cores.
func (c *Cores) N() int {
	if c == nil {
		return 1
	}
	return int(c.n)
}

// Enter counts the caller's own processor, idle or not; Leave gives it back.
func (c *Cores) Enter() {
	if c != nil {
		c.busy.Add(1)
	}
}

// Take counts another processor, unless none is idle. Leave gives it back.
func (c *Cores) Take() bool {
	if c == nil {
		return false
	}
	for {
		busy := c.busy.Load()
		if busy >= c.n {
			return false
		}
		if c.busy.CompareAndSwap(busy, busy+1) {
			return true
		}
	}
}

// Leave gives back one processor.
func (c *Cores) Leave() {
	if c != nil {
		c.busy.Add(-1)
	}
}
