package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
)

// startFlags are the flags of start as they were typed.
type startFlags struct {
	cfg          node.Config
	listen       string
	gossipKey    string
	maxStore     string
	scorerMemory string
	logLevel     string
	logFormat    string
}

func newStart(a *app) *cobra.Command {
	var f startFlags
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run a node, with all roles unless told otherwise",
		Long: `Run a node until it gets SIGINT or SIGTERM; then it hands over what it owns to other nodes, if
there are any, takes a last snapshot of the jobs that its trainer leads, lets serving finish
its requests, and ends with exit code 0. A second signal ends it at once.

A node alone needs nothing else: it carries the stream, the parameter servers, the trainer,
the workers and serving. More nodes join it by its gossip address. The addresses are printed
when the node is ready and kept in node.json in the data directory, where other commands on
this machine find them.

Default ports are 8500 (gRPC), 8501 (HTTP), 7946 (gossip), 7947 (RPC) and 4222 (stream), on
the loopback address. A default port in use becomes a free one; one that was asked for and is
in use is an error; port 0 is any free one.

Listening beyond this machine needs certificates (--tls-…, made by tidemill certs) or --insecure.`,
		Example: `  tidemill start
  tidemill start --role worker --join 127.0.0.1:7946 --data-dir worker1
  tidemill start --listen 0.0.0.0 --tls-cert node.pem --tls-key node-key.pem --tls-ca ca.pem --gossip-key key.txt`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.config(a.err)
			if err != nil {
				return err
			}
			n, err := node.New(cfg)
			if err != nil {
				return err
			}
			return a.runNode(cmd.Context(), n)
		},
	}
	fl := cmd.Flags()
	c := &f.cfg
	fl.StringSliceVar(&c.Roles, "role", nil, "roles of this node: "+strings.Join(node.AllRoles(), ", ")+" (default all)")
	fl.StringSliceVar(&c.Join, "join", nil, "gossip addresses of nodes to join, HOST:PORT")
	fl.StringVar(&f.listen, "listen", "", "host that every port listens on unless its own flag says otherwise; with :0 all ports are free ones (default 127.0.0.1)")
	fl.StringVar(&c.GRPC, "grpc", "", "address of predictions over gRPC, - for none (default "+node.DefaultGRPC+")")
	fl.StringVar(&c.HTTP, "http", "", "address of predictions and metrics over HTTP, - for none (default "+node.DefaultHTTP+")")
	fl.StringVar(&c.RPC, "rpc", "", "address for other nodes and commands (default "+node.DefaultRPC+")")
	fl.StringVar(&c.Gossip, "gossip", "", "address of gossip, - for none (default "+node.DefaultGossip+")")
	fl.StringVar(&c.Stream, "stream-listen", "", "address of the embedded stream, - for none (default "+node.DefaultStream+")")
	fl.StringVar(&c.Advertise, "advertise", "", "host that others reach this node at (default: the one it listens on)")
	fl.StringVar(&c.AdvertiseRPC, "advertise-rpc", "", "address that others dial for RPC")
	fl.StringVar(&c.AdvertiseStream, "advertise-stream", "", "address that others dial for the stream")
	_ = fl.MarkHidden("advertise-rpc")
	_ = fl.MarkHidden("advertise-stream")
	fl.StringVar(&c.StreamURL, "stream", "", "nats://HOST:PORT of a stream elsewhere, instead of the role stream")
	fl.StringVar(&c.StoreURL, "store", "", "URL of an object store elsewhere, file:///DIRECTORY")
	dataDirFlag(cmd, &c.DataDir, "directory for everything the node keeps, made when missing")
	fl.StringVar(&f.gossipKey, "gossip-key", "", "key that encrypts gossip: 16, 24 or 32 bytes in hex or base64, or a file with them (default $TIDEMILL_GOSSIP_KEY)")
	securityFlags(cmd, &c.Security)
	fl.BoolVar(&c.Security.Insecure, "insecure", false, "allow plain text beyond this machine")
	fl.BoolVar(&c.OpenPredictions, "open-predictions", false, "with certificates: let everybody who connects ask for predictions")
	fl.IntVar(&c.Slots, "slots", 0, "training loops of role worker (default 1)")
	fl.StringSliceVar(&c.Models, "models", nil, "models of role serving (default all)")
	fl.StringVar(&f.maxStore, "max-store", "", "bound of the embedded stream on disk, such as 20GiB (default 8GiB)")
	fl.StringVar(&f.scorerMemory, "scorer-memory", "", "most memory of a process that scores for serving or the gate, where an engine needs one of its own (default 4GiB)")
	fl.DurationVar(&c.DrainTimeout, "drain-timeout", 20*time.Second, "how long SIGTERM waits for shards and partitions to be handed over; 0 goes at once")
	fl.DurationVar(&c.ServeGrace, "serve-grace", time.Second, "how long SIGTERM lets serving answer requests after it has stopped being ready")
	fl.BoolVar(&c.KeepPlacement, "keep-placement", false, "while this node's trainer leads, move no shards off an overloaded parameter server")
	fl.StringVar(&c.ID, "id", "", "name of the node (default: the one it had, or a new one)")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "text", "text or json")
	for flag, values := range map[string][]string{
		"role": node.AllRoles(), "log-level": logLevels, "log-format": logFormats,
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// config checks the flags.
func (f *startFlags) config(logs io.Writer) (node.Config, error) {
	c := f.cfg
	c.DataDir = orDataDir(c.DataDir)
	c.Version, c.TryGraph = buildVersion().Version, tryGraph
	log, err := newLogger(logs, f.logLevel, f.logFormat)
	if err != nil {
		return c, err
	}
	c.Logger, c.Security.Logger = log, log
	if c.Slots < 0 {
		return c, tidemill.Invalid("--slots %d", "give 1 or more", c.Slots)
	}
	if exe, err := os.Executable(); err == nil {
		c.Scorer = []string{exe, scorerCommand}
	}
	if f.scorerMemory != "" {
		if c.ScorerMemory, err = parseBytes(f.scorerMemory); err != nil {
			return c, err
		}
	}
	if f.maxStore != "" {
		if c.MaxStore, err = parseBytes(f.maxStore); err != nil {
			return c, err
		}
	}
	if err := f.addresses(&c); err != nil {
		return c, err
	}
	key := f.gossipKey
	if key == "" {
		key = os.Getenv("TIDEMILL_GOSSIP_KEY")
	}
	c.GossipKey, err = parseKey(key)
	return c, err
}

// addresses spreads --listen and fills in hosts that were left out.
func (f *startFlags) addresses(c *node.Config) error {
	host, port := f.listen, ""
	if strings.Contains(host, ":") && net.ParseIP(host) == nil {
		var err error
		if host, port, err = net.SplitHostPort(f.listen); err != nil || port != "0" {
			return tidemill.Invalid("--listen %q", "give a host; HOST:0 for free ports; ports of their own with --rpc, --grpc, --http, --gossip and --stream-listen", f.listen)
		}
	}
	c.Host = host
	if host == "" {
		host = "127.0.0.1"
	}
	public := false
	for flag, addr := range map[string]*string{"grpc": &c.GRPC, "http": &c.HTTP, "rpc": &c.RPC, "gossip": &c.Gossip, "stream-listen": &c.Stream} {
		switch {
		case *addr == "-" && flag != "rpc":
			continue
		case *addr == "" && port != "":
			*addr = net.JoinHostPort(host, port)
		case strings.HasPrefix(*addr, ":"):
			*addr = host + *addr
			if strings.Contains(host, ":") {
				*addr = "[" + host + "]" + (*addr)[len(host):]
			}
		}
		h := host
		if *addr != "" {
			var err error
			if h, _, err = net.SplitHostPort(*addr); err != nil {
				return tidemill.Invalid("--%s %q is not an address", "give HOST:PORT, or :0 for any free port", flag, *addr)
			}
		}
		ip := net.ParseIP(h)
		public = public || ip != nil && ip.IsUnspecified()
	}
	if public && c.Advertise == "" {
		// Others cannot dial "all interfaces".
		c.Advertise = ownAddress()
	}
	return nil
}

// ownAddress returns an address of this machine that others may reach it at: a private one
// before a public one, "" when there is only loopback.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	found := ""
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() || n.IP.To4() == nil {
			continue
		}
		if n.IP.IsPrivate() {
			return n.IP.String()
		}
		if found == "" {
			found = n.IP.String()
		}
	}
	return found
}

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, tidemill.Invalid("--log-level %q", "use "+strings.Join(logLevels, ", "), level)
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: plainError}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, tidemill.Invalid("--log-format %q", "use "+strings.Join(logFormats, ", "), format)
}

// plainError writes an error as its text: the text format would add where in the source some
// libraries' errors were made.
func plainError(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindAny {
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(err.Error())
		}
	}
	return a
}

// parseKey reads a gossip key: hex, base64, or the name of a file that holds one.
func parseKey(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	if b, err := os.ReadFile(s); err == nil {
		s = strings.TrimSpace(string(b))
	}
	valid := func(b []byte, err error) bool {
		return err == nil && (len(b) == 16 || len(b) == 24 || len(b) == 32)
	}
	if b, err := hex.DecodeString(s); valid(b, err) {
		return b, nil
	}
	if b, err := base64.StdEncoding.DecodeString(s); valid(b, err) {
		return b, nil
	}
	// The key itself is not repeated: it may end up in a log.
	return nil, tidemill.Invalid("the gossip key is neither 16, 24 or 32 bytes in hex or base64, nor a file with them", "make one with: openssl rand -hex 32")
}

// parseBytes reads a size such as 500MB or 20GiB.
func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTIbkmgti ")
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	scale, ok := map[string]int64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[unit]
	var n int64
	if _, err := fmt.Sscanf(digits+"\n", "%d\n", &n); err != nil || !ok || n < 1 || n > (1<<62)/scale {
		return 0, tidemill.Invalid("%q is not a size", "give bytes, or a number with KiB, MiB, GiB or TiB", s)
	}
	return n * scale, nil
}

// refused is a node that could not start: the port, the directory or the key it was given
// cannot be used.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// runNode runs n until ctx ends and prints its addresses once it is ready.
func (a *app) runNode(ctx context.Context, n *node.Node) error {
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var err error
	select {
	case <-n.Ready():
		info := n.Info()
		if perr := a.result(info, func(w io.Writer) { printInfo(w, info) }); perr != nil {
			a.say("the addresses could not be printed: %v", perr)
		}
		err = <-done
	case err = <-done:
		if errors.Is(err, tidemill.ErrExists) || errors.Is(err, tidemill.ErrConflict) || errors.Is(err, tidemill.ErrDenied) {
			err = refused{err}
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func printInfo(w io.Writer, i node.Info) {
	fmt.Fprintf(w, "node %s is ready\n  roles   %s\n", i.ID, strings.Join(i.Roles, ", "))
	for _, l := range []struct{ name, addr, what string }{
		{"grpc", i.GRPC, "predictions"}, {"http", i.HTTP, "predictions, /metrics"}, {"rpc", i.RPC, "nodes and commands (--server)"},
		{"gossip", i.Gossip, "for others to --join"}, {"stream", i.Stream, ""},
	} {
		if l.addr != "" {
			fmt.Fprintf(w, "  %-7s %-28s %s\n", l.name, l.addr, l.what)
		}
	}
}
