package trainer

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// loadEvery is how often the leading trainer asks each ps what its shards are asked for.
const loadEvery = 2 * time.Second

// ShardLoad is one shard as it was measured last.
type ShardLoad struct {
	Shard int    `json:"shard"`
	Owner string `json:"owner"`
	Rows  int64  `json:"rows"` // held
	// Pulled and Pushed count rows since the owner restored the shard or took it over.
	Pulled int64 `json:"pulled"`
	Pushed int64 `json:"pushed"`
	// RowsPerSecond is how many are pulled and pushed; nil: not known yet.
	RowsPerSecond *float64 `json:"rows_per_second"`
}

// PSLoad sums up the shards of one ps.
type PSLoad struct {
	PS            string   `json:"ps"`
	Shards        int      `json:"shards"`
	Rows          int64    `json:"rows"`
	RowsPerSecond *float64 `json:"rows_per_second"` // nil: of some shard it is not known yet
}

// sample is what one look at all ps found. It is not changed after it is made.
type sample struct {
	generation, routes uint64
	shards             []measured // by shard; with owner "": unknown
}

type measured struct {
	ShardLoad
	at time.Time
}

// measure asks every ps what its shards are asked for, again and again until ctx ends, and
// tells the core.
func (r *run) measure(ctx context.Context) {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		r.t.mu.Lock()
		a, last := r.asg, r.load
		r.t.mu.Unlock()
		if a.State == tidemill.JobRunning && len(a.Shards) > 0 {
			now := r.look(ctx, &a)
			known := now.rates(last)
			r.t.mu.Lock()
			r.load = now
			r.t.mu.Unlock()
			if known && !r.t.cfg.KeepPlacement {
				loads := make([]int64, len(now.shards))
				for s := range now.shards {
					loads[s] = int64(*now.shards[s].RowsPerSecond)
				}
				r.post(Event{Kind: Loaded, Routes: now.routes, Loads: loads})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look asks every ps once. One that does not answer soon is left out.
func (r *run) look(ctx context.Context, a *tidemill.Assignment) *sample {
	ctx, cancel := context.WithTimeout(ctx, loadEvery)
	defer cancel()
	s := &sample{generation: a.Generation, routes: a.Routes(), shards: make([]measured, len(a.Shards))}
	for i := range s.shards {
		s.shards[i].Shard = i
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, id := range a.PSes() {
		all.Add(1)
		go func() {
			defer all.Done()
			var st wire.Status
			ps, err := r.t.cfg.PS(ctx, a.Members[id])
			if err == nil {
				st, err = ps.Status(ctx, r.job)
			}
			if err != nil || !st.Ready || st.Generation != a.Generation {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, l := range st.Load {
				if l.Shard >= 0 && l.Shard < len(a.Shards) && a.Shards[l.Shard].Member == id {
					s.shards[l.Shard] = measured{ShardLoad{Shard: l.Shard, Owner: id, Rows: l.Rows, Pulled: l.Pulled, Pushed: l.Pushed}, time.Now()}
				}
			}
		}()
	}
	all.Wait()
	return s
}

// rates compares s with the look before it and reports whether the rate of every shard is
// known. Of a shard that has come to its owner since, it is not.
func (s *sample) rates(last *sample) (known bool) {
	if last == nil || last.generation != s.generation || len(last.shards) != len(s.shards) {
		return false
	}
	known = true
	for i := range s.shards {
		now, was := &s.shards[i], &last.shards[i]
		d := now.at.Sub(was.at).Seconds()
		n := now.Pulled + now.Pushed - was.Pulled - was.Pushed
		if now.Owner == "" || now.Owner != was.Owner || n < 0 || d <= 0 {
			known = false
			continue
		}
		rate := float64(n) / d
		now.RowsPerSecond = &rate
	}
	return known
}

// loads fills what the status of a job says of its load, if this trainer leads it.
func (t *Trainer) loads(st *JobStatus, a *tidemill.Assignment) {
	t.mu.Lock()
	var s *sample
	if r := t.runs[a.Job]; r != nil {
		s = r.load
	}
	t.mu.Unlock()
	if s == nil || s.generation != a.Generation || a.State != tidemill.JobRunning && a.State != tidemill.JobPaused {
		return
	}
	by := map[string]*PSLoad{}
	for i := range s.shards {
		l := s.shards[i].ShardLoad
		if l.Owner == "" {
			continue
		}
		st.ShardLoads = append(st.ShardLoads, l)
		p := by[l.Owner]
		if p == nil {
			p = &PSLoad{PS: l.Owner, RowsPerSecond: new(float64)}
			by[l.Owner] = p
		}
		p.Shards++
		p.Rows += l.Rows
		switch {
		case l.RowsPerSecond == nil:
			p.RowsPerSecond = nil
		case p.RowsPerSecond != nil:
			*p.RowsPerSecond += *l.RowsPerSecond
		}
	}
	for _, p := range by {
		st.PSLoads = append(st.PSLoads, *p)
	}
	slices.SortFunc(st.PSLoads, func(a, b PSLoad) int { return strings.Compare(a.PS, b.PS) })
}
