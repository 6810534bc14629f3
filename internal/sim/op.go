package sim

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// Op is something that happens to the world: a fault, for as long as For, or what somebody
// outside does. Times are in virtual microseconds; 0 for For means until something else ends it.
//
//	crash NODE [for D]          it starts again after D
//	start NODE
//	pause NODE for D            it goes on later as if nothing had happened
//	slow NODE for D             whatever it does takes ten times longer
//	cut FROM TO [KIND] [for D]  messages of KIND (all) that way are lost
//	mend FROM TO [KIND]
//	storm [for D]               one message in five is lost
//	disk FAULT [for D]          full, failing, lying, partial, slow
//	jump NODE D                 its clock jumps by D, which may be negative
//	join NODE                   a new node, or one that had left
//	drain NODE [for D]          it says that it will go, leaves once it owns nothing, and comes back
//	leave NODE                  it gives its lease up and stops
//	evict NODE                  its leases are ended by others, though it lives
//	upgrade NODE [for D]        it leaves, and comes back after D
//	produce PARTITION ROWS      rows are appended
//	stray NODE PARTITION        a push that overlaps what the ps has applied last
//	heat SEED                   from now on some shards are asked for far more than others; 0 ends it
//	grow ROWS                   a log of so many rows joins the job as a partition of its own
//	promote                     a version is made to serve by hand
//	predict NODE                a serving replica is asked
//	savepoint, hold, resume     the job takes a cut, pauses, goes on
//	keep, unkeep                a savepoint is made of a snapshot, the oldest is deleted
type Op struct {
	At, For int64
	Verb    string
	Args    []string
}

func (o Op) String() string {
	s := fmt.Sprintf("%6d %s", o.At/ms, o.Verb)
	for _, a := range o.Args {
		s += " " + a
	}
	if o.For > 0 {
		s += fmt.Sprintf(" for %d", o.For/ms)
	}
	return s
}

// ParseOp reads what String writes, without the time: VERB ARGS… [for MILLISECONDS].
func ParseOp(line string) (Op, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return Op{}, tidemill.Invalid("an empty operation", "")
	}
	o := Op{Verb: words[0], Args: words[1:]}
	if n := len(o.Args); n >= 2 && o.Args[n-2] == "for" {
		d, err := strconv.ParseInt(o.Args[n-1], 10, 64)
		if err != nil {
			return Op{}, tidemill.Invalid("%q lasts no number of milliseconds", "", line)
		}
		o.For, o.Args = d*ms, o.Args[:n-2]
	}
	want, ok := map[string]int{
		"crash": 1, "start": 1, "pause": 1, "slow": 1, "cut": 2, "mend": 2, "storm": 0, "disk": 1, "jump": 2, "join": 1, "drain": 1, "leave": 1, "evict": 1,
		"upgrade": 1, "produce": 2, "grow": 1, "heat": 1, "stray": 2, "promote": 0, "predict": 1, "savepoint": 0, "keep": 0, "unkeep": 0, "hold": 0, "resume": 0,
	}[o.Verb]
	if !ok || len(o.Args) < want {
		return Op{}, tidemill.Invalid("%q is no operation", "see Op for those there are", line)
	}
	return o, nil
}

// arg returns an argument, or "".
func (o Op) arg(i int) string {
	if i < len(o.Args) {
		return o.Args[i]
	}
	return ""
}

func (o Op) num(i int) int64 {
	n, _ := strconv.ParseInt(o.arg(i), 10, 64)
	return n
}

// apply carries an operation out.
func (w *World) apply(o Op) {
	w.say("— %s", strings.TrimSpace(strings.TrimLeft(o.String(), " 0123456789")))
	n := w.nodes[o.arg(0)]
	// later ends what o began, unless everything has been made whole meanwhile.
	later := func(f func()) {
		if o.For > 0 {
			w.after(o.For, func() {
				if !w.closing {
					f()
				}
			})
		}
	}
	switch o.Verb {
	case "produce":
		w.clients.produce(w, int(o.num(0)), int(o.num(1)))
		return
	case "heat":
		w.heat = uint64(o.num(0))
		return
	case "grow":
		w.grow(int(o.num(0)))
		return
	case "promote":
		w.clients.promote(w)
		return
	case "savepoint":
		w.clients.control(w, trainer.Event{Kind: trainer.Due})
		return
	case "keep":
		w.clients.keep(w)
		return
	case "unkeep":
		w.clients.unkeep(w)
		return
	case "hold":
		w.clients.control(w, trainer.Event{Kind: trainer.Pause, Reason: "held"})
		later(func() { w.clients.control(w, trainer.Event{Kind: trainer.Resume}) })
		return
	case "resume":
		w.clients.control(w, trainer.Event{Kind: trainer.Resume})
		return
	case "storm":
		w.net.loss += 0.2
		later(func() { w.net.loss = max(0, w.net.loss-0.2) })
		return
	case "cut":
		w.cut(o.arg(0), o.arg(1), o.arg(2), 1)
		later(func() { w.cut(o.arg(0), o.arg(1), o.arg(2), -1) })
		return
	case "mend":
		w.cut(o.arg(0), o.arg(1), o.arg(2), -1)
		return
	case "disk":
		w.diskFault(o, later)
		return
	case "join":
		if n == nil {
			n = w.add(o.arg(0)[:1], o.arg(0))
		}
		w.start(n)
		return
	}
	if n == nil || n.gone && o.Verb != "start" {
		return // it has not come yet, or has left
	}
	switch o.Verb {
	case "crash":
		w.crash(n)
		later(func() { w.start(n) })
	case "start":
		w.start(n)
	case "stray":
		w.stray(n, int(o.num(1)), strayTries)
	case "pause":
		n.pausedUntil = max(n.pausedUntil, w.now+o.For)
		w.after(o.For, func() { w.wake(n) })
	case "slow":
		n.slow = 10
		later(func() { n.slow = 0 })
	case "jump":
		n.offset += o.num(1) * ms
	case "predict":
		w.clients.predict(w, n.name)
	case "evict":
		if n.session != nil {
			w.kv.evict(n.session)
		}
		if n.trainer != nil && n.trainer.election != nil {
			w.kv.evict(n.trainer.election)
		}
	case "drain":
		w.drain(n, drainLooks, func() { w.after(max(o.For, ms), func() { w.start(n) }) })
	case "leave", "upgrade":
		if !n.up {
			return
		}
		w.leave(n)
		n.gone = o.Verb == "leave"
		later(func() { w.start(n) })
	}
}

func (w *World) diskFault(o Op, later func(func())) {
	d := w.disk
	var count *int
	switch o.arg(0) {
	case "full":
		count = &d.full
	case "failing":
		count = &d.failing
	case "lying":
		count = &d.lying
	case "partial":
		count = &d.partial
	default:
		d.slow = 20
		later(func() { d.slow = 1 })
		return
	}
	*count++
	later(func() { *count = max(0, *count-1) })
}
