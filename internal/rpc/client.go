package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill"
)

// ClientConfig says how a client behaves.
type ClientConfig struct {
	// Credentials come from Security.ClientCredentials; nil is plain text.
	Credentials credentials.TransportCredentials
	// MaxMessage in bytes, received and sent; 0 means DefaultMaxMessage.
	MaxMessage int
	// WaitForReady lets calls wait for the connection until their context ends, rather than
	// fail with tidemill.ErrUnavailable while there is none.
	WaitForReady bool
	// Protocols are the versions of the cluster's protocol that this process speaks, said with
	// each call; the zero value says nothing, for services that are not the cluster's own.
	Protocols tidemill.Protocols
	// Metrics may be nil.
	Metrics Metrics
	// Dialer makes connections instead of the network; for processes that are their own peer.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
}

// Dial returns a connection to addr, "host:port", that calls may share. It connects in the
// background and again when cut off, at most 2 s apart; nothing is sent through a proxy. Errors
// of its calls are *Error.
func Dial(addr string, cfg ClientConfig) (*grpc.ClientConn, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, tidemill.Invalid("%.80q is not an address", "give HOST:PORT", addr)
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.Credentials == nil {
		cfg.Credentials = insecure.NewCredentials()
	}
	r := &reader{metrics: cfg.Metrics, protocols: cfg.Protocols}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(cfg.Credentials),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(cfg.MaxMessage), grpc.MaxCallSendMsgSize(cfg.MaxMessage),
			grpc.WaitForReady(cfg.WaitForReady)),
		// 10 s is the least that the library keeps to.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // a peer that left should be noticed by keep-alive, not by the next call
		grpc.WithUnaryInterceptor(r.unary),
		grpc.WithStreamInterceptor(r.stream),
	}
	target := addr
	if cfg.Dialer != nil {
		opts = append(opts, grpc.WithContextDialer(cfg.Dialer))
		target = "passthrough:///" + addr
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("%.80q cannot be dialled: %w: %w", addr, tidemill.ErrInvalid, err)
	}
	return conn, nil
}

// reader turns statuses into errors with kinds, and says which protocol is spoken.
type reader struct {
	metrics   Metrics
	protocols tidemill.Protocols
}

func (r *reader) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	start := time.Now()
	err := invoke(speak(ctx, r.protocols), method, req, reply, cc, opts...)
	r.count(method, start, err)
	return FromStatus(err)
}

func (r *reader) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	start := time.Now()
	cs, err := streamer(speak(ctx, r.protocols), desc, cc, method, opts...)
	if err != nil {
		r.count(method, start, err)
		return nil, FromStatus(err)
	}
	return &readingStream{ClientStream: cs, ended: func(err error) { r.count(method, start, err) }, single: !desc.ServerStreams}, nil
}

func (r *reader) count(method string, start time.Time, err error) {
	if r.metrics == nil {
		return
	}
	code := codes.OK
	if err != nil && !errors.Is(err, io.EOF) {
		code = status.Code(err)
	}
	r.metrics.Call(method, code, time.Since(start))
}

// readingStream reports its end once: the first error of RecvMsg, or the one answer of a
// call that gets a single one. RecvMsg is called by one goroutine at a time, as gRPC asks.
type readingStream struct {
	grpc.ClientStream
	ended  func(error)
	single bool
}

func (s *readingStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if (err != nil || s.single) && s.ended != nil {
		s.ended(err)
		s.ended = nil
	}
	return FromStatus(err)
}

func (s *readingStream) SendMsg(m any) error { return FromStatus(s.ClientStream.SendMsg(m)) }
func (s *readingStream) CloseSend() error    { return FromStatus(s.ClientStream.CloseSend()) }

func (s *readingStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, FromStatus(err)
}
