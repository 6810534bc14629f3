package faultnet

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
)

// Network is what lies between processes that were told each other's Ports. It is safe for
// concurrent use.
//
// Who sends a packet is known by its address, and who opened a connection by asking the
// kernel; New refuses on systems where that is not possible.
type Network struct {
	done chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	rng     *rand.Rand
	pids    map[string]int      // by host
	inside  map[string]string   // hosts by address of their own sockets
	apart   map[string]struct{} // hosts cut off from all others; nil when whole
	ways    oneWay
	links   map[string]Link // worse than perfect, by host
	changed chan struct{}   // closed at the next change
	conns   map[net.Conn]*wire
	closed  bool
}

// Link says how bad a host's link is. The zero Link is perfect.
type Link struct {
	// Delay of everything that passes, each way.
	Delay time.Duration
	// Loss is the share of packets that are lost, in [0, 1]. A lost packet of a connection is
	// sent again by the real protocol: it arrives after Again, and holds up what is behind it.
	Loss float64
	// Again is what a lost packet costs a connection; 0 means 200 ms.
	Again time.Duration
}

// Available reports whether New can succeed on this system.
func Available() bool { return canFindOwners }

// New returns a whole network whose losses follow from seed. The caller closes it.
func New(seed uint64) (*Network, error) {
	if !canFindOwners {
		return nil, tidemill.Invalid("this system does not say which process opened a connection", "network faults need Linux")
	}
	return &Network{
		done: make(chan struct{}), pids: map[string]int{}, inside: map[string]string{}, links: map[string]Link{},
		changed: make(chan struct{}), conns: map[net.Conn]*wire{}, rng: rand.New(rand.NewPCG(seed, 0)),
	}, nil
}

// Close breaks all connections and returns when nothing of the network runs any more.
func (n *Network) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	close(n.done)
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
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
func (n *Network) Listen(host string, udp bool) (Port, error) {
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
		return Port{}, fmt.Errorf("no port for host %s: %w: %w", host, tidemill.ErrUnavailable, err)
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
	return p, nil
}

// Host says which process is a host's, from now on.
func (n *Network) Host(host string, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids[host] = pid
}

// Cut separates hosts from all others, and the others from them; it takes the place of an earlier
// Cut, and without hosts ends it.
func (n *Network) Cut(hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart = nil
	if len(hosts) > 0 {
		n.apart = set(hosts)
	}
	n.signal()
}

// Join ends every cut, and leaves links as they are.
func (n *Network) Join() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart, n.ways = nil, oneWay{}
	n.signal()
}

// Worsen gives a host a bad link to all others; the zero Link makes it good again.
func (n *Network) Worsen(host string, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.Again <= 0 {
		l.Again = 200 * time.Millisecond
	}
	n.links[host] = l
	if l.Delay == 0 && l.Loss == 0 {
		delete(n.links, host)
	}
	n.signal()
}

// Reset breaks every connection to and from a host.
func (n *Network) Reset(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c, w := range n.conns {
		if w.host == host || n.opener(w) == host {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // what was under way is lost
			}
			c.Close()
		}
	}
}

// Heal ends every cut and makes every link good, and lets through what was held back.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apart, n.ways = nil, oneWay{}
	clear(n.links)
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
		sender := n.inside[from.String()]
		pass := n.passes(sender, host)
		delay := time.Duration(0)
		if pass && len(n.links) > 0 {
			for _, h := range []string{sender, host} {
				if l, ok := n.links[h]; ok {
					delay += l.Delay
					pass = pass && n.rng.Float64() >= l.Loss
				}
			}
		}
		n.mu.Unlock()
		switch {
		case !pass:
		case delay == 0:
			_, _ = conn.WriteToUDP(buf[:size], to)
		default:
			late := append([]byte(nil), buf[:size]...)
			n.wg.Go(func() {
				if n.wait(delay) {
					_, _ = conn.WriteToUDP(late, to)
				}
			})
		}
	}
}

// wait waits d; it returns false when the network ends before.
func (n *Network) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-n.done:
		return false
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
	w := &wire{n: n, conn: in, host: host}
	if !n.keep(in, w) {
		return
	}
	defer n.drop(in)
	// A connection comes about by packets both ways.
	if !w.open(true, true) {
		return
	}
	d, err := net.Dial("tcp4", to)
	if err != nil {
		return
	}
	out := d.(*net.TCPConn)
	if !n.keep(out, w) {
		return
	}
	defer n.drop(out)
	var both sync.WaitGroup
	both.Go(func() { w.copy(out, in, true) })
	both.Go(func() { w.copy(in, out, false) })
	both.Wait()
}

// keep notes a connection, to be closed at the end.
func (n *Network) keep(c net.Conn, w *wire) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		c.Close()
		return false
	}
	n.conns[c] = w
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

// opener returns who opened a connection, asking once. mu is held.
func (n *Network) opener(w *wire) string {
	if !w.asked {
		w.asked = true
		w.opener = ownerOf(w.conn, n.pids)
	}
	return w.opener
}

// cost returns how long the bytes at hand are under way.
func (w *wire) cost() time.Duration {
	n := w.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.links) == 0 {
		return 0
	}
	sum := time.Duration(0)
	for _, h := range []string{n.opener(w), w.host} {
		if l, ok := n.links[h]; ok {
			sum += l.Delay
			if n.rng.Float64() < l.Loss {
				sum += l.Again
			}
		}
	}
	return sum
}

// open waits until bytes may pass: there, from whoever opened the connection to the host, and
// back, whichever is asked for. It returns false when the network has ended.
func (w *wire) open(there, back bool) bool {
	n := w.n
	for {
		n.mu.Lock()
		pass := n.whole() || (!there || n.passes(n.opener(w), w.host)) && (!back || n.passes(w.host, n.opener(w)))
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

// copy passes bytes on: there, or back.
func (w *wire) copy(to, from *net.TCPConn, there bool) {
	buf := make([]byte, 1<<16)
	for {
		size, err := from.Read(buf)
		if d := w.cost(); d > 0 && !w.n.wait(d) || !w.open(there, !there) {
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
