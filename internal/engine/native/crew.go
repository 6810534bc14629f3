package native

import (
	"sync"
	"sync/atomic"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// lane is what one goroutine computes with.
type lane struct {
	gemm    *kernel.Gemm
	squares []float32 // [K·Dim] FM's Σⱼ (xⱼ·v)² of one example
	spread  []float32 // [ids × K·Dim] gradients by one example's embeddings
	part    []float32 // [chunk × in] a product of the cross layers
}

// crew does tasks on the stepper's goroutine and on those processors that are idle when it
// begins. Tasks of one run may be done in any order and at the same time.
type crew struct {
	cores   *engine.Cores
	lanes   []*lane  // the first is the stepper's own
	helpers []func() // of the other lanes

	do      func(ln *lane, task int)
	tasks   int32
	next    atomic.Int32
	running sync.WaitGroup
	failed  atomic.Pointer[any] // what a helper panicked with
}

func newCrew(level kernel.Level, cores *engine.Cores) *crew {
	c := &crew{cores: cores}
	for i := range cores.N() {
		ln := &lane{gemm: kernel.NewGemm(level)}
		c.lanes = append(c.lanes, ln)
		if i > 0 {
			c.helpers = append(c.helpers, func() { c.help(ln) })
		}
	}
	return c
}

// run does tasks 0 … tasks-1 and returns when all are done; alone, on the caller's goroutine.
func (c *crew) run(tasks int, alone bool, do func(ln *lane, task int)) {
	c.do, c.tasks = do, int32(tasks)
	c.next.Store(0)
	if !alone {
		for i, help := range c.helpers {
			if i+1 >= tasks || !c.cores.Take() {
				break
			}
			c.running.Add(1)
			go help()
		}
	}
	c.work(c.lanes[0])
	c.running.Wait()
	if p := c.failed.Swap(nil); p != nil {
		panic(*p)
	}
}

func (c *crew) work(ln *lane) {
	for {
		task := c.next.Add(1) - 1
		if task >= c.tasks {
			return
		}
		c.do(ln, int(task))
	}
}

func (c *crew) help(ln *lane) {
	defer c.running.Done()
	defer c.cores.Leave()
	defer func() {
		if p := recover(); p != nil {
			c.failed.Store(&p)
		}
	}()
	c.work(ln)
}
