package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/cluster"
	"github.com/tidemill/tidemill/internal/lease"
	"github.com/tidemill/tidemill/internal/lease/natskv"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/snapshot/remoteblob"
	"github.com/tidemill/tidemill/internal/snapshot/storepb"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/serving"
	"github.com/tidemill/tidemill/trainer"
)

// Buckets of the lease stores; RecordsBucket is for those who only watch.
const (
	RecordsBucket  = "TIDEMILL_RECORDS"
	sessionsBucket = "TIDEMILL_SESSIONS"
	leaseTTL       = 3 * time.Second
)

// Node is one process of a cluster.
type Node struct {
	cfg   Config
	log   *slog.Logger
	ready chan struct{}
	info  Info

	broker    *broker.Broker // nil when the stream is elsewhere
	stream    source.Stream
	source    source.Stream // stream, and the topics elsewhere that jobs read
	bucket    *blob.Bucket
	records   lease.Store
	sessions  lease.Store
	cluster   *cluster.Cluster
	metrics   *metrics
	registry  *prometheus.Registry
	serving   *serving.Server
	local     local // what the present session runs
	isolators isolators

	mu    sync.Mutex
	conns map[peerKey]*grpc.ClientConn
}

// peerKey is another node, as one of its roles.
type peerKey struct{ addr, role string }

// local is what this process offers under its present session.
type local struct {
	member  atomic.Pointer[tidemill.Member]
	ps      atomic.Pointer[ps.Server]
	trainer atomic.Pointer[trainer.Trainer]
}

// New checks cfg and returns a node that Run brings to life.
func New(cfg Config) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, ready: make(chan struct{}), conns: map[peerKey]*grpc.ClientConn{}, registry: prometheus.NewRegistry()}
	n.metrics = newMetrics(n.registry, n)
	return n, nil
}

// Ready is closed once the node's roles run.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Info returns the node's addresses, once Ready.
func (n *Node) Info() Info { return n.info }

// Stream returns the node's stream, once Ready.
func (n *Node) Stream() source.Stream { return n.stream }

// Bucket returns the node's object store, once Ready.
func (n *Node) Bucket() *blob.Bucket { return n.bucket }

// Trainer returns the trainer of the present session, or nil.
func (n *Node) Trainer() *trainer.Trainer { return n.local.trainer.Load() }

// Serving returns the serving role, or nil.
func (n *Node) Serving() *serving.Server { return n.serving }

// closers run in reverse order.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c closers) run() {
	for _, f := range slices.Backward(c) {
		f()
	}
}

// Run runs the node until ctx ends or something fails for good. When it returns nil, the roles
// have stopped in order: no request is being answered, every batch that was pushed is either
// in a committed snapshot or will be trained again, and the data directory is free.
func (n *Node) Run(ctx context.Context) error {
	var down closers
	defer func() { down.run() }()
	if err := os.MkdirAll(n.cfg.DataDir, 0o755); err != nil {
		return dirError(err)
	}
	unlock, err := fileblob.LockDir(n.cfg.DataDir)
	if err != nil {
		return err
	}
	down.add(func() { _ = unlock() })
	if err := n.identify(); err != nil {
		return err
	}
	n.log = n.cfg.Logger.With("node", n.cfg.ID)

	rpcLis, err := rpc.Listen(n.cfg.orDefault(n.cfg.RPC, DefaultRPC), n.cfg.RPC == "")
	if err != nil {
		return err
	}
	down.add(func() { rpcLis.Close() })
	n.info = Info{ID: n.cfg.ID, PID: os.Getpid(), Roles: n.cfg.Roles, RPC: n.cfg.advertised(rpcLis.Addr())}
	if n.cfg.AdvertiseRPC != "" {
		n.info.RPC = n.cfg.AdvertiseRPC
	}
	if err := n.checkCertificate(); err != nil {
		return err
	}
	nc, err := n.openStream(ctx, &down)
	if err != nil {
		return err
	}
	if err := n.openStores(ctx, nc, &down); err != nil {
		return err
	}
	down.add(n.hangUp)

	n.isolate(&down)

	g, gctx := errgroup.WithContext(ctx)
	sctx, stopServers := context.WithCancel(context.WithoutCancel(gctx))
	defer stopServers()
	var servers errgroup.Group
	if err := n.serveRPC(sctx, &servers, rpcLis); err != nil {
		return err
	}
	if err := n.serveModels(sctx, gctx, g, &servers); err != nil {
		return err
	}
	if err := writeInfo(n.cfg.DataDir, n.info); err != nil {
		return dirError(err)
	}
	g.Go(func() error { return n.live(gctx) })
	if n.broker != nil {
		g.Go(func() error { return n.broker.Broken(gctx) })
	}
	err = g.Wait()
	stopServers()
	return errors.Join(err, servers.Wait())
}

// identify finds or makes the node's name.
func (n *Node) identify() error {
	if n.cfg.ID != "" {
		return nil
	}
	if i, err := ReadInfo(n.cfg.DataDir); err == nil && i.ID != "" {
		n.cfg.ID = i.ID
		return nil
	}
	n.cfg.ID = "node-" + nonce(4)
	return nil
}

func nonce(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// dirError is a failure to write to the data directory.
func dirError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("the data directory's disk is full; free space and start the node again: %w", tidemill.ErrFull)
	}
	return fmt.Errorf("data directory: %w: %w", tidemill.ErrInvalid, pathless(err))
}

func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// openStream starts the embedded stream, or finds and connects to another one.
func (n *Node) openStream(ctx context.Context, down *closers) (*nats.Conn, error) {
	var nc *nats.Conn
	gossip := n.cfg.Gossip != "-"
	if n.cfg.StreamURL != "" {
		n.info.Stream = n.cfg.StreamURL
	} else if n.cfg.has(RoleStream) {
		listen := n.cfg.Stream
		switch listen {
		case "-":
			listen = ""
		case "":
			// A default port in use becomes a free one.
			lis, err := rpc.Listen(n.cfg.orDefault("", DefaultStream), true)
			if err != nil {
				return nil, err
			}
			listen = lis.Addr().String()
			lis.Close()
		}
		cfg := broker.Config{Dir: filepath.Join(n.cfg.DataDir, "stream"), Listen: listen, MaxStore: n.cfg.MaxStore, Logger: n.log}
		if n.cfg.Security.TLS() && listen != "" {
			tls, err := n.cfg.Security.ServerTLS(rpc.RequireClientCerts)
			if err != nil {
				return nil, err
			}
			cfg.TLS, cfg.Allow = tls, streamPermissions
		}
		b, err := broker.Start(cfg)
		if err != nil {
			return nil, err
		}
		down.add(func() { _ = b.Close() })
		n.broker = b
		for _, q := range b.Quarantined() {
			n.log.Error("a damaged part of the stream was moved aside", "what", q)
		}
		if u, err := url.Parse(b.URL()); err == nil && u.Host != "" {
			n.info.Stream = "nats://" + n.cfg.advertised(tcpAddr(u.Host))
		}
		if n.cfg.AdvertiseStream != "" {
			n.info.Stream = "nats://" + n.cfg.AdvertiseStream
		}
		if nc, err = b.Conn(ctx); err != nil {
			return nil, err
		}
	}
	if gossip {
		if err := n.joinCluster(ctx, down); err != nil {
			return nil, err
		}
	}
	if nc == nil {
		addr := n.cfg.StreamURL
		if addr == "" {
			m, err := n.find(ctx, "the stream", func(m cluster.Member) bool { return m.Stream != "" })
			if err != nil {
				return nil, err
			}
			addr = m.Stream
		}
		cfg := broker.DialConfig{Logger: n.log}
		if n.cfg.Security.TLS() {
			var roles []string
			if n.cfg.StreamURL == "" {
				roles = []string{RoleStream} // an outside stream has no role
			}
			tls, err := n.cfg.Security.ClientTLS(roles...)
			if err != nil {
				return nil, err
			}
			cfg.TLS = tls
		}
		if !strings.Contains(addr, "://") {
			addr = "nats://" + addr
		}
		var err error
		if nc, err = broker.Dial(ctx, addr, cfg); err != nil {
			return nil, err
		}
		n.info.Stream = addr
	}
	down.add(nc.Close)
	stream, err := natsource.New(nc, natsource.Config{Logger: n.log})
	if err != nil {
		return nil, err
	}
	n.stream = stream
	down.add(func() { _ = stream.Close() })
	router := kafka.NewRouter(stream, kafka.Config{Logger: n.log})
	n.source = router
	down.add(func() { _ = router.Close() })
	return nc, nil
}

type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }

func (n *Node) joinCluster(ctx context.Context, down *closers) error {
	if len(n.cfg.GossipKey) == 0 && n.cfg.Security.TLS() {
		n.log.Warn("gossip is not encrypted; give --gossip-key to all nodes")
	}
	self := cluster.Member{Roles: n.cfg.Roles, RPC: n.info.RPC, Slots: n.cfg.Slots, Version: n.cfg.Version, Protocols: n.cfg.Protocols}
	if n.cfg.has(RoleStream) {
		self.Stream = strings.TrimPrefix(n.info.Stream, "nats://")
	}
	cfg := cluster.Config{
		ID: n.cfg.ID + "-" + nonce(3), Bind: n.cfg.orDefault(n.cfg.Gossip, DefaultGossip), BindDefault: n.cfg.Gossip == "",
		Join: n.cfg.Join, Key: n.cfg.GossipKey, Member: self, Logger: n.log,
	}
	if n.cfg.Advertise != "" {
		cfg.Advertise = n.cfg.Advertise
		if _, _, err := net.SplitHostPort(cfg.Advertise); err != nil {
			cfg.Advertise = net.JoinHostPort(n.cfg.Advertise, "0")
		}
	}
	c, err := cluster.New(cfg)
	if err != nil {
		return err
	}
	n.cluster = c
	n.info.Gossip = c.Addr()
	cctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- c.Run(cctx) }()
	down.add(func() { stop(); <-done })
	if len(n.cfg.Join) == 0 {
		return nil
	}
	select {
	case <-c.Joined():
		return nil
	case err := <-done:
		done <- nil
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find waits until gossip names a node that fits.
func (n *Node) find(ctx context.Context, what string, fits func(cluster.Member) bool) (cluster.Member, error) {
	said := false
	for {
		changed := n.cluster.Watch()
		for _, m := range n.cluster.Members() {
			if fits(m) {
				return m, nil
			}
		}
		if !said {
			n.log.Info("waits for a node that has " + what)
			said = true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cluster.Member{}, ctx.Err()
		}
	}
}

func (n *Node) openStores(ctx context.Context, nc *nats.Conn, down *closers) error {
	var err error
	switch {
	case n.cfg.StoreURL != "":
		n.bucket, err = snapshot.OpenBucket(ctx, n.cfg.StoreURL)
	case n.cfg.has(RoleStream):
		n.bucket, err = fileblob.Open(filepath.Join(n.cfg.DataDir, "store"), fileblob.Options{})
	case n.cluster == nil:
		err = tidemill.Invalid("a node without gossip has no object store", "give --store URL, or --join")
	default:
		var m cluster.Member
		if m, err = n.find(ctx, "the object store", func(m cluster.Member) bool { return slices.Contains(m.Roles, RoleStream) }); err == nil {
			var conn *grpc.ClientConn
			if conn, err = n.dial(m.RPC, RoleStream); err == nil {
				n.bucket = remoteblob.Open(conn)
			}
		}
	}
	if err != nil {
		return err
	}
	down.add(func() { n.bucket.Close() })
	records, err := natskv.Open(ctx, nc, RecordsBucket, natskv.Options{})
	if err != nil {
		return err
	}
	n.records = records
	down.add(func() { records.Close() })
	sessions, err := natskv.Open(ctx, nc, sessionsBucket, natskv.Options{TTL: leaseTTL, Memory: true})
	if err != nil {
		return err
	}
	n.sessions = sessions
	down.add(func() { sessions.Close() })
	return nil
}

// dial returns a shared connection to another node, whose certificate has to name a role.
func (n *Node) dial(addr, role string) (*grpc.ClientConn, error) {
	key := peerKey{addr, role}
	if !n.cfg.Security.TLS() {
		key.role = "" // nobody shows one
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[key]; c != nil {
		return c, nil
	}
	c, err := n.connect(addr, role)
	if err == nil {
		n.conns[key] = c
	}
	return c, err
}

// connect returns a connection to another node that is the caller's own.
func (n *Node) connect(addr, role string) (*grpc.ClientConn, error) {
	cfg := rpc.ClientConfig{Protocols: n.cfg.Protocols}
	if n.cfg.Security.TLS() {
		creds, err := n.cfg.Security.ClientCredentials(role)
		if err != nil {
			return nil, err
		}
		cfg.Credentials = creds
	}
	return rpc.Dial(addr, cfg)
}

func (n *Node) hangUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
}

// serveRPC starts the server that other nodes and commands talk to.
func (n *Node) serveRPC(ctx context.Context, g *errgroup.Group, lis net.Listener) error {
	policy := n.policy()
	cfg := rpc.ServerConfig{Logger: n.log, Authorize: policy.Authorize, Protocols: n.cfg.Protocols}
	if n.cfg.Security.TLS() {
		creds, err := n.cfg.Security.ServerCredentials(rpc.RequireClientCerts)
		if err != nil {
			return err
		}
		cfg.Credentials = creds
	}
	srv := rpc.NewServer(cfg)
	if n.cfg.has(RoleStream) && n.cfg.StoreURL == "" {
		storepb.RegisterStoreServer(srv, remoteblob.NewServer(n.bucket, remoteblob.Guards{
			Read:  func(ctx context.Context, name string) error { return mayRead(ctx, policy, name) },
			Write: func(ctx context.Context, name string) error { return mayWrite(ctx, policy, name) },
		}))
	}
	ps.Register(srv, standInPS{n})
	trainer.Register(srv, standInTrainer{n}, standInTrainer{n})
	g.Go(func() error { return rpc.Serve(ctx, srv, lis, 2*time.Second) })
	return nil
}

// serveModels starts the serving role, and the HTTP server that every role has for metrics.
func (n *Node) serveModels(sctx, ctx context.Context, g, servers *errgroup.Group) error {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{})
	mux.Handle("/metrics", n.guard(metrics, func(*http.Request) []string { return rpc.Roles() }))
	if n.cfg.has(RoleServing) {
		s, err := serving.New(serving.Config{
			Store: n.bucket, Models: n.cfg.Models, Poll: n.cfg.ServePoll, Version: n.cfg.Version, Isolator: n.isolators.serving,
			Logger: n.log, Metrics: n.registry, Events: n.cfg.Serving,
		})
		if err != nil {
			return err
		}
		n.serving = s
		mux.Handle("/", n.guard(s.Handler(), n.predictionRoles))
		if n.cfg.GRPC != "-" {
			lis, err := rpc.Listen(n.cfg.orDefault(n.cfg.GRPC, DefaultGRPC), n.cfg.GRPC == "")
			if err != nil {
				return err
			}
			n.info.GRPC = n.cfg.advertised(lis.Addr())
			cfg := rpc.ServerConfig{Logger: n.log, Authorize: n.predictionPolicy().Authorize}
			if n.cfg.Security.TLS() {
				creds, err := n.cfg.Security.ServerCredentials(rpc.AcceptClientCerts)
				if err != nil {
					return err
				}
				cfg.Credentials = creds
			}
			srv := rpc.NewServer(cfg)
			s.Register(srv)
			servers.Go(func() error { return rpc.Serve(sctx, srv, lis, 5*time.Second) })
		}
		g.Go(func() error { return n.runServing(ctx, s) })
	}
	if n.cfg.HTTP == "-" {
		return nil
	}
	lis, err := rpc.Listen(n.cfg.orDefault(n.cfg.HTTP, DefaultHTTP), n.cfg.HTTP == "")
	if err != nil {
		return err
	}
	n.info.HTTP = n.cfg.advertised(lis.Addr())
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 16}
	if n.cfg.Security.TLS() {
		tls, err := n.cfg.Security.ServerTLS(rpc.AcceptClientCerts)
		if err != nil {
			return err
		}
		hs.TLSConfig = tls
	}
	servers.Go(func() error {
		stop := context.AfterFunc(sctx, func() {
			c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = hs.Shutdown(c)
		})
		defer stop()
		var err error
		if hs.TLSConfig != nil {
			err = hs.ServeTLS(lis, "", "")
		} else {
			err = hs.Serve(lis)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	return nil
}

// sessionValue is what the session lease says of this process.
func (n *Node) sessionValue(m tidemill.Member, leaving bool) ([]byte, error) {
	return json.Marshal(trainer.Session{Member: m, Leaving: leaving, Roles: n.cfg.Roles, Slots: n.cfg.Slots, Profiles: n.cfg.Profiles, Protocols: n.cfg.Protocols})
}
