package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
)

func TestMain(m *testing.M) {
	// A probe in progress outlives the library's Shutdown by up to eight probe intervals.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

const patience = 30 * time.Second

// node is a Cluster that runs.
type node struct {
	*Cluster
	cancel context.CancelFunc
	done   chan error
}

func config(id string, join ...string) Config {
	return Config{
		ID: id, Bind: "127.0.0.1:0", Join: join, RejoinEvery: 300 * time.Millisecond,
		Member: Member{Roles: []string{"worker"}, Slots: 1, Version: "test"},
	}
}

func start(t *testing.T, cfg Config) *node {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Cluster: c, cancel: cancel, done: make(chan error, 1)}
	go func() { n.done <- c.Run(ctx) }()
	t.Cleanup(n.stop)
	return n
}

// stop leaves the cluster and waits for it; again it does nothing.
func (n *node) stop() {
	n.cancel()
	if err, ok := <-n.done; ok && err != nil {
		panic(fmt.Sprintf("%s: %v", n.cfg.ID, err))
	} else if ok {
		close(n.done)
	}
}

// startFragile starts a node that can crash: it does what Run does, without the goodbye.
func startFragile(t *testing.T, cfg Config) (c *Cluster, crash func()) {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := memberlist.Create(c.ml)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.stay(ctx, list) }()
	crashed := false
	crash = func() {
		if crashed {
			return
		}
		crashed = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := list.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(crash)
	return c, crash
}

func ids(c *Cluster) string {
	var out []string
	for _, m := range c.Members() {
		out = append(out, m.ID)
	}
	return strings.Join(out, " ")
}

// until waits for a condition on what c sees.
func until(t *testing.T, c *Cluster, what string, cond func() bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		changed := c.Watch()
		if cond() {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			t.Fatalf("%s sees %+v, not %s", c.cfg.ID, c.Members(), what)
		}
	}
}

func sees(t *testing.T, c *Cluster, want string) {
	t.Helper()
	until(t, c, want, func() bool { return ids(c) == want })
}

func TestConvergeUpdateLeave(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef0123456789abcdef")
	cfg := config("a")
	cfg.Key = key
	a := start(t, cfg)
	<-a.Joined()
	nodes := []*node{a}
	for _, id := range []string{"b", "c"} {
		cfg := config(id, nodes[len(nodes)-1].Addr()) // each knows only the one before
		cfg.Key = key
		nodes = append(nodes, start(t, cfg))
	}
	for _, n := range nodes {
		sees(t, n.Cluster, "a b c")
	}
	for i, m := range nodes[2].Members() {
		if m.Gossip != nodes[i].Addr() || m.Host != "127.0.0.1" || !m.Has("worker") || m.Slots != 1 || m.Version != "test" {
			t.Errorf("c sees %+v", m)
		}
	}
	m := nodes[1].Members()[1]
	m.Slots, m.RPC = 5, "127.0.0.1:7947"
	if err := nodes[1].Update(m); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		until(t, n.Cluster, "5 slots at b", func() bool {
			ms := n.Members()
			return len(ms) == 3 && ms[1].Slots == 5 && ms[1].RPC == "127.0.0.1:7947"
		})
	}
	m.Version = strings.Repeat("x", 600)
	if err := nodes[1].Update(m); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a description of 600 bytes: %v", err)
	}
	nodes[1].stop()
	sees(t, a.Cluster, "a c")
	sees(t, nodes[2].Cluster, "a c")
	if got := ids(nodes[1].Cluster); got != "b" {
		t.Errorf("after leaving b sees %s", got)
	}
	nodes = append(nodes, start(t, func() Config { c := config("b", a.Addr()); c.Key = key; return c }()))
	sees(t, a.Cluster, "a b c")
	sees(t, nodes[3].Cluster, "a b c")
}

// TestCrash: a node that stops without a word is noticed, and may come back under its name at
// another address, also when it does not know whom to join.
func TestCrash(t *testing.T) {
	t.Parallel()
	a := start(t, config("a"))
	b := start(t, config("b", a.Addr()))
	c, crash := startFragile(t, config("c", a.Addr()))
	for _, x := range []*Cluster{a.Cluster, b.Cluster, c} {
		sees(t, x, "a b c")
	}
	crash()
	sees(t, a.Cluster, "a b")
	sees(t, b.Cluster, "a b")
	moved, crash := startFragile(t, config("c", b.Addr()))
	until(t, a.Cluster, "c at its new address", func() bool { ms := a.Members(); return len(ms) == 3 && ms[2].Gossip == moved.Addr() })
	sees(t, moved, "a b c")
	crash()
	sees(t, a.Cluster, "a b")
	// The others call it: it has no seeds.
	cfg := config("c")
	cfg.Bind = moved.Addr()
	again := start(t, cfg)
	sees(t, again.Cluster, "a b c")
	sees(t, a.Cluster, "a b c")
}

// TestCut: the network between two nodes is cut until each believes that the other is gone,
// and mended.
func TestCut(t *testing.T) {
	t.Parallel()
	pa, pb := newProxy(t), newProxy(t)
	cfg := config("a")
	cfg.Advertise = pa.addr()
	a := start(t, cfg)
	pa.forward(a.transport.bound)
	cfg = config("b", pa.addr())
	cfg.Advertise = pb.addr()
	b := start(t, cfg)
	pb.forward(b.transport.bound)
	sees(t, a.Cluster, "a b")
	sees(t, b.Cluster, "a b")
	pa.cut(true)
	pb.cut(true)
	sees(t, a.Cluster, "a")
	sees(t, b.Cluster, "b")
	pa.cut(false)
	pb.cut(false)
	sees(t, a.Cluster, "a b")
	sees(t, b.Cluster, "a b")
}

func TestWrongKey(t *testing.T) {
	t.Parallel()
	one, two := []byte("0123456789abcdef"), []byte("fedcba9876543210")
	for _, c := range []struct {
		name      string
		have, use []byte
		text      string
	}{
		{"another", one, two, "gossip key differs"},
		{"none", one, nil, "has no gossip key"},
		{"needless", nil, one, "this node has a gossip key"},
	} {
		cfg := config("a")
		cfg.Key = c.have
		a := start(t, cfg)
		cfg = config("b", a.Addr())
		cfg.Key = c.use
		b, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = b.Run(ctx)
		cancel()
		if !errors.Is(err, tidemill.ErrDenied) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := ids(a.Cluster); got != "a" {
			t.Errorf("%s: a sees %s", c.name, got)
		}
	}
}

// TestPatience: nodes of another cluster's name do not mix, and a node waits for a seed that
// is not there yet.
func TestPatience(t *testing.T) {
	t.Parallel()
	cfg := config("other")
	cfg.Label = "another"
	other := start(t, cfg)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	lis.Close()
	b := start(t, config("b", addr, other.Addr()))
	cfg = config("a", addr) // its only seed is itself
	cfg.Bind = addr
	a := start(t, cfg)
	<-a.Joined()
	<-b.Joined()
	sees(t, a.Cluster, "a b")
	sees(t, b.Cluster, "a b")
	if got := ids(other.Cluster); got != "other" {
		t.Errorf("the other cluster sees %s", got)
	}
}

func TestStopWhileJoining(t *testing.T) {
	t.Parallel()
	// A seed that accepts and says nothing.
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	b := start(t, config("b", lis.Addr().String()))
	conn, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.stop()
	select {
	case <-b.Joined():
		t.Error("joined a seed that never answered")
	default:
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	c, err := New(config("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := time.Now()
	c.others["b"] = Member{ID: "b", Gossip: "10.0.0.2:1"}
	c.lost["c"] = lostMember{"10.0.0.3:1", now.Add(-time.Minute)}
	c.lost["d"] = lostMember{"10.0.0.4:1", now.Add(-2 * lostFor)}
	c.lost["e"] = lostMember{"10.0.0.2:1", now} // its address is b's now
	got := c.missing([]string{"10.0.0.3:1", "10.0.0.2:1", "10.0.0.1:1", c.Addr()}, now)
	if want := "[10.0.0.1:1 10.0.0.3:1]"; fmt.Sprint(got) != want {
		t.Errorf("calls %v, want %v", got, want)
	}
	if _, ok := c.lost["d"]; ok {
		t.Error("a node lost long ago is not forgotten")
	}
	for i := range 2 * lostMost {
		(*delegate)(c).NotifyLeave(&memberlist.Node{Name: fmt.Sprint("x", i), Addr: net.IPv4(10, 1, byte(i>>8), byte(i)), Port: 1})
	}
	if len(c.lost) > lostMost {
		t.Errorf("%d lost members are kept", len(c.lost))
	}
	if _, ok := c.lost[fmt.Sprint("x", 2*lostMost-1)]; !ok {
		t.Error("the last one lost is not kept")
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	taken, err := New(config("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		spoil func(*Config)
		kind  error
	}{
		"no ID":          {func(c *Config) { c.ID = "" }, tidemill.ErrInvalid},
		"short key":      {func(c *Config) { c.Key = make([]byte, 20) }, tidemill.ErrInvalid},
		"long label":     {func(c *Config) { c.Label = strings.Repeat("x", 300) }, tidemill.ErrInvalid},
		"bad seed":       {func(c *Config) { c.Join = []string{"host"} }, tidemill.ErrInvalid},
		"bad bind":       {func(c *Config) { c.Bind = "127.0.0.1" }, tidemill.ErrInvalid},
		"not here":       {func(c *Config) { c.Bind = "192.0.2.1:0" }, tidemill.ErrInvalid},
		"bad advertise":  {func(c *Config) { c.Advertise = "x" }, tidemill.ErrInvalid},
		"any advertise":  {func(c *Config) { c.Advertise = "0.0.0.0:1" }, tidemill.ErrInvalid},
		"long member":    {func(c *Config) { c.Member.Version = strings.Repeat("x", 600) }, tidemill.ErrInvalid},
		"port in use":    {func(c *Config) { c.Bind = taken.Addr() }, tidemill.ErrExists},
		"default in use": {func(c *Config) { c.Bind, c.BindDefault = taken.Addr(), true }, nil},
		"name":           {func(c *Config) { c.Bind = "localhost:0" }, nil},
	} {
		cfg := config("n")
		c.spoil(&cfg)
		got, err := New(cfg)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
		if err == nil {
			if host, _, _ := net.SplitHostPort(got.Addr()); host != "127.0.0.1" {
				t.Errorf("%s: listens on %s", name, got.Addr())
			}
			got.Close()
		}
	}
}
