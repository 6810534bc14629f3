package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
	// TLS is asked for the configuration of each connection, also when it is made again. It is
	// needed for servers that ask for TLS; nil is plain text.
	TLS func() (*tls.Config, error)
	// Credentials is the path of a NATS credentials file, or "".
	Credentials string
	// ReconnectWait is the pause between attempts after a loss; 0 means 250 ms.
	ReconnectWait time.Duration
	// Logger reports losses and returns; nil discards them.
	Logger *slog.Logger
}

// Dial connects to the NATS server at url, one or several comma-separated addresses, trying
// until ctx ends, and logging why not meanwhile. A server that refuses the certificate or the
// credentials is tidemill.ErrDenied at once. Once made, the connection comes back by itself for ever; requests during a
// loss wait for it or fail with their own context. The caller closes it.
func Dial(ctx context.Context, url string, cfg DialConfig) (*nats.Conn, error) {
	wait := cfg.ReconnectWait
	if wait <= 0 {
		wait = defaultReconnectWait
	}
	opts := connOptions(cfg)
	if cfg.TLS != nil {
		secure, err := secured(cfg.TLS)
		if err != nil {
			return nil, err
		}
		opts = append(opts, secure)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var last error
	for try := 1; ; try++ {
		nc, err := nats.Connect(url, opts...)
		if err == nil {
			return nc, nil
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return nil, fmt.Errorf("the stream does not let this certificate or these credentials in; its log says why: %w: %w", tidemill.ErrDenied, err)
		}
		last = err
		// Each line means twice the waiting of the one before.
		if try&(try-1) == 0 {
			log.Info("the stream cannot be reached yet; trying on", "attempts", try, "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("dial the stream: %w: %w (%w)", tidemill.ErrUnavailable, last, ctx.Err())
		case <-t.C:
		}
	}
}

// secured makes each connection with the configuration of its moment.
func secured(config func() (*tls.Config, error)) (nats.Option, error) {
	now, err := config()
	if err != nil {
		return nil, err
	}
	base := now.Clone()
	base.Certificates = nil
	base.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := config()
		switch {
		case err != nil:
			return nil, err
		case c.GetClientCertificate != nil:
			return c.GetClientCertificate(info)
		case len(c.Certificates) > 0:
			return &c.Certificates[0], nil
		}
		return &tls.Certificate{}, nil // none to show
	}
	return func(o *nats.Options) error {
		o.Secure, o.TLSConfig = true, base
		o.RootCAsCB = func() (*x509.CertPool, error) {
			c, err := config()
			if err != nil {
				return nil, err
			}
			return c.RootCAs, nil
		}
		return nil
	}, nil
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
		nats.IgnoreAuthErrorAbort(), // certificates may be on their way
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
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	return opts
}
