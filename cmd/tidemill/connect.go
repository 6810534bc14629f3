package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/trainer"
)

const (
	// dialTimeout is how long a command tries to reach a node before it gives up.
	dialTimeout = 10 * time.Second
	// readyTimeout is how long a command waits for a cluster that is electing its leader.
	readyTimeout = 20 * time.Second
	// callTimeout bounds one command; pausing and savepoints wait for a barrier.
	callTimeout = 2 * time.Minute
)

// defaultDataDir is where a node keeps its data unless told otherwise: $TIDEMILL_DATA_DIR, the
// folder tidemill in the user's configuration folder, or ./tidemill-data where there is none.
func defaultDataDir() string {
	if dir := os.Getenv("TIDEMILL_DATA_DIR"); dir != "" {
		return dir
	}
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "tidemill")
	}
	return "tidemill-data"
}

// dataDirFlag adds --data-dir; the default is looked up when it is needed, so that help reads
// the same for everyone.
func dataDirFlag(cmd *cobra.Command, dir *string, what string) {
	cmd.Flags().StringVar(dir, "data-dir", "", what+` (default: $TIDEMILL_DATA_DIR, else "tidemill" in the user's configuration folder, else ./tidemill-data)`)
	_ = cmd.MarkFlagDirname("data-dir")
}

func orDataDir(dir string) string {
	if dir == "" {
		return defaultDataDir()
	}
	return dir
}

// securityFlags adds the TLS flags.
func securityFlags(cmd *cobra.Command, s *rpc.Security) {
	f := cmd.Flags()
	f.StringVar(&s.Cert, "tls-cert", "", "PEM file of the own certificate")
	f.StringVar(&s.Key, "tls-key", "", "PEM file of its key")
	f.StringVar(&s.CA, "tls-ca", "", "PEM file of the authorities that are believed")
	for _, name := range []string{"tls-cert", "tls-key", "tls-ca"} {
		_ = cmd.MarkFlagFilename(name, "pem", "crt", "key")
	}
}

// peer is how a command finds the nodes that it talks to.
type peer struct {
	server   string
	dataDir  string
	security rpc.Security
}

func (p *peer) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.server, "server", "", "RPC address of any node, HOST:PORT (default: that of the node in --data-dir, else "+node.DefaultRPC+")")
	dataDirFlag(cmd, &p.dataDir, "data directory of a node on this machine, to find its address in")
	securityFlags(cmd, &p.security)
}

// info reads where the node in the data directory can be reached; nothing, when no node ran
// there.
func (p *peer) info() (node.Info, error) {
	info, err := node.ReadInfo(orDataDir(p.dataDir))
	if errors.Is(err, tidemill.ErrNotFound) && p.dataDir == "" {
		return node.Info{}, nil
	}
	if err != nil && p.dataDir != "" && errors.Is(err, tidemill.ErrNotFound) {
		return info, &tidemill.InputError{What: err.Error(), Remedy: "check --data-dir, or start a node with it"}
	}
	return info, err
}

// address returns the RPC address of a node.
func (p *peer) address() (string, error) {
	if p.server != "" {
		return p.server, nil
	}
	info, err := p.info()
	if err != nil {
		return "", err
	}
	if info.RPC != "" {
		return info.RPC, nil
	}
	return node.DefaultRPC, nil
}

// dial returns a connection to addr, which it does not reach for yet.
func (p *peer) dial(addr string) (*grpc.ClientConn, error) {
	if err := p.security.Validate(); err != nil {
		return nil, err
	}
	cfg := rpc.ClientConfig{Protocols: node.DefaultProtocols()}
	if p.security.TLS() {
		creds, err := p.security.ClientCredentials()
		if err != nil {
			return nil, err
		}
		cfg.Credentials = creds
	}
	return rpc.Dial(addr, cfg)
}

// cluster is a connection for commands.
type cluster struct {
	conn *grpc.ClientConn
	addr string
	cmd  trainer.Commander
}

// connect returns a cluster; the caller closes it.
func (p *peer) connect() (*cluster, error) {
	addr, err := p.address()
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(addr)
	if err != nil {
		return nil, err
	}
	return &cluster{conn, addr, trainer.NewCommander(conn)}, nil
}

func (c *cluster) close() { _ = c.conn.Close() }

// do carries out a verb and decodes its answer into v. While the cluster has no leader yet it
// tries again.
func (c *cluster) do(ctx context.Context, job, verb string, args map[string]string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if args == nil {
		args = map[string]string{}
	}
	args["by"] = operator()
	data, err := retry(ctx, readyTimeout, func() ([]byte, error) { return c.cmd.Command(ctx, job, verb, args) })
	if err != nil {
		return c.explain(ctx, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("the answer to %s cannot be read; the node may be of another version: %w: %w", verb, tidemill.ErrCorrupt, err)
	}
	return nil
}

// explain adds what to do when nobody answers.
func (c *cluster) explain(ctx context.Context, err error) error {
	return unreachable(ctx, err, "node", c.addr, "--server")
}

// unreachable turns an error of a connection that was never made into one that says what to
// do; others stay as they are.
func unreachable(ctx context.Context, err error, who, addr, flag string) error {
	var wire *rpc.Error
	if ctx.Err() != nil || !errors.Is(err, tidemill.ErrUnavailable) || !errors.As(err, &wire) {
		return err
	}
	_, why, dialled := strings.Cut(wire.Message, "connection error: desc = ")
	if !dialled {
		return err
	}
	why = strings.Trim(why, `"`)
	why = why[strings.LastIndex(why, "transport: ")+len("transport: "):]
	if strings.HasPrefix(why, "Error while dialing") {
		return fmt.Errorf("no %s answers at %s; start one with `tidemill start`, or name one with %s or --data-dir: %w", who, addr, flag, tidemill.ErrUnavailable)
	}
	return fmt.Errorf("the %s at %s cannot be talked to: %s; check --tls-cert, --tls-key and --tls-ca: %w", who, addr, why, tidemill.ErrUnavailable)
}

// retry calls f again, at most for as long as given, while it says that the moment is wrong.
func retry[T any](ctx context.Context, most time.Duration, f func() (T, error)) (T, error) {
	begin, wait := time.Now(), 20*time.Millisecond
	for {
		v, err := f()
		if !errors.Is(err, tidemill.ErrNotReady) || time.Since(begin) > most || !pause(ctx, wait) {
			return v, err
		}
		wait = min(2*wait, time.Second)
	}
}

// pause waits for d, or returns false when ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// dialStream connects to the stream at url, or, when that is empty, to the one that the node
// in the data directory uses.
func (p *peer) dialStream(ctx context.Context, url string) (*nats.Conn, error) {
	if url == "" {
		info, err := p.info()
		if err != nil {
			return nil, err
		}
		if info.ID != "" && info.Stream == "" {
			return nil, tidemill.Invalid("the node in the data directory offers no stream to others", "start it without --stream-listen -, or give --stream-url")
		}
		url = info.Stream
	}
	if url == "" {
		url = "nats://" + node.DefaultStream
	}
	if err := p.security.Validate(); err != nil {
		return nil, err
	}
	cfg := broker.DialConfig{Name: "command"}
	if p.security.TLS() {
		tls, err := p.security.ClientTLS()
		if err != nil {
			return nil, err
		}
		cfg.TLS = tls
	}
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := broker.Dial(dctx, url, cfg)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("no stream answers at %s; start a node with `tidemill start`, or name one with --stream-url or --data-dir: %w", url, err)
	}
	return nc, err
}
