package faultnet

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

func newNetwork(t *testing.T) *Network {
	t.Helper()
	if !Available() {
		t.Skip("this system does not say which process opened a connection")
	}
	n, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// echo answers every byte on a port of the network.
func echo(t *testing.T, p Port) {
	t.Helper()
	l, err := net.Listen("tcp4", p.Inside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func dial(t *testing.T, n *Network) (host Port, c net.Conn) {
	t.Helper()
	p, err := n.Listen("far", false)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, p)
	n.Host("near", os.Getpid())
	c, err = net.Dial("tcp4", p.Outside)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return p, c
}

func roundTrip(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	start := time.Now()
	buf := make([]byte, 1)
	if _, err := c.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf); err != nil || buf[0] != 7 {
		t.Fatalf("%v came back: %v", buf, err)
	}
	return time.Since(start)
}

// A slow link delays each way and loses nothing of a connection.
func TestWorsen(t *testing.T) {
	n := newNetwork(t)
	_, c := dial(t, n)
	roundTrip(t, c)
	n.Worsen("far", Link{Delay: 30 * time.Millisecond})
	if took := roundTrip(t, c); took < 60*time.Millisecond {
		t.Errorf("a round trip over a link with 30 ms each way took %v", took)
	}
	n.Worsen("near", Link{Loss: 1, Again: 40 * time.Millisecond})
	if took := roundTrip(t, c); took < 140*time.Millisecond {
		t.Errorf("with each packet sent twice it took %v", took)
	}
	n.Heal()
	n.mu.Lock()
	left := len(n.links)
	n.mu.Unlock()
	if left != 0 {
		t.Errorf("%d links are bad after Heal", left)
	}
	roundTrip(t, c)
}

// A cut holds bytes back until it ends, and leaves links as they are.
func TestJoin(t *testing.T) {
	n := newNetwork(t)
	_, c := dial(t, n)
	roundTrip(t, c)
	n.Worsen("far", Link{Delay: time.Millisecond})
	n.Cut("far")
	if _, err := c.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	n.Join()
	buf := make([]byte, 1)
	if _, err := io.ReadFull(c, buf); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.links) != 1 {
		t.Error("the end of a cut made a link good")
	}
}

// What a mute host sends is held back and what it is sent arrives; with a deaf one it is the other
// way round. Either way no connection is made until both directions are there.
func TestOneWay(t *testing.T) {
	for _, c := range []struct {
		name     string
		cut      func(n *Network)
		arrives  bool // a question at the far host
		answered bool // the far host's word at the near one
	}{
		{"the asker is mute", func(n *Network) { n.Mute("near") }, false, true},
		{"the asker is deaf", func(n *Network) { n.Deafen("near") }, true, false},
		{"the asked is mute", func(n *Network) { n.Mute("far") }, true, false},
		{"the asked is deaf", func(n *Network) { n.Deafen("far") }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNetwork(t)
			p, err := n.Listen("far", false)
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp4", p.Inside)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			n.Host("near", os.Getpid())
			connect := func() (near, far net.Conn) {
				t.Helper()
				near, err := net.Dial("tcp4", p.Outside)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { near.Close() })
				_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
				if far, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { far.Close() })
				return near, far
			}
			// comes reports whether a byte passes; one that is held back is waited for only a moment.
			comes := func(from, to net.Conn, want bool) bool {
				t.Helper()
				if _, err := from.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
				limit := patience
				if !want {
					limit = 50 * time.Millisecond
				}
				_ = to.SetReadDeadline(time.Now().Add(limit))
				_, err := io.ReadFull(to, make([]byte, 1))
				if err != nil && !os.IsTimeout(err) {
					t.Fatal(err)
				}
				return err == nil
			}
			near, far := connect()
			if !comes(near, far, true) || !comes(far, near, true) {
				t.Fatal("the whole network holds bytes back")
			}
			c.cut(n)
			if got := comes(near, far, c.arrives); got != c.arrives {
				t.Errorf("a question arrives: %v", got)
			}
			if got := comes(far, near, c.answered); got != c.answered {
				t.Errorf("the far host's word arrives: %v", got)
			}
			late, err := net.Dial("tcp4", p.Outside) // the network takes the call, and nobody hears it
			if err != nil {
				t.Fatal(err)
			}
			defer late.Close()
			_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := l.Accept(); err == nil {
				t.Error("a connection came about over one direction")
			}
			n.Join()
			// What was held back arrives now.
			for _, to := range []net.Conn{near, far} {
				if to == far && c.arrives || to == near && c.answered {
					continue
				}
				_ = to.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
					t.Errorf("what was held back: %v", err)
				}
			}
			_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
			if conn, err := l.Accept(); err != nil {
				t.Errorf("the call that waited: %v", err)
			} else {
				conn.Close()
			}
		})
	}
}

// Reset breaks connections to a host, and those from it; new ones are made.
func TestReset(t *testing.T) {
	n := newNetwork(t)
	for _, host := range []string{"far", "near"} {
		p, c := dial(t, n)
		roundTrip(t, c)
		n.Reset("elsewhere")
		roundTrip(t, c)
		n.Reset(host)
		if _, err := io.ReadFull(c, make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("after a reset of %s: %v", host, err)
		}
		again, err := net.Dial("tcp4", p.Outside)
		if err != nil {
			t.Fatal(err)
		}
		_ = again.SetDeadline(time.Now().Add(patience))
		roundTrip(t, again)
		again.Close()
	}
}
