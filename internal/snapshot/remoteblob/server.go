package remoteblob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"gocloud.dev/blob"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot/storepb"
)

// maxPage is how many objects one List answer holds at most.
const maxPage = 1000

// Server serves a bucket. It owns nothing: the bucket is closed by whoever opened it, after
// the gRPC server has stopped.
type Server struct {
	storepb.UnimplementedStoreServer
	bucket *blob.Bucket
	may    Guards
}

// Guards decide who may read, or put and delete, the blob of a name: an error refuses. Nil lets
// everybody whom the method lets.
type Guards struct {
	Read, Write func(ctx context.Context, name string) error
}

// NewServer returns a service over b, to be registered on a server of internal/rpc, which
// gives its errors their codes and decides who may call it.
func NewServer(b *blob.Bucket, may Guards) *Server {
	anybody := func(context.Context, string) error { return nil }
	if may.Read == nil {
		may.Read = anybody
	}
	if may.Write == nil {
		may.Write = anybody
	}
	return &Server{bucket: b, may: may}
}

// Put implements storepb.StoreServer.
func (s *Server) Put(stream grpc.ClientStreamingServer[storepb.PutRequest, storepb.PutReply]) error {
	req, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	head := req.GetHead()
	if head == nil {
		return tidemill.Invalid("a put begins with something else than its head", "send name and create_only first")
	}
	if err := s.may.Write(stream.Context(), head.GetName()); err != nil {
		return err
	}
	// Ending this context is how a write is given up: a writer closed after that publishes
	// nothing.
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, head.GetName(), &blob.WriterOptions{ContentType: contentType, IfNotExist: head.GetCreateOnly()})
	if err != nil {
		return kindOf(head.GetName(), err)
	}
	if err := receive(stream, w); err != nil {
		cancel()
		_ = w.Close()
		return kindOf(head.GetName(), err)
	}
	if err := w.Close(); err != nil {
		return kindOf(head.GetName(), err)
	}
	return stream.SendAndClose(&storepb.PutReply{})
}

// receive copies the chunks of a put to w and returns nil only once its tail has confirmed
// them.
func receive(stream grpc.ClientStreamingServer[storepb.PutRequest, storepb.PutReply], w io.Writer) error {
	sum, size := sha256.New(), int64(0)
	for {
		req, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		switch part := req.GetPart().(type) {
		case *storepb.PutRequest_Chunk:
			if _, err := w.Write(part.Chunk); err != nil {
				return err
			}
			sum.Write(part.Chunk)
			size += int64(len(part.Chunk))
		case *storepb.PutRequest_Tail:
			if part.Tail.GetSize() != size || string(part.Tail.GetSha256()) != string(sum.Sum(nil)) {
				return fmt.Errorf("%w on the way: %d bytes came, or others than the %d sent", tidemill.ErrCorrupt, size, part.Tail.GetSize())
			}
			return nil
		default:
			return tidemill.Invalid("a put has a part that is neither chunk nor tail", "send the head once, then chunks, then the tail")
		}
	}
}

// ended says what the end of a put before its tail means.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return tidemill.Invalid("a put ended without its tail", "send size and sha256 last")
	}
	return err
}

// Get implements storepb.StoreServer.
func (s *Server) Get(req *storepb.GetRequest, stream grpc.ServerStreamingServer[storepb.GetReply]) error {
	if req.GetOffset() < 0 {
		return tidemill.Invalid("offset %d", "offsets begin at 0", req.GetOffset())
	}
	if req.GetName() == "" {
		return tidemill.Invalid("a blob without a name", "name it")
	}
	if err := s.may.Read(stream.Context(), req.GetName()); err != nil {
		return err
	}
	r, err := s.bucket.NewRangeReader(stream.Context(), req.GetName(), req.GetOffset(), max(-1, req.GetLength()), nil)
	if err != nil {
		return kindOf(req.GetName(), err)
	}
	defer r.Close()
	if err := stream.Send(&storepb.GetReply{Part: &storepb.GetReply_Info{Info: info(r.Size(), r.ModTime())}}); err != nil {
		return err
	}
	for {
		// A message may be used after Send returns, so each chunk has memory of its own.
		chunk := make([]byte, chunkBytes)
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			if err := stream.Send(&storepb.GetReply{Part: &storepb.GetReply_Chunk{Chunk: chunk[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return kindOf(req.GetName(), err)
		}
	}
}

func info(size int64, modified time.Time) *storepb.Info {
	return &storepb.Info{Size: size, ModTimeNs: modified.UnixNano()}
}

// List implements storepb.StoreServer.
func (s *Server) List(ctx context.Context, req *storepb.ListRequest) (*storepb.ListReply, error) {
	token := req.GetPageToken()
	if len(token) == 0 {
		token = blob.FirstPageToken
	}
	size := int(req.GetPageSize())
	if size <= 0 || size > maxPage {
		size = maxPage
	}
	page, next, err := s.bucket.ListPage(ctx, token, size, &blob.ListOptions{Prefix: req.GetPrefix(), Delimiter: req.GetDelimiter()})
	if err != nil {
		return nil, kindOf(req.GetPrefix(), err)
	}
	reply := &storepb.ListReply{NextPageToken: next}
	for _, o := range page {
		object := &storepb.Object{Name: o.Key, IsFolder: o.IsDir}
		if !o.IsDir {
			object.Info = info(o.Size, o.ModTime)
		}
		reply.Objects = append(reply.Objects, object)
	}
	return reply, nil
}

// Delete implements storepb.StoreServer.
func (s *Server) Delete(ctx context.Context, req *storepb.DeleteRequest) (*storepb.DeleteReply, error) {
	if err := s.may.Write(ctx, req.GetName()); err != nil {
		return nil, err
	}
	if err := s.bucket.Delete(ctx, req.GetName()); err != nil {
		return nil, kindOf(req.GetName(), err)
	}
	return &storepb.DeleteReply{}, nil
}

// Stat implements storepb.StoreServer.
func (s *Server) Stat(ctx context.Context, req *storepb.StatRequest) (*storepb.Info, error) {
	attrs, err := s.bucket.Attributes(ctx, req.GetName())
	if err != nil {
		return nil, kindOf(req.GetName(), err)
	}
	return info(attrs.Size, attrs.ModTime), nil
}
