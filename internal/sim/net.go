package sim

import (
	"fmt"
	"strings"

	"github.com/tidemill/tidemill"
)

// network says which messages arrive. It loses, repeats and reorders them (each takes its own
// time), and parts of it are cut, in one direction each.
type network struct {
	cuts map[link]int // how many cuts of it are in force
	// Loss is added to the configured one while a storm goes on.
	loss float64
}

// link is a direction between two nodes; kind "" stands for all messages.
type link struct{ from, to, kind string }

// cut cuts, or with by −1 mends, the way from one node to another for messages of a kind.
func (w *World) cut(from, to, kind string, by int) {
	l := link{from, to, kind}
	if w.net.cuts[l] += by; w.net.cuts[l] <= 0 {
		delete(w.net.cuts, l)
	}
}

// arrives decides whether a message gets through.
func (w *World) arrives(from, to, kind string) bool {
	if w.net.cuts[link{from, to, ""}] > 0 || w.net.cuts[link{from, to, kind}] > 0 {
		return false
	}
	if w.closing {
		return true
	}
	return !w.chance(w.cfg.Loss + w.net.loss)
}

func (w *World) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// send brings a message to a member as it is now; it may not arrive.
func (w *World) send(from *node, to, kind string, f func(n *node)) {
	dst, incarnation := w.member(to)
	if dst == nil || !w.arrives(from.name, dst.name, kind) {
		return
	}
	w.on(dst, incarnation, w.delay(), func() { f(dst) })
}

// call sends a request from one node to another and brings back the answer. The request is
// lost or doubled now and then, and so is the answer lost; the caller then hears
// ErrUnavailable after a while, and does not know whether the request was carried out. serve
// may answer later, or never.
func (w *World) call(from *node, to, kind string, serve func(n *node, answer func(any, error)), done func(any, error)) {
	incarnation := from.incarnation
	answered := false
	finish := func(v any, err error) {
		w.on(from, incarnation, 0, func() {
			if !answered {
				answered = true
				done(v, err)
			}
		})
	}
	w.after(w.patience(kind), func() { finish(nil, fmt.Errorf("no answer: %w", tidemill.ErrUnavailable)) })
	dst, dstIncarnation := w.member(to)
	if dst == nil {
		return
	}
	copies := 1
	// A snapshot is asked for over a stream of its own, which brings the request once.
	if len(dst.role) == 1 && kind != "snapshot" && !w.closing && w.chance(w.cfg.Duplicate) {
		copies = 2
	}
	for range copies {
		if !w.arrives(from.name, dst.name, kind) {
			continue
		}
		w.on(dst, dstIncarnation, w.delay(), func() {
			serve(dst, func(v any, err error) {
				if !w.arrives(dst.name, from.name, kind) {
					return
				}
				w.after(w.delay(), func() { finish(v, err) })
			})
		})
	}
}

// patience is how long a caller waits for an answer. A snapshot, and the store, may take longer.
func (w *World) patience(kind string) int64 {
	if strings.HasPrefix(kind, "snapshot") || kind == "store" {
		return 10 * rpcLimit
	}
	return rpcLimit
}
