package cluster

import (
	"bytes"
	"log/slog"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls. It holds its own locks meanwhile, and does not keep what
// it passes, so these methods copy and return.
type delegate Cluster

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta // replaced as a whole, never written to
}

// NotifyMsg implements memberlist.Delegate; nobody sends any.
func (d *delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: a node whose description cannot be read, or
// that speaks no version of the protocol that this one does, is no member.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.cfg.ID {
		return nil
	}
	m, err := decode(n.Name, n.Meta)
	if err == nil {
		err = d.meet(m)
	}
	if err == nil {
		return nil
	}
	d.mu.Lock()
	known, complained := d.refused[n.Name]
	if len(d.refused) >= lostMost {
		clear(d.refused) // better complain twice than grow
	}
	d.refused[n.Name] = string(n.Meta)
	d.mu.Unlock()
	if !complained || known != string(n.Meta) {
		d.logger.Warn("ignoring a node", "node", n.Name, "error", err)
	}
	return err
}

// NotifyMerge implements memberlist.MergeDelegate, called when this node joins others or others
// join it: one member that does not understand this node is enough to stay apart.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if n.State != memberlist.StateAlive || n.Name == d.cfg.ID {
			continue
		}
		m, err := decode(n.Name, n.Meta)
		if err != nil {
			continue // NotifyAlive says so
		}
		if err := d.meet(m); err != nil {
			d.mu.Lock()
			d.apart = err
			d.mu.Unlock()
			return err
		}
	}
	return nil
}

// meet refuses a member with which no version of the protocol is common.
func (d *delegate) meet(m Member) error {
	d.mu.Lock()
	own := d.self.Protocols
	d.mu.Unlock()
	if !own.Known() || !m.Protocols.Known() {
		return nil
	}
	return own.Meet("node "+m.ID, m.Protocols)
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	d.logger.Warn("two nodes use one ID; give each its own, unless one has just replaced the other",
		"node", existing.Name, "address", existing.Address(), "other", other.Address())
}

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) {
	if n.Name != d.cfg.ID {
		d.logger.Info("node joined", "node", n.Name, "address", n.Address())
	}
	d.see(n)
}

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.see(n) }

func (d *delegate) see(n *memberlist.Node) {
	if n.Name == d.cfg.ID {
		return
	}
	m, err := decode(n.Name, n.Meta)
	if err != nil {
		return // NotifyAlive refused it
	}
	m.Gossip = n.Address()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.others[n.Name] = m
	delete(d.lost, n.Name)
	(*Cluster)(d).signal()
}

// NotifyLeave implements memberlist.EventDelegate. It does not say whether the node said
// goodbye, so even one that did is called again for a while.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name == d.cfg.ID {
		return
	}
	d.logger.Info("node is gone", "node", n.Name)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.others, n.Name)
	if len(d.lost) >= lostMost {
		oldest := n.Name
		for id, l := range d.lost {
			if o, ok := d.lost[oldest]; !ok || l.at.Before(o.at) {
				oldest = id
			}
		}
		delete(d.lost, oldest)
	}
	d.lost[n.Name] = lostMember{addr: n.Address(), at: time.Now()}
	(*Cluster)(d).signal()
}

// debugWriter passes the library's log on, at debug level.
type debugWriter struct{ logger *slog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.logger.Debug(string(bytes.TrimSpace(p)), "library", "memberlist")
	return len(p), nil
}
