package proctest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Network is what lies between processes that were told each other's Ports. It is safe for
// concurrent use.
//
// Who sends a packet is known by its address, and who opened a connection by asking the
// kernel; NewNetwork skips the test on systems where that is not possible.
type Network struct {
	done chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	pids    map[string]int      // by host
	inside  map[string]string   // hosts by address of their own sockets
	apart   map[string]struct{} // hosts cut off from all others; nil when whole
	changed chan struct{}       // closed at the next Heal
	conns   map[net.Conn]struct{}
	closed  bool
}

// NewNetwork returns a whole network that goes with t.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if !canFindOwners {
		t.Skip("this system does not say which process opened a connection")
	}
	n := &Network{
		done: make(chan struct{}), pids: map[string]int{}, inside: map[string]string{},
		changed: make(chan struct{}), conns: map[net.Conn]struct{}{},
	}
	t.Cleanup(func() {
		close(n.done)
		n.mu.Lock()
		n.closed = true
		for c := range n.conns {
			c.Close()
		}
		n.mu.Unlock()
		n.wg.Wait()
	})
	return n
}

// Port is where a process can be reached.
type Port struct {
	Inside  string // for the process to listen on
	Outside string // for others to dial
}

// insideIP is where processes listen. With the outside on another address of this machine
// both have the same port number, which is free since nobody else uses this address.
var insideIP = net.IPv4(127, 0, 77, 1)

// Listen makes a TCP port of a host, and with udp a UDP port of the same number.
func (n *Network) Listen(t testing.TB, host string, udp bool) Port {
	t.Helper()
	loopback := net.IPv4(127, 0, 0, 1)
	var tcp *net.TCPListener
	var packets *net.UDPConn
	var err error
	for range 20 {
		if tcp, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback}); err != nil {
			break
		}
		if !udp {
			break
		}
		port := tcp.Addr().(*net.TCPAddr).Port
		if packets, err = net.ListenUDP("udp4", &net.UDPAddr{IP: loopback, Port: port}); err == nil {
			break
		}
		tcp.Close() // the number is another's for UDP
	}
	if err != nil {
		t.Fatalf("network: %v", err)
	}
	port := tcp.Addr().(*net.TCPAddr).Port
	p := Port{Outside: tcp.Addr().String(), Inside: (&net.TCPAddr{IP: insideIP, Port: port}).String()}
	n.mu.Lock()
	n.inside[p.Inside] = host
	n.mu.Unlock()
	n.wg.Go(func() { n.accept(tcp, host, p.Inside) })
	n.wg.Go(func() { <-n.done; tcp.Close() })
	if packets != nil {
		n.wg.Go(func() { n.packets(packets, host, &net.UDPAddr{IP: insideIP, Port: port}) })
		n.wg.Go(func() { <-n.done; packets.Close() })
	}
	return p
}

// Host says which process is a host's, from now on.
func (n *Network) Host(host string, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids[host] = pid
}

// Cut separates hosts from all others, and the others from them; it ends an earlier cut.
func (n *Network) Cut(hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart = map[string]struct{}{}
	for _, h := range hosts {
		n.apart[h] = struct{}{}
	}
	n.signal()
}

// Heal lets everything through again, also what was held back.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart = nil
	n.signal()
}

func (n *Network) signal() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// packets passes on what others send to a host; what a cut forbids is lost.
func (n *Network) packets(conn *net.UDPConn, host string, to *net.UDPAddr) {
	buf := make([]byte, 1<<16)
	for {
		size, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		n.mu.Lock()
		pass := n.apart == nil || n.together(n.inside[from.String()], host)
		n.mu.Unlock()
		if pass {
			_, _ = conn.WriteToUDP(buf[:size], to)
		}
	}
}

// together reports whether no cut lies between two hosts. A sender that is not known is none
// of them. mu is held.
func (n *Network) together(a, b string) bool {
	_, x := n.apart[a]
	_, y := n.apart[b]
	return a != "" && x == y
}

func (n *Network) accept(l *net.TCPListener, host, to string) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return
		}
		n.wg.Go(func() { n.pipe(conn, host, to) })
	}
}

// pipe passes on a connection's bytes, both ways, and holds them while a cut lies between its
// ends.
func (n *Network) pipe(in *net.TCPConn, host, to string) {
	if !n.keep(in) {
		return
	}
	defer n.drop(in)
	w := &wire{n: n, conn: in, host: host}
	if !w.open() {
		return
	}
	d, err := net.Dial("tcp4", to)
	if err != nil {
		return
	}
	out := d.(*net.TCPConn)
	if !n.keep(out) {
		return
	}
	defer n.drop(out)
	var both sync.WaitGroup
	both.Go(func() { w.copy(out, in) })
	both.Go(func() { w.copy(in, out) })
	both.Wait()
}

// keep notes a connection, to be closed at the end.
func (n *Network) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return false
	}
	n.conns[c] = struct{}{}
	return true
}

func (n *Network) drop(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
	c.Close()
}

// wire is one connection to a host.
type wire struct {
	n    *Network
	conn *net.TCPConn // from whoever opened it
	host string

	asked  bool
	opener string // host that opened it; "" when it is not known; guarded by n.mu
}

// open waits until bytes may pass. It returns false when the network has ended.
func (w *wire) open() bool {
	n := w.n
	for {
		n.mu.Lock()
		if n.apart != nil && !w.asked {
			w.asked = true
			w.opener = ownerOf(w.conn, n.pids)
		}
		pass := n.apart == nil || n.together(w.opener, w.host)
		changed := n.changed
		n.mu.Unlock()
		if pass {
			return true
		}
		select {
		case <-changed:
		case <-n.done:
			return false
		}
	}
}

func (w *wire) copy(to, from *net.TCPConn) {
	buf := make([]byte, 1<<16)
	for {
		size, err := from.Read(buf)
		if !w.open() {
			return
		}
		if size > 0 {
			if _, werr := to.Write(buf[:size]); werr != nil {
				err = werr
			}
		}
		switch {
		case err == io.EOF:
			// The other direction may go on.
			_ = to.CloseWrite()
			return
		case err != nil:
			to.Close()
			from.Close()
			return
		}
	}
}
