package rpc

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// watched are server credentials that log the handshakes that fail.
type watched struct {
	credentials.TransportCredentials
	refusals *refusals
}

func (w *watched) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		w.refusals.note(err)
	}
	return c, info, err
}

func (w *watched) Clone() credentials.TransportCredentials {
	return &watched{w.TransportCredentials.Clone(), w.refusals}
}

// refusals logs why connections were refused: each reason at most once a minute, so that
// somebody who tries on and on fills no disk.
type refusals struct {
	logger *slog.Logger

	mu   sync.Mutex
	said map[string]time.Time // by reason
}

const (
	sayAgain    = time.Minute
	mostReasons = 64
)

func newRefusals(l *slog.Logger) *refusals {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &refusals{logger: l, said: map[string]time.Time{}}
}

func (r *refusals) note(err error) {
	if errors.Is(err, io.EOF) {
		return // somebody looked whether the port is open
	}
	why := reason(err)
	if why == "" {
		why = redact(err.Error())
	}
	now := time.Now()
	r.mu.Lock()
	last, known := r.said[why]
	quiet := known && now.Sub(last) < sayAgain
	if !quiet {
		if len(r.said) >= mostReasons {
			clear(r.said)
		}
		r.said[why] = now
	}
	r.mu.Unlock()
	if !quiet {
		r.logger.Warn("a connection was refused in its TLS handshake", "why", why)
	}
}
