package rpc

import (
	"bytes"
	"compress/zlib"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func squeezed(t rapid.TB, data []byte) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDeflate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
		got, err := deflate{200}.Do(bytes.NewReader(squeezed(t, data)))
		if err != nil {
			t.Fatal(err)
		}
		if want := data[:min(201, len(data))]; !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back as %d", len(data), len(got))
		}
	})
	whole := squeezed(t, bytes.Repeat([]byte("abc"), 50))
	for cut := range whole {
		if _, err := (deflate{1000}).Do(bytes.NewReader(whole[:cut])); err == nil {
			t.Fatalf("a message cut off after %d of %d bytes was taken for whole", cut, len(whole))
		}
	}
}

// squeezer is a client's side of deflate.
type squeezer struct{}

func (squeezer) Type() string { return "deflate" }

func (squeezer) Do(w io.Writer, p []byte) error {
	z := zlib.NewWriter(w)
	if _, err := z.Write(p); err != nil {
		return err
	}
	return z.Close()
}

// A server takes compressed messages, and none that is too large once it is decompressed.
func TestDeflatedCalls(t *testing.T) {
	srv := NewServer(ServerConfig{MaxMessage: 10000, Authorize: func(context.Context, string) error { return nil }})
	healthpb.RegisterHealthServer(srv, health.NewServer())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, srv, lis, time.Second) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	//nolint:staticcheck // its successor is registered for the process
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithCompressor(squeezer{}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	if r, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", r, err)
	}
	long := string(bytes.Repeat([]byte("x"), 11000))
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: long}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of 11000 bytes where 10000 are allowed: %v", err)
	}
}

func FuzzDeflate(f *testing.F) {
	f.Add(squeezed(f, []byte("abc")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if out, err := (deflate{1000}).Do(bytes.NewReader(data)); err == nil && len(out) > 1001 {
			t.Fatalf("%d bytes came of a message that may have 1000", len(out))
		}
	})
}
