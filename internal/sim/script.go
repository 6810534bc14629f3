package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// Script plays a scenario: a world in which every message takes a millisecond, and lines that
// say what happens to it. A line is a comment (#), an operation (see Op), or
//
//	world staleness=0 partitions=2 rows=24 batch=4 every=16 workers=2 ps=2 trainers=2 servings=1
//	run MILLISECONDS
//	until CONDITION        round N, NODE round N, snapshot N, generation N, NODE leads,
//	                       NODE serves N, published N, torn, recorded (the
//	                       record says that the job has finished), finished
//	finish                 everything becomes whole, and the job is brought to its end
//
// What the world tells goes to out, a line each, without times.
type Script struct {
	world *World
	told  []string
}

// Close frees the world.
func (s *Script) Close() {
	if s.world != nil {
		s.world.Close()
	}
}

// Play plays one line, and returns what the world told meanwhile.
func (s *Script) Play(line string) (told []string, err error) {
	words := strings.Fields(line)
	if len(words) == 0 || words[0][0] == '#' {
		return nil, nil
	}
	s.told = nil
	if words[0] == "world" {
		return nil, s.begin(words[1:])
	}
	if s.world == nil {
		return nil, tidemill.Invalid("a scenario begins with a world", "")
	}
	w := s.world
	switch words[0] {
	case "run":
		d, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return nil, tidemill.Invalid("run %q", "give milliseconds", words[1])
		}
		until := w.now + d*ms
		w.after(d*ms, func() {})
		w.run(func() bool { return w.now >= until })
	case "until":
		cond, err := s.condition(words[1:])
		if err != nil {
			return nil, err
		}
		limit := w.now + 60_000*ms
		w.run(func() bool { return cond() || w.now > limit })
		if w.err == nil && !cond() {
			return s.told, fmt.Errorf("it did not come to pass: %s (%s)", line, w.stuck())
		}
	case "finish":
		w.close()
		w.run(w.over)
		if w.err == nil {
			w.checks.end(w)
		}
	default:
		o, err := ParseOp(line)
		if err != nil {
			return nil, err
		}
		w.apply(o)
	}
	return s.told, w.err
}

func (s *Script) begin(args []string) error {
	c := Config{
		Partitions: 2, Rows: 24, Exactly: true, Batch: 4, Every: 16, Shards: 4, Workers: 2, PS: 2, Trainers: 2, Servings: 1,
		Bounded: true, Steady: true, MaxSteps: 1_000_000, Seed: 1,
	}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return tidemill.Invalid("%q is no number", "", a)
		}
		switch key {
		case "staleness":
			c.Staleness = int(n)
		case "partitions":
			c.Partitions = int(n)
		case "rows":
			c.Rows = int(n)
		case "batch":
			c.Batch = n
		case "every":
			c.Every = n
		case "shards":
			c.Shards = int(n)
		case "workers":
			c.Workers = int(n)
		case "ps":
			c.PS = int(n)
		case "trainers":
			c.Trainers = int(n)
		case "servings":
			c.Servings = int(n)
		case "bounded":
			c.Bounded = n != 0
		default:
			return tidemill.Invalid("a world has no %q", "", key)
		}
	}
	s.world = New(c)
	s.world.Trace(func(format string, args ...any) { s.told = append(s.told, fmt.Sprintf(format, args...)) })
	s.world.begin()
	return nil
}

func (s *Script) condition(words []string) (func() bool, error) {
	w := s.world
	last := words[len(words)-1]
	n, _ := strconv.ParseInt(last, 10, 64)
	round := func(x *node) bool { return x.up && x.ps != nil && x.ps.core.Round() >= n }
	switch {
	case len(words) == 2 && words[0] == "round":
		return func() bool { return slices.ContainsFunc(w.roles("p"), round) }, nil
	case len(words) == 3 && words[1] == "round":
		return func() bool { return round(w.nodes[words[0]]) }, nil
	case words[0] == "snapshot":
		return func() bool { return w.checks.last != nil && w.checks.last.manifest.Number >= n }, nil
	case words[0] == "generation":
		return func() bool { return w.records.asg.Generation >= uint64(n) }, nil
	case words[0] == "published":
		return func() bool { return w.checks.published[n] }, nil
	case words[0] == "recorded":
		return func() bool { return w.records.asg.State == tidemill.JobFinished }, nil
	case words[0] == "finished":
		return w.over, nil
	case words[0] == "torn":
		return func() bool {
			return slices.ContainsFunc(s.told, func(t string) bool { return strings.HasSuffix(t, "torn") })
		}, nil
	case len(words) == 2 && last == "leads":
		return func() bool {
			x := w.nodes[words[0]]
			return x.trainer != nil && x.trainer.leads
		}, nil
	case len(words) == 3 && words[1] == "serves":
		return func() bool {
			x := w.nodes[words[0]]
			return x.serving != nil && x.serving.serves >= n
		}, nil
	}
	return nil, tidemill.Invalid("%q is no condition", "see Script for those there are", strings.Join(words, " "))
}
