package faultnet

// oneWay says whose packets are lost in one direction only.
type oneWay struct {
	mute map[string]struct{} // what they send arrives nowhere
	deaf map[string]struct{} // nothing arrives at them
}

// Mute cuts one direction: what hosts send arrives at nobody else, and what others send arrives at
// them. It takes the place of an earlier Mute; without hosts it ends it. Connections that are open
// stay so, and what was sent arrives once the direction is there again; none are made meanwhile.
//
// The protocol below a connection would, in time, hold the other direction up as well, since nobody
// acknowledges; here it goes on.
func (n *Network) Mute(hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ways.mute = set(hosts)
	n.signal()
}

// Deafen is Mute the other way round: nothing arrives at hosts, and what they send arrives.
func (n *Network) Deafen(hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ways.deaf = set(hosts)
	n.signal()
}

func set(hosts []string) map[string]struct{} {
	m := make(map[string]struct{}, len(hosts))
	for _, h := range hosts {
		m[h] = struct{}{}
	}
	return m
}

// whole reports whether no cut is anywhere. mu is held.
func (n *Network) whole() bool { return n.apart == nil && len(n.ways.mute)+len(n.ways.deaf) == 0 }

// passes reports whether what from sends arrives at to. A sender that is not known is nobody's
// host. mu is held.
func (n *Network) passes(from, to string) bool {
	switch {
	case n.whole():
		return true
	case n.apart != nil && !n.together(from, to):
		return false
	case from == to:
		return true
	}
	_, mute := n.ways.mute[from]
	_, deaf := n.ways.deaf[to]
	return !mute && !deaf
}
