package cluster

import (
	"context"
	"fmt"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tidemill/tidemill"
)

// transport is the library's, with outgoing connections that end when told to.
type transport struct {
	*memberlist.NetTransport
	bound string // "ip:port" of the sockets
	ended chan struct{}
	once  sync.Once
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen opens the sockets of bind and returns the IP and port it got.
func listen(bind string, isDefault bool, logger *log.Logger) (*transport, string, int, error) {
	host, portText, err := net.SplitHostPort(bind)
	port, perr := strconv.ParseUint(portText, 10, 16)
	if err != nil || perr != nil {
		return nil, "", 0, tidemill.Invalid("%.80q is not an address to gossip on", "give HOST:PORT, or port 0 for any free one", bind)
	}
	// The library would take a name for all interfaces.
	ip := "0.0.0.0"
	if host != "" {
		found, err := resolve(host)
		if err != nil {
			return nil, "", 0, tidemill.Invalid("the host of %.80q has no address", "use 127.0.0.1, 0.0.0.0 or one of this machine's", bind)
		}
		ip = found.String()
	}
	open := func(port int) (*memberlist.NetTransport, error) {
		return memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{ip}, BindPort: port, Logger: logger})
	}
	nt, err := open(int(port))
	// A free port is found for TCP first, and UDP may not have the same one.
	for try := 0; err != nil && inUse(err) && (port == 0 || isDefault) && try < 10; try++ {
		nt, err = open(0)
	}
	if err != nil {
		if inUse(err) {
			return nil, "", 0, fmt.Errorf("gossip port %d is in use; stop what uses it, or choose another (0 takes any free one): %w", port, tidemill.ErrExists)
		}
		return nil, "", 0, fmt.Errorf("gossip port %d cannot be listened on; choose another, or an address of this machine: %w", port, tidemill.ErrInvalid)
	}
	got := nt.GetAutoBindPort()
	return &transport{NetTransport: nt, bound: net.JoinHostPort(ip, strconv.Itoa(got)), ended: make(chan struct{})}, ip, got, nil
}

// inUse: the library hands on only the text.
func inUse(err error) bool { return strings.Contains(err.Error(), "address already in use") }

// resolve returns an address of host, of IPv4 if it has one.
func resolve(host string) (net.IP, error) {
	ips, err := net.LookupIP(host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		if ip4 := ip.To4(); ip4 != nil {
			return ip4, nil
		}
	}
	return ips[0], nil
}

// advertised returns what others are told to reach the sockets at.
func advertised(tr *transport, host string, port int, advertise string) (net.IP, int, error) {
	if advertise != "" {
		h, p, err := net.SplitHostPort(advertise)
		n, perr := strconv.ParseUint(p, 10, 16)
		if err != nil || perr != nil || h == "" {
			return nil, 0, tidemill.Invalid("%.80q is not an address to advertise", "give the HOST:PORT that other nodes can reach", advertise)
		}
		ip, err := resolve(h)
		if err != nil || ip.IsUnspecified() {
			return nil, 0, tidemill.Invalid("the host of %.80q has no address that others can reach", "advertise one that has", advertise)
		}
		if n == 0 {
			n = uint64(port)
		}
		return ip, int(n), nil
	}
	ip := net.ParseIP(host)
	if !ip.IsUnspecified() {
		return ip, port, nil
	}
	// All interfaces: the library picks a private address of this machine.
	if host == "0.0.0.0" {
		if ip, _, err := tr.FinalAdvertiseAddr("", 0); err == nil {
			return ip, port, nil
		}
	}
	return nil, 0, tidemill.Invalid("it is not clear which address of this machine other nodes can reach", "say it with --advertise")
}

// hangUp ends outgoing connections, present and future.
func (t *transport) hangUp() { t.once.Do(func() { close(t.ended) }) }

// Shutdown implements memberlist.Transport.
func (t *transport) Shutdown() error {
	t.hangUp()
	return t.NetTransport.Shutdown()
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-t.ended:
			cancel()
		case <-over:
		}
	}()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	c := &call{Conn: conn, closed: make(chan struct{})}
	go func() {
		select {
		case <-t.ended:
			conn.Close()
		case <-c.closed:
		}
	}()
	return c, nil
}

// call is an outgoing connection, which hangUp closes.
type call struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements net.Conn.
func (c *call) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
