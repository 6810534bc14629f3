package node

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// Protocol is the version of what nodes say to each other.
const Protocol = 1

// DefaultProtocols are the versions that this program speaks: its own and the one before, so
// that a cluster can be upgraded node by node.
func DefaultProtocols() tidemill.Protocols {
	return tidemill.Protocols{Min: max(1, Protocol-1), Max: Protocol}
}

// checkPeers refuses to work beside a process that speaks no version of the protocol that this
// one does. It is asked once this process holds its own lease: of two that begin at the same
// time each sees the other, and those that were there before are not disturbed. Gossip says the
// same earlier, where there is gossip.
func (n *Node) checkPeers(ctx context.Context, own string) error {
	entries, err := n.sessions.List(ctx, trainer.MemberPrefix)
	if err != nil {
		return fmt.Errorf("the other processes are not known: %w", err)
	}
	for _, e := range entries {
		var s trainer.Session
		if json.Unmarshal(e.Value, &s) != nil || s.ID == own || !s.Protocols.Known() {
			continue
		}
		if err := n.cfg.Protocols.Meet("node "+s.ID, s.Protocols); err != nil {
			return err
		}
	}
	return nil
}
