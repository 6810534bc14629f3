package sim

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill"
)

// broker is the stream: a log per partition, to which producers append with keys, and from
// which workers read by offset. It models internal/source: an append is acknowledged once it is
// durable, and one of a known key adds nothing.
type broker struct {
	w    *World
	keys map[string]appended
	lied bool
	// unsafe appends were acknowledged by an fsync that lied: by partition, the durable end.
	durable []int64
}

type appended struct {
	partition int
	rng       tidemill.Range
}

func newBroker(w *World) *broker {
	b := &broker{w: w, keys: map[string]appended{}}
	for p := range w.log {
		b.durable = append(b.durable, int64(len(w.log[p])))
	}
	return b
}

// crashed loses what an fsync that lied had said to be durable.
func (b *broker) crashed() {
	for p, end := range b.durable {
		if int64(len(b.w.log[p])) > end {
			b.lied = true
			b.w.say("the stream has lost rows of partition %d from %d on", p, end)
			b.w.log[p] = b.w.log[p][:end]
		}
	}
	for _, key := range sortedKeys(b.keys) {
		if a := b.keys[key]; a.rng.Next > b.durable[a.partition] {
			delete(b.keys, key)
		}
	}
}

// append adds rows once.
func (b *broker) append(p int, key string, rows []uint64, lying bool) tidemill.Range {
	if a, ok := b.keys[key]; ok {
		return a.rng
	}
	first := int64(len(b.w.log[p]))
	b.w.log[p] = append(b.w.log[p], rows...)
	r := tidemill.Range{First: first, Next: int64(len(b.w.log[p]))}
	b.keys[key] = appended{p, r}
	if !lying && b.durable[p] == first {
		b.durable[p] = r.Next
	}
	return r
}

// tell brings the ends of the log to a worker, sometime.
func (b *broker) tell(n *node) {
	log := b.w.nodes["log"]
	if !log.up || log.pausedUntil > b.w.now {
		return
	}
	ends := make([]int64, len(b.w.log))
	for p, rows := range b.w.log {
		ends[p] = int64(len(rows))
	}
	b.w.send(log, n.id(), "watch", func(n *node) {
		if n.worker != nil {
			n.worker.heard(ends)
		}
	})
}

// read brings the rows of r to a node, tried again until it succeeds or goes says no. The
// broker delivers in pieces, and now and then some rows once more; what was had already is
// dropped by offset.
func (b *broker) read(n *node, p int, r tidemill.Range, goes func() bool, done func(rows []uint64, err error)) {
	var have []uint64
	pos := r.First
	var ask func()
	ask = func() {
		from := pos
		b.w.call(n, "log", "log", func(_ *node, answer func(any, error)) {
			end := int64(len(b.w.log[p]))
			if r.Next > end {
				answer(nil, fmt.Errorf("the log of partition %d ends at %d: %w", p, end, tidemill.ErrCorrupt))
				return
			}
			first, next := from, r.Next
			if !b.w.cfg.Steady {
				first -= b.w.rng.Int64N(min(from, 3) + 1) // delivered once more
				next = from + 1 + b.w.rng.Int64N(r.Next-from)
			}
			answer(piece{first, slices.Clone(b.w.log[p][first:next])}, nil)
		}, func(v any, err error) {
			if !goes() {
				return
			}
			if err != nil {
				if b.lied {
					done(nil, err)
					return
				}
				b.w.on(n, n.incarnation, 20*ms, func() {
					if goes() {
						ask()
					}
				})
				return
			}
			if x := v.(piece); x.first+int64(len(x.rows)) > pos {
				have = append(have, x.rows[pos-x.first:]...)
				pos = x.first + int64(len(x.rows))
			}
			if pos < r.Next {
				ask()
				return
			}
			done(have, nil)
		})
	}
	ask()
}

// piece is contiguous rows as the broker delivers them.
type piece struct {
	first int64
	rows  []uint64
}
