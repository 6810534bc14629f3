package cluster

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/tidemill/tidemill"
)

// Config says who a node is and how it finds the others.
type Config struct {
	// ID is unique in the cluster; a node that restarts may keep its ID, also at another address.
	ID string
	// Bind is the "host:port" to gossip on, over UDP and TCP. Port 0 takes a free one.
	Bind string
	// BindDefault says that Bind is only a default: with its port in use a free one is taken.
	BindDefault bool
	// Advertise is the "host:port" that others reach Bind at, where it differs (several
	// interfaces, address translation). Port 0 is the one of Bind.
	Advertise string
	// Join are gossip addresses, "host:port", of any members; none for the first node. A name
	// with several addresses stands for all of them, and one's own is skipped.
	Join []string
	// Key encrypts gossip: 16, 24 or 32 random bytes, the same on all nodes. Without one, who
	// reaches Bind can read and join.
	Key []byte
	// Member is what this node says of itself. ID and Gossip are filled in, and Host, when
	// empty, by the address that others gossip with.
	Member Member
	// RejoinEvery is how often seeds and lost members are called again; default 10 s.
	RejoinEvery time.Duration
	// Label is the cluster's name; nodes of another name are not heard. Default "tidemill".
	Label string
	// Logger receives joins, losses and trouble; the library's own messages at debug level.
	// Default: discard.
	Logger *slog.Logger
}

const (
	leaveWait = 2 * time.Second // for the word of our leaving to get out
	// How long and how many of the members that are gone are called again.
	lostFor  = time.Hour
	lostMost = 256
)

// Cluster is a node's view of the cluster. Its methods are safe for concurrent use.
type Cluster struct {
	cfg       Config
	logger    *slog.Logger
	transport *transport
	ml        *memberlist.Config
	addr      string // what others gossip with
	joined    chan struct{}

	// mu is taken inside memberlist's callbacks, so memberlist is never called under it.
	mu      sync.Mutex
	self    Member
	meta    []byte
	list    *memberlist.Memberlist // while Run runs
	others  map[string]Member
	lost    map[string]lostMember
	refused map[string]string // ID → metadata that was complained about
	apart   error             // why the last merge with others was refused; nil when none was
	changed chan struct{}     // closed at the next change
}

type lostMember struct {
	addr string
	at   time.Time
}

// New checks the configuration and opens the sockets. Call Run, or Close.
func New(cfg Config) (*Cluster, error) {
	if cfg.Label == "" {
		cfg.Label = "tidemill"
	}
	if cfg.RejoinEvery <= 0 {
		cfg.RejoinEvery = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch len(cfg.Key) {
	case 0, 16, 24, 32:
	default:
		return nil, tidemill.Invalid("the gossip key has %d bytes", "use 16, 24 or 32 random bytes", len(cfg.Key))
	}
	if len(cfg.Label) > memberlist.LabelMaxSize {
		return nil, tidemill.Invalid("the cluster's name has %d bytes, more than %d", "choose a shorter one", len(cfg.Label), memberlist.LabelMaxSize)
	}
	for _, addr := range cfg.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, tidemill.Invalid("%.80q is not an address to join", "give the HOST:PORT that a member gossips on", addr)
		}
	}
	if err := check(Member{ID: cfg.ID}); err != nil {
		return nil, err
	}

	c := &Cluster{
		cfg: cfg, logger: cfg.Logger, joined: make(chan struct{}),
		others: map[string]Member{}, lost: map[string]lostMember{}, refused: map[string]string{}, changed: make(chan struct{}),
	}
	lib := log.New(debugWriter{cfg.Logger}, "", 0)
	tr, host, port, err := listen(cfg.Bind, cfg.BindDefault, lib)
	if err != nil {
		return nil, err
	}
	ip, aport, err := advertised(tr, host, port, cfg.Advertise)
	if err == nil {
		c.addr = net.JoinHostPort(ip.String(), strconv.Itoa(aport))
		err = c.describe(cfg.Member)
	}
	if err != nil {
		tr.Shutdown()
		return nil, err
	}
	c.transport = tr

	ml := memberlist.DefaultLANConfig()
	ml.Name = cfg.ID
	ml.Transport = tr
	ml.BindAddr, ml.BindPort = host, port
	ml.AdvertiseAddr, ml.AdvertisePort = ip.String(), aport
	ml.Label = cfg.Label
	ml.SecretKey = cfg.Key
	ml.Logger = lib
	ml.Delegate = (*delegate)(c)
	ml.Events = (*delegate)(c)
	ml.Alive = (*delegate)(c)
	ml.Merge = (*delegate)(c)
	ml.Conflict = (*delegate)(c)
	// A member that stopped answering is given up after two to three seconds in a small cluster
	// (the library's own settings take six). A ping that UDP loses is tried over TCP.
	ml.ProbeInterval = 500 * time.Millisecond
	ml.ProbeTimeout = 300 * time.Millisecond
	ml.SuspicionMult = 4
	ml.DisableTcpPings = false
	ml.TCPTimeout = 3 * time.Second
	ml.PushPullInterval = 10 * time.Second
	// A node that died may come back at another address at once.
	ml.DeadNodeReclaimTime = time.Millisecond
	c.ml = ml
	return c, nil
}

// describe sets what this node says of itself.
func (c *Cluster) describe(m Member) error {
	m = m.clone()
	m.ID, m.Gossip = c.cfg.ID, c.addr
	if m.Host == "" {
		m.Host, _, _ = net.SplitHostPort(c.addr)
	}
	b, err := encode(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.self, c.meta = m, b
	c.signal()
	c.mu.Unlock()
	return nil
}

// Addr is the "host:port" that others gossip with and that Join takes.
func (c *Cluster) Addr() string { return c.addr }

// Members returns the members believed alive, this node included, sorted by ID.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Member, 0, len(c.others)+1)
	out = append(out, c.self.clone())
	for _, m := range c.others {
		out = append(out, m.clone())
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Watch returns a channel that is closed at the next change of Members. Take it before
// Members, and take a new one after it was closed: then no change is missed.
func (c *Cluster) Watch() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Joined is closed once another member has been reached, or at once when there is none to
// join.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

// Update replaces what this node says of itself, here at once and elsewhere within moments.
func (c *Cluster) Update(m Member) error {
	if err := c.describe(m); err != nil {
		return err
	}
	c.mu.Lock()
	list := c.list
	c.mu.Unlock()
	if list != nil {
		// What this does not deliver in time comes with the next exchange of state.
		if err := list.UpdateNode(time.Second); err != nil {
			c.logger.Debug("the new description is not out yet", "error", err)
		}
	}
	return nil
}

// Run joins the cluster, trying until a seed answers, stays in it until ctx ends, then says
// goodbye and closes the sockets. It returns nil when ctx ended, and an error wrapping
// tidemill.ErrDenied when every seed that answered has another gossip key, or
// tidemill.ErrInvalid when a member speaks no version of the protocol that this node does. It is
// called once.
func (c *Cluster) Run(ctx context.Context) error {
	list, err := memberlist.Create(c.ml)
	if err != nil {
		c.transport.Shutdown()
		return fmt.Errorf("gossip could not be started: %w: %w", tidemill.ErrInvalid, err)
	}
	c.mu.Lock()
	c.list = list
	c.mu.Unlock()
	// Connections being made end with ctx, or the end would wait for them.
	unhook := context.AfterFunc(ctx, c.transport.hangUp)
	defer unhook()

	err = c.stay(ctx, list)

	if lerr := list.Leave(leaveWait); lerr != nil {
		c.logger.Debug("the others were not told of our leaving; they will notice", "error", lerr)
	}
	c.mu.Lock()
	c.list = nil
	clear(c.others)
	c.signal()
	c.mu.Unlock()
	if serr := list.Shutdown(); err == nil && serr != nil {
		err = fmt.Errorf("gossip could not be stopped: %w", serr)
	}
	return err
}

func (c *Cluster) stay(ctx context.Context, list *memberlist.Memberlist) error {
	if err := c.join(ctx, list); err != nil {
		return err
	}
	tick := time.NewTicker(c.cfg.RejoinEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.rejoin(ctx, list)
		}
	}
}

// Close closes the sockets of a Cluster whose Run was never called.
func (c *Cluster) Close() error { return c.transport.Shutdown() }

// signal wakes watchers; the caller holds c.mu.
func (c *Cluster) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}
