package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
)

// kv is the compare-and-set store: leases in memory, records on disk. It models lease.Store
// and the watches on it.
type kv struct {
	w      *World
	rev    uint64
	leases map[string]lease
	other  map[string]string // records of other jobs: name → who submitted it
}

type lease struct {
	value string
	rev   uint64
	until int64 // by the store's clock
}

func newKV(w *World) *kv {
	return &kv{w: w, leases: map[string]lease{}, other: map[string]string{}}
}

// crashed loses the leases, which are in memory; revisions go on, since they begin with the
// time.
func (k *kv) crashed() { clear(k.leases) }

// expire forgets leases that were not renewed.
func (k *kv) expire() {
	now := k.w.nodes["kv"].clock(k.w)
	for key, l := range k.leases {
		if l.until <= now {
			delete(k.leases, key)
		}
	}
}

func (k *kv) create(key, value string) (uint64, error) {
	k.expire()
	if _, ok := k.leases[key]; ok {
		return 0, fmt.Errorf("create %s: %w", key, tidemill.ErrExists)
	}
	return k.put(key, value), nil
}

func (k *kv) update(key, value string, rev uint64) (uint64, error) {
	k.expire()
	if l, ok := k.leases[key]; !ok || l.rev != rev {
		return 0, fmt.Errorf("update %s: %w", key, tidemill.ErrConflict)
	}
	return k.put(key, value), nil
}

func (k *kv) put(key, value string) uint64 {
	k.rev++
	k.leases[key] = lease{value, k.rev, k.w.nodes["kv"].clock(k.w) + leaseTTL}
	return k.rev
}

func (k *kv) remove(key string, rev uint64) {
	if l, ok := k.leases[key]; ok && l.rev == rev {
		delete(k.leases, key)
	}
}

// evict ends a lease for its holder, as those do who take it for dead.
func (k *kv) evict(s *session) {
	if l, ok := k.leases[s.key]; ok && l.value == s.value {
		delete(k.leases, s.key)
	}
}

// leavingMark ends the value of a session whose process is about to go.
const leavingMark = " leaves"

// alive lists the members that hold a lease, as the store knows it.
func (k *kv) alive() (workers map[string]int, pss []string, leaving map[string]bool) {
	k.expire()
	workers, leaving = map[string]int{}, map[string]bool{}
	for key, l := range k.leases {
		id, ok := strings.CutPrefix(key, "members.")
		if !ok {
			continue
		}
		if strings.HasSuffix(l.value, leavingMark) {
			leaving[id] = true
			continue
		}
		switch id[0] {
		case 'w':
			workers[id] = 1
		case 'p':
			pss = append(pss, id)
		}
	}
	slices.Sort(pss)
	return workers, pss, leaving
}

// session holds one lease, as internal/lease.Session does: until it is lost, by the holder's
// own clock or because the store says so.
type session struct {
	w          *World
	n          *node
	key, value string
	held, lost func()

	rev      uint64
	epoch    uint64 // the revision at which it was acquired
	deadline int64  // by the node's clock; 0: not held
	over     bool
	turn     int64    // of renewing: a later one makes an earlier one void
	asking   bool     // a renewal is on its way
	confirms []func() // wait for a renewal that begins later
}

// valid reports whether the lease is held, by the holder's own clock.
func (s *session) valid() bool { return s.deadline > 0 && s.n.clock(s.w) < s.deadline && !s.over }

func (s *session) later(d int64, f func()) {
	s.w.on(s.n, s.n.incarnation, d, func() {
		if !s.over {
			f()
		}
	})
}

func (s *session) acquire() {
	start := s.n.clock(s.w)
	s.w.call(s.n, "kv", "kv", func(_ *node, answer func(any, error)) {
		rev, err := s.w.kv.create(s.key, s.value)
		answer(rev, err)
	}, func(v any, err error) {
		switch {
		case s.over:
		case err == nil:
			s.rev, s.deadline = v.(uint64), start+leaseTTL-leaseMargin
			s.epoch = s.rev
			s.held()
			s.renew(leaseRenew)
		case errors.Is(err, tidemill.ErrExists):
			s.later(leaseRenew/2, s.acquire)
		default:
			s.later(leaseRenew/2, s.acquire)
		}
	})
}

// confirm calls f once the store has said that the lease is held, at some time after the call.
func (s *session) confirm(f func()) {
	s.confirms = append(s.confirms, f)
	if !s.asking {
		s.renew(0)
	}
}

// renew writes the lease again after d, or finds that its time is over.
func (s *session) renew(d int64) {
	left := s.deadline - s.n.clock(s.w)
	s.turn++
	turn := s.turn
	s.later(max(0, min(d, left)), func() {
		if turn != s.turn {
			return
		}
		if !s.valid() {
			s.end()
			return
		}
		start := s.n.clock(s.w)
		waiting := s.confirms
		s.confirms, s.asking = nil, true
		at := s.rev
		s.w.call(s.n, "kv", "kv", func(_ *node, answer func(any, error)) {
			rev, err := s.w.kv.update(s.key, s.value, at)
			answer(rev, err)
		}, func(v any, err error) {
			s.asking = false
			switch {
			case s.over:
			case err == nil:
				s.rev, s.deadline = v.(uint64), start+leaseTTL-leaseMargin
				if len(s.confirms) > 0 {
					s.renew(0)
				} else {
					s.renew(leaseRenew)
				}
				for _, f := range waiting {
					f()
				}
			case errors.Is(err, tidemill.ErrConflict):
				s.end()
			default:
				s.confirms = append(waiting, s.confirms...)
				s.renew(leaseRenew / 10)
			}
		})
	})
}

func (s *session) end() {
	if !s.over {
		s.over = true
		s.lost()
	}
}

// release gives the lease up at once.
func (s *session) release() {
	s.over = true
	key, rev := s.key, s.rev
	s.w.send(s.n, "kv", "kv", func(*node) { s.w.kv.remove(key, rev) })
}

// watch brings what the store holds to those who follow it, again and again: a watch survives
// whatever happens in between, and delivers what is the case then.
func (w *World) watch() {
	kv := w.nodes["kv"]
	if kv.up && kv.pausedUntil <= w.now {
		workers, pss, leaving := w.kv.alive()
		rec := w.records
		for _, n := range w.roles("t") {
			w.send(kv, n.id(), "watch", func(n *node) {
				if n.trainer != nil {
					n.trainer.watched(workers, pss, leaving, rec)
				}
			})
		}
		for _, name := range w.names {
			if n := w.nodes[name]; n.up && len(n.role) == 1 {
				w.tell(n)
			}
		}
	}
	for _, n := range w.roles("s") {
		w.on(n, n.incarnation, w.delay(), func() { n.serving.poll() })
	}
	for _, n := range w.roles("w") {
		w.broker.tell(n)
	}
	w.after(watchEvery, w.watch)
}

// tell brings the present assignment to a node, sometime.
func (w *World) tell(n *node) {
	if w.records.rev == 0 || !w.nodes["kv"].up {
		return
	}
	asg := w.records.asg
	w.send(w.nodes["kv"], n.id(), "watch", func(n *node) {
		switch {
		case n.worker != nil:
			n.worker.assigned(asg)
		case n.ps != nil:
			n.ps.assigned(asg)
		}
	})
}

// write is the compare-and-set on the assignment record; whoever gets here has won.
func (w *World) write(a tidemill.Assignment) {
	w.checks.assigned(w, a)
	a.Shards, a.Partitions, a.Origins = slices.Clone(a.Shards), slices.Clone(a.Partitions), slices.Clone(a.Origins)
	w.records.asg = a
	w.records.rev++
	w.say("assignment %d: generation %d from snapshot %d, %s", a.Seq, a.Generation, a.Snapshot, a.State)
	for _, name := range w.names {
		if n := w.nodes[name]; n.up && len(n.role) == 1 {
			w.tell(n)
		}
	}
}
