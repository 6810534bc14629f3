package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill"
)

// DefaultMaxMessage is the largest message in bytes that servers and clients take or send.
const DefaultMaxMessage = 64 << 20

// Metrics receives every finished call. Calls come from many goroutines.
type Metrics interface {
	// Call reports the full method, the code it ended with and how long it took.
	Call(method string, code codes.Code, took time.Duration)
}

// ServerConfig says how a server behaves.
type ServerConfig struct {
	// Credentials come from Security.ServerCredentials; nil is plain text.
	Credentials credentials.TransportCredentials
	// Authorize decides before each call, by the peer in ctx and the full method
	// ("/package.Service/Method"). Nil refuses all. Policy.Authorize is the usual one.
	Authorize func(ctx context.Context, fullMethod string) error
	// Protocols are the versions of the cluster's protocol that this process speaks; callers who
	// speak none of them are refused with tidemill.ErrInvalid. The zero value asks nobody.
	Protocols tidemill.Protocols
	// MaxMessage in bytes, received and sent; 0 means DefaultMaxMessage.
	MaxMessage int
	// MaxStreams is how many calls one connection may have open; 0 means 1024.
	MaxStreams uint32
	// Logger receives panics and the errors whose text callers do not get. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics Metrics
}

// NewServer returns a server for services to be registered on; see Serve.
func NewServer(cfg ServerConfig) *grpc.Server {
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 1024
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &guard{cfg: cfg}
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(cfg.MaxMessage),
		grpc.MaxSendMsgSize(cfg.MaxMessage),
		grpc.MaxConcurrentStreams(cfg.MaxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		// Half of what clients made by Dial do.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.WaitForHandlers(true),
		//nolint:staticcheck // its successor is registered for the process, by an init
		grpc.RPCDecompressor(deflate{cfg.MaxMessage}),
	}
	if cfg.Credentials != nil {
		opts = append(opts, grpc.Creds(cfg.Credentials))
	}
	return grpc.NewServer(opts...)
}

// guard is what every call passes: authorisation, recovery, the error's way out, metrics.
type guard struct{ cfg ServerConfig }

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() { err = g.finish(ctx, info.FullMethod, start, recover(), err) }()
	if err := g.authorize(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() { err = g.finish(ss.Context(), info.FullMethod, start, recover(), err) }()
	if err := g.authorize(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}

func (g *guard) authorize(ctx context.Context, method string) error {
	if g.cfg.Authorize == nil {
		return fmt.Errorf("%s is not allowed to anyone on this server: %w", method, tidemill.ErrDenied)
	}
	if err := g.cfg.Authorize(ctx, method); err != nil {
		return err
	}
	return understand(ctx, g.cfg.Protocols)
}

func (g *guard) finish(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	out := ToStatus(err)
	if panicked != nil {
		g.cfg.Logger.ErrorContext(ctx, "a call panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		out = status.Error(codes.Internal, internal)
	} else if status.Code(out) == codes.Internal {
		g.cfg.Logger.ErrorContext(ctx, "a call failed", "method", method, "error", err)
	}
	if g.cfg.Metrics != nil {
		g.cfg.Metrics.Call(method, status.Code(out), time.Since(start))
	}
	return out
}

// Serve runs srv on lis until ctx ends, then lets calls in progress finish for at most grace
// before it cuts them off. When it returns no handler is running, and lis is closed. It
// returns nil when ctx ended.
func Serve(ctx context.Context, srv *grpc.Server, lis net.Listener, grace time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	select {
	case err := <-done:
		srv.Stop()
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil
		}
		return err
	case <-ctx.Done():
	}
	cut := time.AfterFunc(grace, srv.Stop)
	srv.GracefulStop()
	cut.Stop()
	srv.Stop() // waits for the handlers if the cut came first
	<-done
	return nil
}
