package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/tidemill/tidemill/internal/faultnet"
	"github.com/tidemill/tidemill/internal/node"
)

// Kinds of fault.
const (
	faultKill  = "kill"  // SIGKILL, started again after a while
	faultStop  = "stop"  // SIGSTOP, SIGCONT after a while: the process wakes as a zombie
	faultTerm  = "term"  // SIGTERM, started again
	faultCut   = "cut"   // no packet passes, either way
	faultMute  = "mute"  // nobody hears what it sends
	faultDeaf  = "deaf"  // it hears nothing of what others send
	faultSlow  = "slow"  // packets are late, and some are lost
	faultReset = "reset" // all connections break at once
	faultFull  = "full"  // the disk of the stream and the store is full for a while
	faultAll   = "all"   // SIGKILL of everybody but serving, started again
)

// roleProducer is whoever appends rows; not a role of a node.
const roleProducer = "producer"

// fault is one planned fault.
type fault struct {
	wait  time.Duration // after the fault before it
	role  string
	pick  int // which seat of the role, modulo their number
	kind  string
	lasts time.Duration // of stop, slow and what is cut; how long after kill and term until the start
}

func (f fault) String() string {
	return fmt.Sprintf("%s %s for %v", f.kind, f.role, f.lasts.Round(10*time.Millisecond))
}

// planner draws faults from a seed. The plan is a function of the seed; how the cluster takes it
// depends on the machine.
type planner struct {
	r       *rand.Rand
	network bool
	disk    bool
	every   time.Duration // mean time between faults
	kinds   []string      // that may be; nil: all
}

// weighted are the roles with how often each is hit, of 100.
var weighted = []struct {
	role   string
	weight int
	kinds  []string
}{
	{node.RoleWorker, 24, []string{faultKill, faultKill, faultStop, faultTerm, faultCut, faultMute, faultDeaf, faultSlow, faultReset}},
	{node.RolePS, 24, []string{faultKill, faultKill, faultStop, faultTerm, faultCut, faultMute, faultDeaf, faultSlow, faultReset}},
	{node.RoleTrainer, 20, []string{faultKill, faultKill, faultStop, faultTerm, faultCut, faultMute, faultDeaf, faultSlow, faultReset}},
	{node.RoleServing, 12, []string{faultKill, faultStop, faultTerm, faultCut}},
	{node.RoleStream, 8, []string{faultKill, faultStop, faultTerm, faultFull, faultSlow, faultReset}},
	{roleProducer, 8, []string{faultKill, faultStop}},
	{"", 4, []string{faultAll}},
}

// FaultKinds lists what Chaos does to a cluster.
func FaultKinds() []string {
	return []string{faultKill, faultStop, faultTerm, faultCut, faultMute, faultDeaf, faultSlow, faultReset, faultFull, faultAll}
}

// next draws the next fault.
func (p *planner) next() fault {
	f := p.draw()
	for wait := f.wait; p.kinds != nil && !slices.Contains(p.kinds, f.kind); f.wait = wait {
		f = p.draw()
	}
	return f
}

func (p *planner) draw() fault {
	f := fault{wait: p.every/4 + time.Duration(p.r.Float64()*1.5*float64(p.every)), pick: p.r.IntN(1 << 16)}
	x := p.r.IntN(100)
	for _, w := range weighted {
		if x -= w.weight; x < 0 {
			f.role, f.kind = w.role, w.kinds[p.r.IntN(len(w.kinds))]
			break
		}
	}
	long, share := p.r.IntN(6) == 0, p.r.Float64()
	if !p.network && slices.Contains([]string{faultCut, faultMute, faultDeaf, faultSlow, faultReset}, f.kind) {
		f.kind = faultKill
	}
	if !p.disk && f.kind == faultFull {
		f.kind = faultKill
	}
	switch {
	case f.kind == faultReset:
	case f.kind == faultKill || f.kind == faultTerm || f.kind == faultAll:
		f.lasts = time.Duration(share * float64(2*time.Second))
	case long && f.role != node.RoleStream:
		f.lasts = 20 * time.Second
	default:
		f.lasts = 500*time.Millisecond + time.Duration(share*float64(6*time.Second))
	}
	return f
}

// stopFor bounds an orderly end. One that takes longer is a finding.
const stopFor = time.Minute

// readyFor bounds a start, on a busy machine and while others are being hit.
const readyFor = 2 * time.Minute

// carry carries out a fault at a seat and undoes it; nil when the seat is as it was before.
// Faults of the network add up: heal says which seats are cut at present.
func (c *chaos) carry(ctx context.Context, f fault, s *seat) error {
	lasts := func() { pause(ctx, f.lasts) } // a run that ends undoes what it did
	switch f.kind {
	case faultKill:
		s.kill()
		lasts()
		return c.restart(ctx, s)
	case faultTerm:
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopFor)
		err := s.stop(sctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s was asked to end: %w", s.name, err)
		}
		lasts()
		return c.restart(ctx, s)
	case faultStop:
		s.signal(syscall.SIGSTOP)
		lasts()
		s.signal(syscall.SIGCONT)
	case faultCut, faultMute, faultDeaf:
		c.cut(s, f.kind)
		lasts()
		c.cut(s, "")
	case faultSlow:
		c.fleet.net.Worsen(s.name, faultnet.Link{Delay: 20 * time.Millisecond, Loss: 0.05})
		lasts()
		c.fleet.net.Worsen(s.name, faultnet.Link{})
	case faultReset:
		c.fleet.net.Reset(s.name)
	case faultFull:
		return c.fillDisk(ctx, f, s)
	}
	return nil
}

// fillDisk fills the stream's disk for a while. A process that finds it full may end; whatever
// supervises it starts it again, in vain while there is no room.
func (c *chaos) fillDisk(ctx context.Context, f fault, s *seat) error {
	c.setFull(true)
	defer c.setFull(false)
	if err := c.fleet.disk.fill(ctx); err != nil {
		return fmt.Errorf("the disk could not be filled: %w", err)
	}
	over := time.Now().Add(f.lasts)
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyFor)
	defer cancel()
	full := true
	for {
		if full && (time.Now().After(over) || ctx.Err() != nil) {
			full = false
			if err := c.fleet.disk.free(undo); err != nil {
				return fmt.Errorf("the disk could not be freed: %w", err)
			}
			c.say("      the disk has room again")
		}
		p, _, up := s.process()
		select {
		case <-p.Done():
			if up {
				c.say("      %s ended: %s", s.name, p.Tail(1))
			}
			if err := c.fleet.launch(s); err != nil {
				return err
			}
		default:
			if !full && up {
				c.mu.Lock()
				c.sawFull = p
				c.mu.Unlock()
				return nil
			}
		}
		wait, stop := context.WithTimeout(undo, 500*time.Millisecond)
		if err := c.fleet.ready(wait, s); err == nil {
			pause(wait, 500*time.Millisecond)
		} else if undo.Err() != nil {
			stop()
			return fmt.Errorf("%s after its disk was full: %w", s.name, err)
		}
		<-wait.Done()
		stop()
	}
}

func (c *chaos) setFull(full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = full
}

// cut adds a seat to those that are cut off in a way, or takes it away ("").
func (c *chaos) cut(s *seat, kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind != "" {
		c.cutOff[s.name] = kind
	} else {
		delete(c.cutOff, s.name)
	}
	by := map[string][]string{}
	for name, kind := range c.cutOff {
		by[kind] = append(by[kind], name)
	}
	net := c.fleet.net
	if len(c.cutOff) == 0 {
		net.Join()
		return
	}
	net.Mute(by[faultMute]...)
	net.Deafen(by[faultDeaf]...)
	net.Cut(by[faultCut]...)
}

// restart starts a seat's process, also when the run's schedule is over meanwhile.
func (c *chaos) restart(ctx context.Context, s *seat) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyFor)
	defer cancel()
	if err := c.fleet.start(ctx, s); err != nil {
		return fmt.Errorf("%s was started again: %w", s.name, err)
	}
	return nil
}
