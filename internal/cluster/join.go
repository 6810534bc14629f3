package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
)

const (
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
	callAtOnce = 8 // calls in parallel; each takes at most the TCP timeout
)

// join calls the seeds until one answers. It returns nil as well when ctx ends, and an error
// when the only answers are refusals that will not change by themselves.
func (c *Cluster) join(ctx context.Context, list *memberlist.Memberlist) error {
	if len(c.cfg.Join) == 0 {
		close(c.joined)
		return nil
	}
	wait := retryFirst
	for try := 1; ctx.Err() == nil; try++ {
		targets, err := c.seeds(ctx)
		if err == nil && len(targets) == 0 {
			c.logger.Info("the only seed is this node itself; it is the first")
			close(c.joined)
			return nil
		}
		if err == nil || len(targets) > 0 {
			var reached int
			reached, err = c.call(ctx, list, targets)
			if reached > 0 {
				c.logger.Info("joined the cluster", "seeds", reached, "members", len(c.Members()))
				close(c.joined)
				return nil
			}
		}
		if errors.Is(err, tidemill.ErrDenied) || errors.Is(err, tidemill.ErrInvalid) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		// Each line means twice the waiting of the one before.
		if try&(try-1) == 0 {
			c.logger.Info("no seed answers yet; trying on", "seeds", strings.Join(c.cfg.Join, " "), "attempts", try, "error", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		wait = min(2*wait, retryMost)
	}
	return nil
}

// rejoin calls the seeds and lost members that are not members now.
func (c *Cluster) rejoin(ctx context.Context, list *memberlist.Memberlist) {
	seeds, err := c.seeds(ctx)
	if err != nil {
		c.logger.Debug("seeds could not be resolved", "error", err)
	}
	targets := c.missing(seeds, time.Now())
	if len(targets) == 0 {
		return
	}
	reached, err := c.call(ctx, list, targets)
	switch {
	case reached > 0:
		c.logger.Info("reached nodes that were away", "called", len(targets), "reached", reached)
	case errors.Is(err, tidemill.ErrDenied), errors.Is(err, tidemill.ErrInvalid):
		c.logger.Warn("a node cannot rejoin", "error", err)
	case err != nil:
		c.logger.Debug("nodes are still away", "called", len(targets), "error", err)
	}
}

// missing returns which of seeds and of the lost members to call, sorted, and forgets those
// lost for long.
func (c *Cluster) missing(seeds []string, now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	present := map[string]bool{c.addr: true}
	for _, m := range c.others {
		present[m.Gossip] = true
	}
	var out []string
	for _, addr := range seeds {
		if !present[addr] {
			out = append(out, addr)
		}
	}
	for id, l := range c.lost {
		if now.Sub(l.at) > lostFor {
			delete(c.lost, id)
		} else if !present[l.addr] {
			out = append(out, l.addr)
		}
	}
	sort.Strings(out)
	return slices.Compact(out)
}

// seeds resolves Join to "ip:port", without this node itself. With an error for some there may
// still be others.
func (c *Cluster) seeds(ctx context.Context) ([]string, error) {
	var out []string
	var errs error
	for _, seed := range c.cfg.Join {
		host, port, err := net.SplitHostPort(seed)
		if err != nil {
			return nil, err // New checked them
		}
		rctx, cancel := context.WithTimeout(ctx, retryMost)
		ips, err := net.DefaultResolver.LookupIPAddr(rctx, host)
		cancel()
		if err != nil {
			errs = fmt.Errorf("the seed %s has no address: %w", seed, tidemill.ErrUnavailable)
			continue
		}
		for _, ip := range ips {
			addr := net.JoinHostPort(ip.String(), port)
			if addr != c.addr && addr != c.transport.bound {
				out = append(out, addr)
			}
		}
	}
	return out, errs
}

// call exchanges state with each address and returns how many answered. The error is of one
// that did not: a refusal, if there was one.
func (c *Cluster) call(ctx context.Context, list *memberlist.Memberlist, addrs []string) (int, error) {
	errs := make([]error, len(addrs))
	var g errgroup.Group
	g.SetLimit(callAtOnce)
	for i, addr := range addrs {
		g.Go(func() error {
			if ctx.Err() == nil {
				_, errs[i] = list.Join([]string{addr})
			} else {
				errs[i] = ctx.Err()
			}
			return nil
		})
	}
	_ = g.Wait() // each error has its place
	reached := 0
	var worst error
	for _, err := range errs {
		if err == nil {
			reached++
			continue
		}
		// The library passes on the text of our own refusal alone.
		c.mu.Lock()
		apart := c.apart
		c.mu.Unlock()
		if apart != nil && strings.Contains(err.Error(), apart.Error()) {
			err = apart
		} else {
			err = explain(err)
		}
		if worst == nil || errors.Is(err, tidemill.ErrDenied) || errors.Is(err, tidemill.ErrInvalid) {
			worst = err
		}
	}
	return reached, worst
}

// explain turns what the library says of a failed call, which is text only, into an error with
// a kind and a remedy. Addresses stay out of it.
func explain(err error) error {
	text := err.Error()
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("no installed keys could decrypt"):
		return fmt.Errorf("a seed answered but its gossip key differs from this node's; give all nodes the same key: %w", tidemill.ErrDenied)
	case has("encryption is not configured"):
		return fmt.Errorf("a seed answered with encrypted gossip and this node has no gossip key; give it the cluster's key: %w", tidemill.ErrDenied)
	case has("remote state is not encrypted"):
		return fmt.Errorf("a seed answered without encryption and this node has a gossip key; give all nodes the same key: %w", tidemill.ErrDenied)
	case has("EOF"), has("connection reset"), has("broken pipe"):
		return fmt.Errorf("a seed hung up: its cluster name or gossip key differs, or it is not a gossip port: %w", tidemill.ErrUnavailable)
	case has("connection refused"):
		return fmt.Errorf("nothing listens at a seed's address: %w", tidemill.ErrUnavailable)
	case has("timeout"), has("deadline"):
		return fmt.Errorf("a seed does not answer in time: %w", tidemill.ErrUnavailable)
	}
	return fmt.Errorf("a seed cannot be reached: %w", tidemill.ErrUnavailable)
}
