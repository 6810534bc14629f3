package remoteblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/snapshot/storepb"
	"github.com/tidemill/tidemill/internal/snapshot/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves b in this process until the test ends, and returns a connection to it and a
// function that cuts every call off.
func serve(t *testing.T, b *blob.Bucket) (*grpc.ClientConn, func()) {
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
	storepb.RegisterStoreServer(srv, NewServer(b, Guards{}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis)
	}()
	conn, err := rpc.Dial("store:1", rpc.ClientConfig{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		<-done
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn, srv.Stop
}

func TestStore(t *testing.T) {
	t.Run("Memory", func(t *testing.T) {
		storetest.Run(t, storetest.Options{AnyName: true}, func(t *testing.T) *blob.Bucket {
			conn, _ := serve(t, memblob.OpenBucket(nil))
			return Open(conn)
		})
	})
	t.Run("Files", func(t *testing.T) {
		storetest.Run(t, storetest.Options{}, func(t *testing.T) *blob.Bucket {
			b, err := fileblob.Open(filepath.Join(t.TempDir(), "store"), fileblob.Options{})
			if err != nil {
				t.Fatal(err)
			}
			conn, _ := serve(t, b)
			return Open(conn)
		})
	})
}

// TestKinds checks that errors keep their kind on the whole way.
func TestKinds(t *testing.T) {
	ctx := context.Background()
	files, err := fileblob.Open(filepath.Join(t.TempDir(), "store"), fileblob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	conn, stop := serve(t, files)
	b := Open(conn)
	defer b.Close()
	only := &blob.WriterOptions{IfNotExist: true}
	if err := b.WriteAll(ctx, "a", nil, only); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteAll(ctx, "a", nil, only); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("create of a taken name: %v", err)
	}
	if _, err := b.ReadAll(ctx, "b"); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("read of nothing: %v", err)
	}
	if err := b.WriteAll(ctx, "../a", nil, nil); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("write outside: %v", err)
	}
	if err := b.WriteAll(ctx, "m", nil, &blob.WriterOptions{Metadata: map[string]string{"k": "v"}}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("write with metadata: %v", err)
	}
	stop()
	if err := b.WriteAll(ctx, "c", nil, nil); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("write without a server: %v", err)
	}
	if _, err := b.ReadAll(ctx, "a"); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("read without a server: %v", err)
	}
}

// TestUnconfirmed sends puts that do not end as they should: none may leave a blob.
func TestUnconfirmed(t *testing.T) {
	head := &storepb.PutRequest{Part: &storepb.PutRequest_Head{Head: &storepb.PutHead{Name: "x"}}}
	chunk := &storepb.PutRequest{Part: &storepb.PutRequest_Chunk{Chunk: []byte("bytes")}}
	sum := sha256.Sum256([]byte("bytes"))
	tail := func(size int64, sum []byte) *storepb.PutRequest {
		return &storepb.PutRequest{Part: &storepb.PutRequest_Tail{Tail: &storepb.PutTail{Size: size, Sha256: sum}}}
	}
	for _, c := range []struct {
		name  string
		parts []*storepb.PutRequest
		kind  error // nil: it must succeed
	}{
		{"whole", []*storepb.PutRequest{head, chunk, tail(5, sum[:])}, nil},
		{"no tail", []*storepb.PutRequest{head, chunk}, tidemill.ErrInvalid},
		{"nothing", nil, tidemill.ErrInvalid},
		{"no head", []*storepb.PutRequest{chunk}, tidemill.ErrInvalid},
		{"two heads", []*storepb.PutRequest{head, head}, tidemill.ErrInvalid},
		{"empty part", []*storepb.PutRequest{head, {}}, tidemill.ErrInvalid},
		{"wrong size", []*storepb.PutRequest{head, chunk, tail(4, sum[:])}, tidemill.ErrCorrupt},
		{"wrong sum", []*storepb.PutRequest{head, chunk, tail(5, make([]byte, 32))}, tidemill.ErrCorrupt},
		{"a chunk less", []*storepb.PutRequest{head, tail(5, sum[:])}, tidemill.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := memblob.OpenBucket(nil)
			conn, _ := serve(t, mem)
			stream, err := storepb.NewStoreClient(conn).Put(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range c.parts {
				if err := stream.Send(p); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			if _, err := stream.CloseAndRecv(); !errors.Is(err, c.kind) {
				t.Errorf("it ended with %v, want %v", err, c.kind)
			}
			if ok, err := mem.Exists(context.Background(), "x"); err != nil || ok != (c.kind == nil) {
				t.Errorf("afterwards the blob exists: %v, %v", ok, err)
			}
		})
	}
}

// TestCutOff stops the server in the middle of a put and of a get.
func TestCutOff(t *testing.T) {
	ctx := context.Background()
	mem := memblob.OpenBucket(nil)
	if err := mem.WriteAll(ctx, "big", make([]byte, 16<<20), nil); err != nil {
		t.Fatal(err)
	}
	conn, stop := serve(t, mem)
	b := Open(conn)
	defer b.Close()
	w, err := b.NewWriter(ctx, "x", &blob.WriterOptions{ContentType: contentType})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, chunkBytes+1)); err != nil {
		t.Fatal(err)
	}
	r, err := b.NewReader(ctx, "big", nil)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := w.Close(); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("close of a put that was cut off: %v", err)
	}
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("a get that was cut off gave %d bytes and %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if ok, err := mem.Exists(ctx, "x"); ok || err != nil {
		t.Errorf("a put that was cut off left a blob: %v, %v", ok, err)
	}
}

// TestShortAnswer lets a server end its answer early, as one would whose blob was replaced.
func TestShortAnswer(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts []*storepb.GetReply
	}{
		{"no info", nil},
		{"chunk first", []*storepb.GetReply{{Part: &storepb.GetReply_Chunk{Chunk: []byte("x")}}}},
		{"too little", []*storepb.GetReply{{Part: &storepb.GetReply_Info{Info: info(10, time.Unix(1, 0))}}, {Part: &storepb.GetReply_Chunk{Chunk: []byte("x")}}}},
		{"too much", []*storepb.GetReply{{Part: &storepb.GetReply_Info{Info: info(2, time.Unix(1, 0))}}, {Part: &storepb.GetReply_Chunk{Chunk: []byte("xyz")}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lis := bufconn.Listen(1 << 20)
			srv := grpc.NewServer()
			storepb.RegisterStoreServer(srv, &getter{parts: c.parts})
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = srv.Serve(lis)
			}()
			conn, err := rpc.Dial("store:1", rpc.ClientConfig{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				conn.Close()
				srv.Stop()
				<-done
			}()
			b := Open(conn)
			defer b.Close()
			if got, err := b.ReadAll(context.Background(), "x"); err == nil {
				t.Errorf("it was taken for %d bytes", len(got))
			}
		})
	}
}

// getter answers every get with the same parts.
type getter struct {
	storepb.UnimplementedStoreServer
	parts []*storepb.GetReply
}

func (g *getter) Get(_ *storepb.GetRequest, stream grpc.ServerStreamingServer[storepb.GetReply]) error {
	for _, p := range g.parts {
		if err := stream.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// FuzzPut feeds the server puts made of arbitrary bytes: a blob appears only if the tail is
// right, and then with exactly the chunks' bytes.
func FuzzPut(f *testing.F) {
	f.Add([]byte("abc"), []byte("def"), int64(6), true)
	f.Add([]byte(""), []byte(""), int64(0), true)
	f.Add([]byte("abc"), []byte("def"), int64(5), false)
	f.Fuzz(func(t *testing.T, one, two []byte, size int64, right bool) {
		want := append(bytes.Clone(one), two...)
		sum := sha256.Sum256(want)
		if !right {
			sum[0] ^= 1
		}
		mem := memblob.OpenBucket(nil)
		defer mem.Close()
		stream := &puts{parts: []*storepb.PutRequest{
			{Part: &storepb.PutRequest_Head{Head: &storepb.PutHead{Name: "x", CreateOnly: true}}},
			{Part: &storepb.PutRequest_Chunk{Chunk: one}}, {Part: &storepb.PutRequest_Chunk{Chunk: two}},
			{Part: &storepb.PutRequest_Tail{Tail: &storepb.PutTail{Size: size, Sha256: sum[:]}}},
		}}
		err := NewServer(mem, Guards{}).Put(stream)
		got, readErr := mem.ReadAll(context.Background(), "x")
		if ok := right && size == int64(len(want)); ok != (err == nil) || ok != (readErr == nil) || ok && !bytes.Equal(got, want) {
			t.Fatalf("put: %v; then %q, %v", err, got, readErr)
		}
	})
}

// puts is the server's end of a put whose parts are known.
type puts struct {
	grpc.ServerStream
	parts []*storepb.PutRequest
}

func (p *puts) Context() context.Context { return context.Background() }

func (p *puts) Recv() (*storepb.PutRequest, error) {
	if len(p.parts) == 0 {
		return nil, io.EOF
	}
	next := p.parts[0]
	p.parts = p.parts[1:]
	return next, nil
}

func (p *puts) SendAndClose(*storepb.PutReply) error { return nil }
