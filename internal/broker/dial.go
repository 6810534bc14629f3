package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/tidemill/tidemill"
)

// DialConfig of an outside connection. The zero value is usable.
type DialConfig struct {
	// Name shows in the server's list of connections.
	Name string
	// TLS is used when given, and needed for servers that ask for it.
	TLS *tls.Config
	// Credentials is the path of a NATS credentials file, or "".
	Credentials string
	// ReconnectWait is the pause between attempts after a loss; 0 means 250 ms.
	ReconnectWait time.Duration
	// Logger reports losses and returns; nil discards them.
	Logger *slog.Logger
}

// Dial connects to the NATS server at url, one or several comma-separated addresses, trying
// until ctx ends. Once made, the connection comes back by itself for ever; requests during a
// loss wait for it or fail with their own context. The caller closes it.
func Dial(ctx context.Context, url string, cfg DialConfig) (*nats.Conn, error) {
	wait := cfg.ReconnectWait
	if wait <= 0 {
		wait = defaultReconnectWait
	}
	opts := connOptions(cfg)
	var last error
	for {
		nc, err := nats.Connect(url, opts...)
		if err == nil {
			return nc, nil
		}
		last = err
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("dial the stream: %w: %w (%w)", tidemill.ErrUnavailable, last, ctx.Err())
		case <-t.C:
		}
	}
}

const defaultReconnectWait = 250 * time.Millisecond

func connOptions(cfg DialConfig) []nats.Option {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ReconnectWait <= 0 {
		cfg.ReconnectWait = defaultReconnectWait
	}
	log := cfg.Logger.With("connection", cfg.Name)
	opts := []nats.Option{
		nats.Name("tidemill " + cfg.Name),
		nats.Timeout(3 * time.Second),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(cfg.ReconnectWait),
		nats.ReconnectJitter(cfg.ReconnectWait/4, cfg.ReconnectWait/4),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		// A request that was sent into a loss must fail or be sent again by its owner, who
		// knows whether that is safe; it must not leave the process minutes later.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("stream connection lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("stream connection is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Warn("stream connection", "err", err)
		}),
	}
	if cfg.TLS != nil {
		opts = append(opts, nats.Secure(cfg.TLS))
	}
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	return opts
}
