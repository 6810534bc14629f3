package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// busyMost is how many seats may be hit at a time.
const busyMost = 3

// strike carries out the schedule, and returns when the time is over and every fault undone.
func (c *chaos) strike(ctx context.Context, prog *progress) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Lasts)
	defer cancel()
	var faults sync.WaitGroup
	defer faults.Wait()
	plan := &planner{r: rand.New(rand.NewPCG(c.cfg.Seed, 3)), network: c.fleet.net != nil, disk: c.fleet.disk != nil, kinds: c.cfg.Kinds, every: c.cfg.Every}
	for {
		f := plan.next()
		if !pause(ctx, f.wait) {
			return
		}
		switch f.role {
		case roleProducer:
			if c.take(roleProducer, "") {
				faults.Go(func() { c.hitProducer(ctx, f) })
			}
		case "":
			// Everybody has to be there, to be killed.
			for !c.takeAll() {
				if !pause(ctx, 50*time.Millisecond) {
					return
				}
			}
			c.hitAll(ctx, f, prog)
		default:
			seats := c.fleet.of(f.role)
			s := seats[f.pick%len(seats)]
			if c.take(s.name, f.role) {
				faults.Go(func() { c.hit(ctx, f, s, prog) })
			}
		}
	}
}

// take marks a seat as being hit; false when it is already, or too many are, or the last replica
// that serves would be.
func (c *chaos) take(name, role string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[name] || len(c.busy) >= busyMost {
		return false
	}
	if role == node.RoleServing {
		for _, s := range c.fleet.of(role) {
			if c.busy[s.name] {
				return false
			}
		}
	}
	c.busy[name] = true
	c.faults++
	return true
}

// takeAll takes every seat but serving's, when nobody is being hit.
func (c *chaos) takeAll() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.busy) > 0 {
		return false
	}
	for _, s := range c.fleet.seats {
		if s.role != node.RoleServing {
			c.busy[s.name] = true
		}
	}
	c.faults++
	return true
}

func (c *chaos) give(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		delete(c.busy, n)
	}
}

// count counts a fault and returns how many have begun so far.
func (c *chaos) count(role, kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.res.Kills[role] == nil {
		c.res.Kills[role] = map[string]int{}
	}
	c.res.Kills[role][kind]++
	return c.faults
}

// hit carries out a fault at a seat.
func (c *chaos) hit(ctx context.Context, f fault, s *seat, prog *progress) {
	nth := c.count(f.role, f.kind)
	gone := prog.members(s.name)
	c.say("%-5s %s, %v", f.kind, s.name, f.lasts.Round(10*time.Millisecond))
	begun := time.Now()
	var measured <-chan time.Duration
	giveUp := func() {}
	if f.kind == faultKill && f.role != node.RoleServing && len(gone) > 0 {
		measured, giveUp = prog.after(begun, gone)
	}
	if err := c.carry(ctx, f, s); err != nil {
		giveUp()
		c.problem("%v", err)
		c.give(s.name)
		return
	}
	if f.kind == faultKill || f.kind == faultTerm {
		c.say("      %s is ready again after %v", s.name, time.Since(begun).Round(10*time.Millisecond))
	}
	if f.kind == faultKill && f.role == node.RoleStream {
		// What was read ahead is trained without the stream: only batches from now on count.
		measured, giveUp = prog.after(begun, nil)
	}
	if measured != nil {
		c.measure(ctx, f.role, nth, measured)
	}
	giveUp()
	if f.role == node.RoleServing {
		c.settle(ctx, s)
	}
	c.give(s.name)
}

// measure waits for training to go on; it counts when no other fault has begun meanwhile.
func (c *chaos) measure(ctx context.Context, role string, nth int, measured <-chan time.Duration) {
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case d := <-measured:
		c.mu.Lock()
		alone := c.faults == nth && len(c.busy) <= 1 || role == ""
		if alone {
			if role == "" {
				role = faultAll
			}
			c.recovered[role] = append(c.recovered[role], d)
		}
		c.mu.Unlock()
		c.say("      training goes on %v after the %s was killed", d.Round(10*time.Millisecond), role)
	case <-ctx.Done():
	case <-late.C:
	}
}

// settle gives a replica that was hit time to serve again before the other one is.
func (c *chaos) settle(ctx context.Context, s *seat) {
	l, err := newLoad([]string{s.grpc.Inside}, countsQuestions(1))
	if err != nil {
		return
	}
	defer l.close()
	ctx, cancel := context.WithTimeout(ctx, readyFor)
	defer cancel()
	if l.answers(ctx) == nil {
		c.say("      %s answers again", s.name)
	}
}

// hitAll kills everybody but serving, and starts them again.
func (c *chaos) hitAll(ctx context.Context, f fault, prog *progress) {
	nth := c.count(faultAll, faultKill)
	var hit []*seat
	var names []string
	for _, s := range c.fleet.seats {
		if s.role != node.RoleServing {
			hit, names = append(hit, s), append(names, s.name)
		}
	}
	defer c.give(names...)
	c.say("kill  everybody but serving, %v", f.lasts.Round(10*time.Millisecond))
	measured, giveUp := prog.after(time.Now(), prog.members(names...))
	defer giveUp()
	var killed sync.WaitGroup
	for _, s := range hit {
		killed.Go(s.kill)
	}
	killed.Wait()
	pause(ctx, f.lasts)
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyFor)
	err := c.fleet.startAll(rctx)
	cancel()
	if err != nil {
		c.problem("everybody was started again: %v", err)
		return
	}
	c.say("      all are ready again")
	c.measure(ctx, "", nth, measured)
}

// hitProducer kills the producer and starts it again, or pauses it.
func (c *chaos) hitProducer(ctx context.Context, f fault) {
	defer c.give(roleProducer)
	c.mu.Lock()
	p := c.producer
	c.mu.Unlock()
	select {
	case <-p.Done():
		return // it has come to its end
	default:
	}
	c.count(roleProducer, f.kind)
	c.say("%-5s producer, %v", f.kind, f.lasts.Round(10*time.Millisecond))
	if f.kind == faultStop {
		p.Signal(syscall.SIGSTOP)
		pause(ctx, min(f.lasts, 5*time.Second))
		p.Signal(syscall.SIGCONT)
		return
	}
	p.Kill()
	pause(ctx, f.lasts)
	if err := c.produce(); err != nil {
		c.problem("the producer was started again: %v", err)
	}
}

// champions reads the chain of the counting job's model.
func champions(ctx context.Context, b *blob.Bucket) ([]tidemill.Champion, error) {
	chain, err := snapshot.Champions(b, countsJob)
	if err != nil {
		return nil, err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	var out []tidemill.Champion
	for _, n := range numbers {
		rec, err := snapshot.ReadChampion(ctx, chain, n)
		if err != nil {
			return out, err
		}
		out = append(out, rec)
	}
	return out, nil
}
