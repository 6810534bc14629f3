package ps

import (
	"runtime"
	"sync/atomic"

	"github.com/tidemill/tidemill"
)

// Shards share nothing, so what one request asks of several can be done at the same time while the
// job's lock is held. Workers send ids in the order of their shards; then every shard's are
// together, and a few cuts between shards give each processor its share.

const (
	// shareRows is how many ids one share has at least: enough for the time that it takes to be far
	// above that of waking somebody.
	shareRows = 256
	// mostShares is how many shares there are at most.
	mostShares = 8
)

// shares returns where ids, of a job with v shards, are cut: share i is ids[cuts[i]:cuts[i+1]], and no
// shard has ids in two of them. There is one share where there are few ids, or they are not in the order
// of their shards.
func shares(cuts []int, ids []uint64, v int) []int {
	n := min(mostShares, len(ids)/shareRows, 2*runtime.GOMAXPROCS(0))
	cuts = append(cuts[:0], 0)
	if n > 1 {
		last := 0
		for i, id := range ids {
			s := tidemill.ShardOf(id, v)
			if s < last {
				return append(cuts[:1], len(ids))
			}
			if s > last && i >= len(cuts)*len(ids)/n && len(cuts) < n {
				cuts = append(cuts, i)
			}
			last = s
		}
	}
	return append(cuts, len(ids))
}

// together calls f for 0 to n-1, on as many goroutines as there are processors to run them, and
// returns when all calls have. The caller's own does whatever no other has begun, so it never waits for one
// that has not been given a processor. A panic of f is the caller's.
func together(n int, f func(i int)) {
	helpers := min(n, runtime.GOMAXPROCS(0)) - 1
	if helpers < 1 {
		for i := range n {
			f(i)
		}
		return
	}
	g := &gang{f: f, n: int32(n), done: make(chan struct{})}
	for range helpers {
		go g.work()
	}
	g.work()
	<-g.done
	if p := g.panicked.Load(); p != nil {
		panic(*p)
	}
}

// gang is a call of together.
type gang struct {
	f        func(i int)
	n        int32
	begun    atomic.Int32
	ended    atomic.Int32
	done     chan struct{} // closed when all have ended
	panicked atomic.Pointer[any]
}

func (g *gang) work() {
	for {
		i := g.begun.Add(1) - 1
		if i >= g.n {
			return
		}
		g.call(int(i))
		if g.ended.Add(1) == g.n {
			close(g.done)
		}
	}
}

func (g *gang) call(i int) {
	defer func() {
		if p := recover(); p != nil {
			g.panicked.CompareAndSwap(nil, &p)
		}
	}()
	g.f(i)
}

// readTable is readRows, by shares. mu is held.
func (j *job) readTable(t int, dst []float32, ids []uint64) bool {
	j.cuts = shares(j.cuts, ids, len(j.shards))
	if len(j.cuts) == 2 {
		return j.readRows(t, dst, ids)
	}
	dim := j.model.Layout.Tables[t].Dim
	var missing atomic.Bool
	together(len(j.cuts)-1, func(i int) {
		lo, hi := j.cuts[i], j.cuts[i+1]
		if !j.readRows(t, dst[lo*dim:hi*dim], ids[lo:hi]) {
			missing.Store(true)
		}
	})
	return !missing.Load()
}

// updateTable is updateRows, by shares. mu is held.
func (j *job) updateTable(t int, ids []uint64, grads []float32, scale float32, before, k int64) {
	j.cuts = shares(j.cuts, ids, len(j.shards))
	if len(j.cuts) == 2 {
		j.updateRows(t, ids, grads, scale, before, k)
		return
	}
	dim := j.model.Layout.Tables[t].Dim
	together(len(j.cuts)-1, func(i int) {
		lo, hi := j.cuts[i], j.cuts[i+1]
		j.updateRows(t, ids[lo:hi], grads[lo*dim:hi*dim], scale, before, k)
	})
}
