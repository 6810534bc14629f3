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
