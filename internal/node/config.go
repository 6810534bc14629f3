package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/serving"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// Roles of a node.
const (
	RoleStream  = "stream"
	RoleWorker  = "worker"
	RolePS      = "ps"
	RoleTrainer = "trainer"
	RoleServing = "serving"
)

// AllRoles is what a node does unless told otherwise.
func AllRoles() []string { return []string{RoleStream, RoleTrainer, RolePS, RoleWorker, RoleServing} }

// Default addresses; a default port in use becomes a free one.
const (
	DefaultGRPC   = "127.0.0.1:8500"
	DefaultHTTP   = "127.0.0.1:8501"
	DefaultGossip = "127.0.0.1:7946"
	DefaultRPC    = "127.0.0.1:7947"
	DefaultStream = "127.0.0.1:4222"
)

// Config of a Node.
type Config struct {
	// ID is the node's name; default: the one kept in its data directory, or a new one.
	ID      string
	DataDir string   // made when missing; one process at a time uses it
	Roles   []string // default: all
	// Addresses to listen on, "host:port"; "" is the default, "-" does not listen (GRPC, HTTP,
	// Gossip and Stream only).
	GRPC, HTTP, RPC, Gossip, Stream string
	// Host takes the place of 127.0.0.1 in the addresses that are left to their default.
	Host string
	// Advertise is the host, or host:port for gossip, that others reach this node at.
	Advertise string
	// AdvertiseRPC and AdvertiseStream override the address others dial; for tests through
	// proxies and for address translation.
	AdvertiseRPC, AdvertiseStream string
	Join                          []string // gossip addresses of other nodes
	StreamURL                     string   // nats://… of an outside stream; role stream then carries the object store alone
	StoreURL                      string   // of an outside object store
	GossipKey                     []byte
	Security                      rpc.Security
	// OpenPredictions lets everybody who connects ask for predictions, also where certificates
	// are asked of those who call anything else.
	OpenPredictions bool
	// Profiles are the numeric profiles that this node offers, the fastest first; default: all
	// that it can. Fewer are for trying out a mixture of machines.
	Profiles []string
	// Protocols are the versions of the cluster's protocol that this node speaks; default
	// DefaultProtocols. A narrower range is for trying out a mixture of versions.
	Protocols tidemill.Protocols
	Slots     int      // of role worker; default 1
	Models    []string // of role serving; default all
	MaxStore  int64    // bytes of the embedded stream; 0: its default
	ServePoll time.Duration
	// DrainTimeout is how long a node that is told to end hands over what it owns before it goes
	// anyway; 0: it goes at once.
	DrainTimeout time.Duration
	// ServeGrace is how long role serving goes on answering after it has stopped being ready,
	// when the node is told to end; requests that are under way then are finished. 0: it stops at
	// once. One that was not ready yet waits for nobody.
	ServeGrace time.Duration
	// Scorer is a command that scores for engines which may end their process: this program with
	// the arguments that make it a scorer. Empty: they compute in this process.
	Scorer []string
	// ScorerMemory is how many bytes such a process may use; 0: the scorer's default.
	ScorerMemory int64
	// KeepPlacement leaves shards where placement puts them while this node's trainer leads; else
	// the hottest move off an overloaded parameter server.
	KeepPlacement bool
	// TryGraph is trainer.Config's.
	TryGraph func(ctx context.Context, s *tidemill.Spec, schema, graph []byte) error
	Version  string
	Logger   *slog.Logger
	Trainer  trainer.Events
	Worker   worker.Events
	Serving  serving.Events
	// Recorders of the roles' protocol cores; nil ones do not record.
	RecordPS      func(job string, ev *ps.Event, effects []ps.Effect)
	RecordTrainer func(job string, cfg trainer.CoreConfig, ev *trainer.Event, effects []trainer.Effect)
	RecordWorker  func(of string, cfg worker.CoreConfig, ev *worker.Event, effects []worker.Effect)
}

func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

func (c *Config) validate() error {
	if c.DataDir == "" {
		return tidemill.Invalid("a node without a data directory", "give --data-dir")
	}
	if len(c.Roles) == 0 {
		c.Roles = AllRoles()
	}
	for _, r := range c.Roles {
		if !slices.Contains(AllRoles(), r) {
			hint := "one of " + strings.Join(AllRoles(), ", ")
			if n := tidemill.Nearest(r, AllRoles()); n != "" {
				hint = fmt.Sprintf("did you mean %q?", n)
			}
			return tidemill.Invalid("unknown role %q", hint, r)
		}
	}
	if !c.has(RoleStream) && len(c.Join) == 0 && c.StreamURL == "" {
		return tidemill.Invalid("a node without role stream has no stream", "give --join GOSSIP-ADDRESS of a node that has it, or --stream nats://HOST:PORT")
	}
	if err := c.Security.Validate(); err != nil {
		return err
	}
	if len(c.Profiles) == 0 {
		c.Profiles = model.Profiles()
	}
	if !c.Protocols.Known() {
		c.Protocols = DefaultProtocols()
	}
	if err := c.Protocols.Validate(); err != nil {
		return err
	}
	c.Slots = max(1, c.Slots)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ServePoll == 0 {
		c.ServePoll = 250 * time.Millisecond
	}
	for _, a := range []string{c.GRPC, c.HTTP, c.RPC, c.Gossip, c.Stream} {
		if a == "-" {
			continue
		}
		a = c.orDefault(a, DefaultRPC)
		if err := c.Security.CheckListen(a); err != nil {
			return err
		}
	}
	return nil
}

// orDefault returns addr, or the default one on the configured host.
func (c *Config) orDefault(addr, def string) string {
	if addr != "" {
		return addr
	}
	if _, port, err := net.SplitHostPort(def); err == nil && c.Host != "" {
		return net.JoinHostPort(c.Host, port)
	}
	return def
}

// Info is what a node writes to node.json in its data directory, for commands on the same
// machine.
type Info struct {
	ID     string   `json:"id"`
	PID    int      `json:"pid"`
	Roles  []string `json:"roles"`
	GRPC   string   `json:"grpc,omitempty"`
	HTTP   string   `json:"http,omitempty"`
	RPC    string   `json:"rpc"`
	Gossip string   `json:"gossip,omitempty"`
	Stream string   `json:"stream,omitempty"` // URL
}

const infoName = "node.json"

// ReadInfo reads what the node that uses, or last used, a data directory wrote.
func ReadInfo(dir string) (Info, error) {
	var i Info
	b, err := os.ReadFile(filepath.Join(dir, infoName))
	if errors.Is(err, os.ErrNotExist) {
		return i, fmt.Errorf("no node has run in data directory %q: %w", filepath.Base(dir), tidemill.ErrNotFound)
	}
	if err == nil {
		err = json.Unmarshal(b, &i)
	}
	if err != nil {
		return i, fmt.Errorf("%s of data directory %q: %w", infoName, filepath.Base(dir), tidemill.ErrCorrupt)
	}
	return i, nil
}

func writeInfo(dir string, i Info) error {
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, infoName+".tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, infoName))
}

// advertised returns what others dial for a listener.
func (c *Config) advertised(lis net.Addr) string {
	host := c.Advertise
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, port, err := net.SplitHostPort(lis.String())
	if err != nil || host == "" {
		return lis.String()
	}
	return net.JoinHostPort(host, port)
}
