package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/trainer"
)

// vigil ends the leases of processes that have died, so that nobody waits for them to run out.
// It holds a connection to every member. When one breaks that had stood, and another cannot be
// made, the process is taken for dead: its session lease, and the leader's if it held that, are
// deleted by compare-and-set at the revision that was last seen.
//
// The member may be alive, and only its network may have failed: then its next renewal finds the
// lease gone, and it starts again under a new name, as after any lost lease; what it does until
// then is refused by epoch and generation. So a wrong guess costs time and nothing else. A
// member that was never reached is left to its lease: it may be reachable by others.
type vigil struct {
	sessions lease.Store
	own      string                                            // member id of this process
	dial     func(addr, role string) (*grpc.ClientConn, error) // a connection of its own, which vigil closes
	log      *slog.Logger
}

// run keeps vigil over all members until ctx ends.
func (v *vigil) run(ctx context.Context) error {
	entries, err := v.sessions.Watch(ctx, trainer.MemberPrefix)
	if err != nil {
		return err
	}
	watched := map[string]context.CancelFunc{}
	var members sync.WaitGroup
	defer members.Wait()
	for e := range entries {
		id := strings.TrimPrefix(e.Key, trainer.MemberPrefix)
		if e.Key == "" || id == v.own {
			continue
		}
		stop := watched[id]
		if e.Deleted {
			if stop != nil {
				stop()
				delete(watched, id)
			}
			continue
		}
		var s trainer.Session
		if stop != nil || json.Unmarshal(e.Value, &s) != nil || s.Addr == "" || len(s.Roles) == 0 {
			continue
		}
		mctx, cancel := context.WithCancel(ctx)
		watched[id] = cancel
		members.Go(func() { v.member(mctx, s) })
	}
	for _, stop := range watched {
		stop()
	}
	return nil
}

// member watches one member until it dies or ctx ends.
func (v *vigil) member(ctx context.Context, m trainer.Session) {
	for v.died(ctx, m) {
		if v.evict(ctx, m.Member) {
			return
		}
	}
}

// watches is what the log says once a member was reached.
const watches = "watches over a member"

// died waits until a connection to the member that had stood is broken and cannot be made again.
// It returns false when ctx ended before.
func (v *vigil) died(ctx context.Context, m trainer.Session) bool {
	conn, err := v.dial(m.Addr, m.Roles[0])
	if err != nil {
		v.log.Warn("a member is left to its lease", "member", m.ID, "err", err)
		return false
	}
	defer conn.Close()
	stood := false
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			if !stood {
				v.log.Debug(watches, "member", m.ID)
			}
			stood = true
		case connectivity.Idle:
			conn.Connect()
		case connectivity.TransientFailure:
			if stood {
				return true
			}
		case connectivity.Shutdown:
			return false
		}
		if !conn.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// evict deletes the leases of a member that died. It reports whether the member has no lease any
// more; one that renewed meanwhile lives.
func (v *vigil) evict(ctx context.Context, m tidemill.Member) bool {
	gone, err := dropLease(ctx, v.sessions, trainer.MemberPrefix+m.ID, func([]byte) bool { return true })
	switch {
	case err != nil:
		if ctx.Err() == nil {
			v.log.Info("the lease of a dead member could not be ended; it runs out by itself", "member", m.ID, "err", err)
			pause(ctx, time.Second)
		}
		return ctx.Err() != nil
	case !gone:
		return false
	}
	v.log.Info("a member is gone: its connection broke and cannot be made again", "member", m.ID)
	// Not with ctx: it ends as soon as the deletion is seen.
	v.dropLeader(context.WithoutCancel(ctx), m.ID)
	return true
}

// dropLeader ends the leader's lease if member id holds it.
func (v *vigil) dropLeader(ctx context.Context, id string) {
	if _, err := dropLease(ctx, v.sessions, trainer.LeaderKey, heldBy(id)); err != nil {
		v.log.Info("the lease of a dead leader could not be ended; it runs out by itself", "err", err)
	}
}

// heldBy reports whether the leader's lease names member id.
func heldBy(id string) func(value []byte) bool {
	return func(value []byte) bool {
		var m tidemill.Member
		return json.Unmarshal(value, &m) == nil && m.ID == id
	}
}

// dropLease deletes an entry whose value is as given, at the revision read. It reports whether
// the entry is gone; false means that it is another's, or was written meanwhile.
func dropLease(ctx context.Context, sessions lease.Store, key string, is func(value []byte) bool) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTTL)
	defer cancel()
	e, err := sessions.Get(ctx, key)
	if errors.Is(err, tidemill.ErrNotFound) {
		return true, nil
	}
	if err != nil || !is(e.Value) {
		return false, err
	}
	err = sessions.Delete(ctx, key, e.Revision)
	if errors.Is(err, tidemill.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// memberName is the file of a data directory that names the last member that used it.
const memberName = "member"

// succeed ends the leases of the process that used the data directory before. The directory
// belongs to one process at a time and is this one's now, so that process has ended. member is the name
// that this process takes.
func (n *Node) succeed(ctx context.Context, member string) error {
	name := filepath.Join(n.cfg.DataDir, memberName)
	was, err := os.ReadFile(name)
	if err == nil && len(was) > 0 && lease.Check(trainer.MemberPrefix+string(was), nil) == nil {
		v := &vigil{sessions: n.sessions, log: n.log}
		v.dropLeader(ctx, string(was))
		if _, err := dropLease(ctx, n.sessions, trainer.MemberPrefix+string(was), func([]byte) bool { return true }); err != nil {
			n.log.Info("the lease of this node's last process could not be ended; it runs out by itself", "err", err)
		}
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, []byte(member), 0o644); err != nil {
		return pathless(err)
	}
	return pathless(os.Rename(tmp, name))
}
