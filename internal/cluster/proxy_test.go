package cluster

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands before one node's sockets, UDP and TCP on one port, and can be cut. What the
// node sends goes out directly: it arrives at another node's proxy.
type proxy struct {
	udp *net.UDPConn
	tcp *net.TCPListener
	wg  sync.WaitGroup

	mu      sync.Mutex
	severed bool
	backend string
	conns   map[net.Conn]struct{}
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{conns: map[net.Conn]struct{}{}}
	var err error
	for range 20 {
		p.tcp, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		p.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p.tcp.Addr().(*net.TCPAddr).Port})
		if err == nil {
			break
		}
		p.tcp.Close() // the port is another's for UDP
	}
	if err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.packets)
	p.wg.Go(p.streams)
	t.Cleanup(func() {
		p.tcp.Close()
		p.udp.Close()
		p.cut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.tcp.Addr().String() }

func (p *proxy) forward(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backend = to
}

// cut stops, or lets through, everything; connections that exist are ended.
func (p *proxy) cut(severed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.severed = severed
	for c := range p.conns {
		c.Close()
	}
}

// to returns where to send, "" for nowhere.
func (p *proxy) to() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.severed {
		return ""
	}
	return p.backend
}

func (p *proxy) packets() {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := p.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		to, err := net.ResolveUDPAddr("udp", p.to())
		if err != nil || to == nil {
			continue
		}
		if _, err := p.udp.WriteTo(buf[:n], to); err != nil {
			return
		}
	}
}

func (p *proxy) streams() {
	for {
		in, err := p.tcp.Accept()
		if err != nil {
			return
		}
		to := p.to()
		out, err := net.Dial("tcp", to)
		if to == "" || err != nil {
			in.Close()
			continue
		}
		p.keep(in, out)
		p.wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { io.Copy(out, in); out.Close() })
			both.Go(func() { io.Copy(in, out); in.Close() })
			both.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, in)
			delete(p.conns, out)
		})
	}
}

func (p *proxy) keep(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = struct{}{}
		if p.severed {
			c.Close()
		}
	}
}
