package sim

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
)

// Random returns the world of a seed: a small cluster, and a schedule of events operations on
// it, faults and clients' requests alike. Two seeds in three feed the stream while the job runs; the
// others' stream is full when the job is submitted, and the job ends with it. In one in four some
// shards are hot, so that they move. One seed in eight
// has disks whose fsync lies, where an honest one keeps every acknowledgement.
func Random(seed uint64, staleness, events int) Config {
	r := rand.New(rand.NewPCG(seed, 0x736368656475))
	c := Config{
		Seed: seed, Staleness: staleness, Partitions: 1 + int(seed%4), Batch: [...]int64{1, 8, 3, 12, 5}[seed%5], Every: 20 + r.Int64N(60),
		Shards: 8, Workers: 3, PS: 3, Trainers: 2, Servings: 2, Loss: 0.01, Duplicate: 0.02, MaxSteps: 2_000_000,
		Bounded: seed%3 == 0,
	}
	c.Rows = 20
	if c.Bounded {
		c.Rows = 20 + 8*events/c.Partitions
	}
	if seed%4 == 2 {
		c.Heat = seed
	}
	c.Ops = schedule(r, &c, events, seed%8 == 5)
	return c
}

// schedule draws operations. A fault that lasts ends by itself, so that any part of a schedule
// is a schedule too.
func schedule(r *rand.Rand, c *Config, events int, lies bool) []Op {
	name := func(role string, n int) string { return fmt.Sprintf("%s%d", role, 1+r.IntN(n)) }
	// Three schedules in four look closer at one role.
	focus := []string{"w", "p", "t", ""}[r.IntN(4)]
	// Those that look at workers leave more room between, for what begins with one to come to its
	// end: a rewind for another reason would hide it.
	stories, gap := 6, int64(120*ms)
	if focus == "w" {
		stories, gap = 15, 400*ms
	}
	count := map[string]int{"w": c.Workers, "p": c.PS, "t": c.Trainers}
	process := func() string {
		if focus != "" && r.IntN(8) > 0 {
			return name(focus, count[focus])
		}
		switch x := r.IntN(c.Workers + c.PS + c.Trainers + c.Servings); {
		case x < c.Workers:
			return name("w", c.Workers)
		case x < c.Workers+c.PS:
			return name("p", c.PS)
		case x < c.Workers+c.PS+c.Trainers:
			return name("t", c.Trainers)
		}
		return name("s", c.Servings)
	}
	service := func() string { return services[r.IntN(len(services))] }
	anyone := func() string {
		if r.IntN(10) == 0 {
			return service()
		}
		return process()
	}
	ten := func(d int64) int64 { return d * ms }
	var ops []Op
	at := int64(300 * ms)
	for len(ops) < events {
		at += r.Int64N(gap)
		o := Op{At: at}
		if r.IntN(100) < stories && len(ops)+5 <= events {
			ops = append(ops, story(r, c, at, name)...)
			at += r.Int64N(300 * ms)
			continue
		}
		switch x := r.IntN(100); {
		case x < 34:
			o.Verb, o.Args = "produce", []string{fmt.Sprint(r.IntN(c.Partitions)), fmt.Sprint(1 + r.IntN(40))}
			if c.Bounded {
				o.Verb, o.Args = "predict", []string{name("s", c.Servings)}
			}
		case x < 45:
			o.Verb, o.Args, o.For = "crash", []string{process()}, ten(r.Int64N(2*leaseTTL/ms))
		case x < 46:
			o.Verb, o.Args, o.For = "crash", []string{service()}, ten(1+r.Int64N(500))
		case x < 55:
			o.Verb, o.Args, o.For = "pause", []string{process()}, ten(20+r.Int64N(1500))
		case x < 57:
			o.Verb, o.Args, o.For = "pause", []string{service()}, ten(20+r.Int64N(400))
		case x < 66:
			o.Verb, o.Args, o.For = "cut", []string{anyone(), anyone()}, ten(20+r.Int64N(1200))
		case x < 69:
			o.Verb, o.Args, o.For = "slow", []string{anyone()}, ten(50+r.Int64N(600))
		case x < 72:
			o.Verb, o.For = "storm", ten(20+r.Int64N(300))
		case x < 78:
			o.Verb, o.For = "disk", ten(20+r.Int64N(700))
			o.Args = []string{[]string{"full", "failing", "partial", "slow"}[r.IntN(4)]}
			if lies && r.IntN(2) == 0 {
				o.Args[0] = "lying"
			}
		case x == 78:
			o.Verb, o.Args = "jump", []string{service(), fmt.Sprint(r.Int64N(4000) - 2000)}
		case x < 83:
			o.Verb, o.Args = "jump", []string{process(), fmt.Sprint(r.Int64N(4000) - 2000)}
		case x < 84:
			o.Verb, o.Args, o.For = "drain", []string{process()}, ten(r.Int64N(900))
		case x < 85:
			o.Verb, o.Args, o.For = "leave", []string{process()}, ten(100+r.Int64N(1500))
		case x < 87:
			o.Verb, o.Args, o.For = "upgrade", []string{process()}, ten(10+r.Int64N(200))
		case x < 88:
			o.Verb, o.Args = "join", []string{[]string{"w4", "p4", "t3", "s3"}[r.IntN(4)]}
		case x < 89:
			o.Verb, o.Args = "grow", []string{fmt.Sprint(1 + r.IntN(40))}
		case x < 92:
			o.Verb = "promote"
		case x < 94:
			o.Verb, o.Args = "stray", []string{name("p", c.PS), fmt.Sprint(r.IntN(c.Partitions))}
		case x < 95:
			o.Verb, o.Args = "predict", []string{name("s", c.Servings)}
		case x < 96:
			o.Verb = "savepoint"
		case x < 98:
			o.Verb = []string{"keep", "keep", "unkeep"}[r.IntN(3)]
		case x < 99:
			o.Verb, o.Args = "evict", []string{process()}
		default:
			o.Verb, o.For = "hold", ten(20+r.Int64N(200))
		}
		ops = append(ops, o)
	}
	sort.SliceStable(ops, func(i, k int) bool { return ops[i].At < ops[k].At })
	return ops
}

// story draws operations that mean harm together, which chance alone would seldom bring about.
func story(r *rand.Rand, c *Config, at int64, name func(string, int) string) []Op {
	w, p, t := name("w", c.Workers), name("p", c.PS), name("t", c.Trainers)
	soon := at + ms + r.Int64N(60*ms)
	long := (1000 + r.Int64N(800)) * ms
	zombie := func(n string, at int64) []Op {
		// Its work goes to another meanwhile, and by its clock it still holds its lease.
		return []Op{{At: at, For: long, Verb: "pause", Args: []string{n}}, {At: soon, Verb: "jump", Args: []string{n, "-4000"}}}
	}
	switch r.IntN(9) {
	case 0, 1, 6, 7: // one server has the last pushes of a worker that is lost, another has not
		return []Op{{At: at, For: long, Verb: "cut", Args: []string{w, p, "push"}}, {At: soon, For: long, Verb: "crash", Args: []string{w}}}
	case 2: // the worker cannot renew its lease, hears of nothing, and goes on
		return []Op{
			{At: at, For: long, Verb: "cut", Args: []string{w, "kv"}}, {At: at, For: long, Verb: "cut", Args: []string{"kv", w}},
			{At: soon, Verb: "jump", Args: []string{w, "-4000"}},
		}
	case 8: // savepoints are made while a collector is at work, and both take their time
		ops := []Op{{At: at, Verb: "savepoint"}, {At: soon, For: long, Verb: "disk", Args: []string{"slow"}}}
		for range 3 {
			ops = append(ops, Op{At: at + r.Int64N(long), Verb: "keep"})
		}
		return ops
	case 3:
		return zombie(w, at)
	case 4:
		return zombie(p, at)
	}
	// The leader stops while a cut is being taken, and another one leads when it goes on.
	return append([]Op{{At: at, Verb: "savepoint"}}, zombie(t, at+(soon-at)/4)...)
}

// Schedule returns the i-th of the schedules that the proof of the broken variants goes
// through: seed i, at one staleness after the other.
func Schedule(i uint64, events int) Config {
	return Random(i, [...]int{0, 2, -1}[i/3%3], events)
}

// Calm is the same job on the same stream without any fault, by one of everything.
func (c Config) Calm() Config {
	c.Loss, c.Duplicate, c.Ops = 0, 0, nil
	c.Workers, c.PS, c.Trainers = 1, 1, 1
	return c
}

// Check runs the schedule of a configuration and, where the result may not depend on faults,
// compares it with the calm run's. It returns the world as it ended.
func Check(c Config, trace func(format string, args ...any)) (*World, error) {
	w := New(c)
	defer w.Close()
	if trace != nil {
		w.Trace(trace)
	}
	if err := w.Run(); err != nil {
		return w, err
	}
	if c.Staleness != 0 || !c.Bounded || w.final == nil || len(w.records.asg.Origins) > 0 {
		return w, nil
	}
	ref := New(c.Calm())
	defer ref.Close()
	ref.log = w.log
	if err := ref.Run(); err != nil {
		return w, fmt.Errorf("without faults: %w", err)
	}
	a, ok := w.Final()
	b, ok2 := ref.Final()
	if ok != ok2 || a != b {
		return w, fmt.Errorf("seed %d: faults have changed the result from %x to %x", c.Seed, b, a)
	}
	return w, nil
}

// kind is what an error says, without its numbers and states.
func kind(err error) string {
	s, _, _ := strings.Cut(err.Error(), " (")
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// Shrink looks for a shorter schedule that fails in the same way, in at most tries runs: it leaves out
// halves, quarters, and so on down to single operations.
func Shrink(c Config, why error, tries int) Config {
	fails := func(ops []Op) bool {
		x := c
		x.Ops = ops
		_, err := Check(x, nil)
		return err != nil && kind(err) == kind(why)
	}
	for size := (len(c.Ops) + 1) / 2; size > 0 && tries > 0; {
		shorter := false
		for from := 0; from < len(c.Ops) && tries > 0; {
			to := min(from+size, len(c.Ops))
			ops := append(append([]Op(nil), c.Ops[:from]...), c.Ops[to:]...)
			tries--
			if fails(ops) {
				c.Ops, shorter = ops, true
			} else {
				from = to
			}
		}
		if !shorter || size > len(c.Ops) {
			size /= 2
		}
	}
	return c
}
