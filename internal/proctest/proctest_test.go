package proctest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/faultnet"
)

// As a child the test's program is a host of the network: it sends what it is told to.
const childKey = "PROCTEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childKey) {
	case "":
		goleak.VerifyTestMain(m)
	case "dial": // a connection to each address on standard input, then each line to all
		var conns []net.Conn
		fmt.Println(`{"ready":true}`)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if addr, ok := strings.CutPrefix(lines.Text(), "dial "); ok {
				c, err := net.Dial("tcp4", addr)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				conns = append(conns, c)
				continue
			}
			for _, c := range conns {
				fmt.Fprintln(c, lines.Text())
			}
		}
		os.Exit(0)
	case "wait": // says that it is ready, and then nothing
		fmt.Fprintln(os.Stderr, "a\nb\nc")
		fmt.Println(`{"port":7}`)
		select {}
	}
}

const patience = 20 * time.Second

func TestReadyAndKill(t *testing.T) {
	t.Setenv(childKey, "wait")
	b := &Binary{os.Args[0]}
	p := b.Start(t, "child")
	var said struct{ Port int }
	p.Ready(&said, patience)
	if said.Port != 7 {
		t.Errorf("the child said %+v", said)
	}
	p.Kill()
	p.Kill()
	select {
	case <-p.Done():
	default:
		t.Error("killed and not done")
	}
	if got := p.Tail(2); got != "b\nc" {
		t.Errorf("logs end with %q", got)
	}
}

func TestRunReportsFailure(t *testing.T) {
	b := &Binary{os.Args[0]}
	if _, err := b.Run(t.Context(), "-no-such-flag"); err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("got %v", err)
	}
}

// Bytes of a connection across a cut wait for its end; those beside it pass, and so do packets.
func TestCut(t *testing.T) {
	n := NewNetwork(t)
	far, near := n.Listen(t, "far", true), n.Listen(t, "near", true)
	got := make(chan string, 10)
	for _, p := range []faultnet.Port{far, near} {
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
					for lines := bufio.NewScanner(c); lines.Scan(); {
						got <- p.Inside + " " + lines.Text()
					}
				}()
			}
		}()
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childKey+"=dial")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Host("child", cmd.Process.Pid)
	say := func(s string) { fmt.Fprintln(in, s) }
	want := func(lines ...string) {
		t.Helper()
		left := map[string]int{}
		for _, l := range lines {
			left[l]++
		}
		for range lines {
			select {
			case l := <-got:
				if left[l]--; left[l] < 0 {
					t.Fatalf("%q came, want %q", l, lines)
				}
			case <-time.After(patience):
				t.Fatalf("waited %v for %v", patience, left)
			}
		}
	}
	say("dial " + far.Outside)
	say("dial " + near.Outside)
	say("1")
	want(far.Inside+" 1", near.Inside+" 1")
	n.Cut("far")
	say("2")
	want(near.Inside + " 2")
	say("dial " + far.Outside) // waits as well
	say("3")
	want(near.Inside + " 3")
	n.Heal()
	want(far.Inside+" 2", far.Inside+" 3", far.Inside+" 3")

	// Packets: what a cut forbids is lost, what is sent beside it comes.
	beside := n.Listen(t, "far", true)
	socket := func(p faultnet.Port) *net.UDPConn {
		a, err := net.ResolveUDPAddr("udp4", p.Inside)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenUDP("udp4", a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	receiver := socket(far)
	toFar, err := net.ResolveUDPAddr("udp4", far.Outside)
	if err != nil {
		t.Fatal(err)
	}
	send := func(c *net.UDPConn, s string) {
		t.Helper()
		if _, err := c.WriteTo([]byte(s), toFar); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		_ = receiver.SetReadDeadline(time.Now().Add(patience))
		size, _, err := receiver.ReadFrom(buf)
		if err != nil || string(buf[:size]) != want {
			t.Fatalf("%q came (%v), want %q", buf[:size], err, want)
		}
	}
	other, same := socket(near), socket(beside)
	send(other, "whole")
	receive("whole")
	n.Cut("far")
	send(other, "lost")
	send(same, "beside")
	receive("beside")
	n.Heal()
	send(other, "healed")
	receive("healed")
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
