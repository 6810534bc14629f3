package broker

import (
	"crypto/tls"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/tidemill/tidemill"
)

// Defaults of Config.
const (
	DefaultMaxMemory    = 64 << 20
	DefaultMaxStore     = 8 << 30
	DefaultStartTimeout = 5 * time.Minute
)

// MaxPayload is the largest message the broker takes, in bytes.
const MaxPayload = 8 << 20

// Config of a Broker. Dir is required.
type Config struct {
	// Dir is the store's folder, made when missing. One broker at a time may use it.
	Dir string
	// Listen is "" for connections from this process alone, or host:port; an empty host is
	// the loopback address, port 0 a free one.
	Listen string
	// MaxMemory bounds memory-storage streams and buckets, in bytes; 0 means 64 MiB.
	MaxMemory int64
	// MaxStore bounds files on disk, in bytes; 0 means 8 GiB. Topics reserve their share of
	// it as they grow; a store at the bound refuses writes and keeps what it has.
	MaxStore int64
	// TLS, when given, is required of every connection from outside the process.
	TLS *tls.Config
	// Allow, when given, says what a connection from outside the process may do, by its TLS; an
	// error, which is logged, refuses it. Nil allows everything. It needs TLS. Connections from
	// this process may do everything.
	Allow func(tls.ConnectionState) (Permissions, error)
	// StartTimeout bounds opening the store, which takes about a second per GB after a
	// crash; 0 means 5 minutes.
	StartTimeout time.Duration
	// Logger receives what the server reports; nil discards it.
	Logger *slog.Logger
}

func (c *Config) validate() (host string, port int, err error) {
	if c.Dir == "" {
		return "", 0, tidemill.Invalid("the broker has no folder", "set Dir")
	}
	if c.MaxMemory < 0 || c.MaxStore < 0 || c.StartTimeout < 0 {
		return "", 0, tidemill.Invalid("a negative limit", "use 0 for the default")
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = DefaultMaxMemory
	}
	if c.MaxStore == 0 {
		c.MaxStore = DefaultMaxStore
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = DefaultStartTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Allow != nil && c.TLS == nil {
		return "", 0, tidemill.Invalid("permissions by certificate, and no TLS", "set TLS")
	}
	if c.Listen == "" {
		return "", 0, nil
	}
	h, p, serr := net.SplitHostPort(c.Listen)
	if serr != nil {
		return "", 0, tidemill.Invalid("listen address %q is not host:port", "such as 127.0.0.1:4222 or :0", c.Listen)
	}
	port, perr := strconv.Atoi(p)
	if perr != nil || port < 0 || port > 65535 {
		return "", 0, tidemill.Invalid("port %q in listen address %q", "use 0 to 65535", p, c.Listen)
	}
	if h == "" {
		h = "127.0.0.1"
	}
	if port == 0 {
		port = -1 // what the server calls a free port
	}
	return h, port, nil
}
