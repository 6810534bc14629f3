package remoteblob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/driver"
	"gocloud.dev/gcerrors"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot/storepb"
)

// Open returns the store that the other end of conn serves. Closing it leaves conn, which is
// the caller's, open. Errors keep their kind: errors.Is finds tidemill.ErrNotFound and so on,
// gcerrors.Code the portable code.
func Open(conn grpc.ClientConnInterface) *blob.Bucket {
	return blob.NewBucket(&bucket{storepb.NewStoreClient(conn)})
}

// bucket is a driver.Bucket over a client of the store service.
type bucket struct{ client storepb.StoreClient }

func (b *bucket) Attributes(ctx context.Context, name string) (*driver.Attributes, error) {
	in, err := b.client.Stat(ctx, &storepb.StatRequest{Name: name})
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	return &driver.Attributes{ContentType: contentType, Size: in.GetSize(), ModTime: modTime(in),
		ETag: fmt.Sprintf("\"%x-%x\"", in.GetModTimeNs(), in.GetSize())}, nil
}

func modTime(in *storepb.Info) time.Time { return time.Unix(0, in.GetModTimeNs()) }

func (b *bucket) ListPaged(ctx context.Context, opts *driver.ListOptions) (*driver.ListPage, error) {
	if opts.BeforeList != nil {
		if err := opts.BeforeList(noAs); err != nil {
			return nil, err
		}
	}
	reply, err := b.client.List(ctx, &storepb.ListRequest{Prefix: opts.Prefix, Delimiter: opts.Delimiter,
		PageSize: int32(min(opts.PageSize, math.MaxInt32)), PageToken: opts.PageToken})
	if err != nil {
		return nil, rpc.FromStatus(err)
	}
	page := &driver.ListPage{NextPageToken: reply.GetNextPageToken()}
	for _, o := range reply.GetObjects() {
		object := &driver.ListObject{Key: o.GetName(), IsDir: o.GetIsFolder()}
		if !object.IsDir {
			object.Size, object.ModTime = o.GetInfo().GetSize(), modTime(o.GetInfo())
		}
		page.Objects = append(page.Objects, object)
	}
	return page, nil
}

func noAs(any) bool { return false }

func (b *bucket) NewRangeReader(ctx context.Context, name string, offset, length int64, opts *driver.ReaderOptions) (driver.Reader, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := b.client.Get(ctx, &storepb.GetRequest{Name: name, Offset: offset, Length: length})
	var first *storepb.GetReply
	if err == nil {
		first, err = stream.Recv()
	}
	if err == nil && first.GetInfo() == nil {
		err = fmt.Errorf("%w: the store's answer begins without the blob's size", tidemill.ErrUnavailable)
	}
	if err == nil && opts.BeforeRead != nil {
		err = opts.BeforeRead(noAs)
	}
	if err != nil {
		cancel()
		return nil, rpc.FromStatus(err)
	}
	size := first.GetInfo().GetSize()
	left := max(0, size-offset)
	if length >= 0 {
		left = min(left, length)
	}
	return &reader{stream: stream, cancel: cancel, left: left,
		attrs: driver.ReaderAttributes{ContentType: contentType, Size: size, ModTime: modTime(first.GetInfo())}}, nil
}

type reader struct {
	stream grpc.ServerStreamingClient[storepb.GetReply]
	cancel context.CancelFunc
	chunk  []byte // rest of the last message
	left   int64  // bytes still to come, chunk included
	attrs  driver.ReaderAttributes
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.chunk) == 0 {
		reply, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			if r.left != 0 {
				return 0, fmt.Errorf("%w: the store ended its answer %d bytes early", tidemill.ErrUnavailable, r.left)
			}
			return 0, io.EOF
		}
		if err != nil {
			return 0, rpc.FromStatus(err)
		}
		if r.chunk = reply.GetChunk(); int64(len(r.chunk)) > r.left {
			return 0, fmt.Errorf("%w: the store sent more than the blob's size", tidemill.ErrUnavailable)
		}
	}
	n := copy(p, r.chunk)
	r.chunk = r.chunk[n:]
	r.left -= int64(n)
	return n, nil
}

func (r *reader) Close() error {
	r.cancel()
	return nil
}

func (r *reader) Attributes() *driver.ReaderAttributes { return &r.attrs }
func (r *reader) As(any) bool                          { return false }

func (b *bucket) NewTypedWriter(ctx context.Context, name, _ string, opts *driver.WriterOptions) (driver.Writer, error) {
	if len(opts.Metadata) > 0 || opts.CacheControl != "" || opts.ContentDisposition != "" || opts.ContentEncoding != "" || opts.ContentLanguage != "" {
		return nil, errUnsupported
	}
	if opts.BeforeWrite != nil {
		if err := opts.BeforeWrite(noAs); err != nil {
			return nil, err
		}
	}
	streamCtx, cancel := context.WithCancel(ctx)
	stream, err := b.client.Put(streamCtx)
	if err != nil {
		cancel()
		return nil, rpc.FromStatus(err)
	}
	w := &writer{ctx: ctx, cancel: cancel, stream: stream, sum: sha256.New()}
	head := &storepb.PutHead{Name: name, CreateOnly: opts.IfNotExist}
	if !w.send(&storepb.PutRequest{Part: &storepb.PutRequest_Head{Head: head}}) {
		return nil, w.err
	}
	return w, nil
}

// writer is one put.
type writer struct {
	ctx    context.Context // ends the write, as the driver's contract wants it
	cancel context.CancelFunc
	stream grpc.ClientStreamingClient[storepb.PutRequest, storepb.PutReply]
	buf    []byte // not sent yet; a message's own memory
	sum    hash.Hash
	size   int64
	err    error // first failure: the put is over
}

// send sends one message. A failure ends the put, with the server's reason if it gave one.
func (w *writer) send(req *storepb.PutRequest) bool {
	err := w.stream.Send(req)
	if errors.Is(err, io.EOF) {
		_, err = w.stream.CloseAndRecv()
		if err == nil {
			err = fmt.Errorf("%w: the store answered before the blob was sent", tidemill.ErrUnavailable)
		}
	}
	if err != nil {
		w.fail(err)
	}
	return err == nil
}

// fail gives the put up. The server sees the stream end without a tail and publishes nothing.
func (w *writer) fail(err error) {
	w.err = rpc.FromStatus(err)
	w.cancel()
}

func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	written := 0
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = make([]byte, 0, chunkBytes)
		}
		n := min(len(p), chunkBytes-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		written += n
		if len(w.buf) == chunkBytes && !w.flush() {
			return written, w.err
		}
	}
	return written, nil
}

// flush sends what is buffered.
func (w *writer) flush() bool {
	if len(w.buf) == 0 {
		return true
	}
	w.sum.Write(w.buf)
	w.size += int64(len(w.buf))
	chunk := w.buf
	w.buf = nil // Send may use it later
	return w.send(&storepb.PutRequest{Part: &storepb.PutRequest_Chunk{Chunk: chunk}})
}

// Close sends the tail and waits until the blob is durable.
func (w *writer) Close() error {
	defer w.cancel()
	if err := w.ctx.Err(); err != nil && w.err == nil {
		w.fail(err)
	}
	if w.err != nil || !w.flush() {
		return w.err
	}
	tail := &storepb.PutTail{Size: w.size, Sha256: w.sum.Sum(nil)}
	if !w.send(&storepb.PutRequest{Part: &storepb.PutRequest_Tail{Tail: tail}}) {
		return w.err
	}
	if _, err := w.stream.CloseAndRecv(); err != nil {
		w.fail(err)
	}
	return w.err
}

func (b *bucket) Delete(ctx context.Context, name string, opts *driver.DeleteOptions) error {
	if opts.BeforeDelete != nil {
		if err := opts.BeforeDelete(noAs); err != nil {
			return err
		}
	}
	_, err := b.client.Delete(ctx, &storepb.DeleteRequest{Name: name})
	return rpc.FromStatus(err)
}

// Copy goes through this process: rare, and not worth a call of its own.
func (b *bucket) Copy(ctx context.Context, dst, src string, opts *driver.CopyOptions) error {
	r, err := b.NewRangeReader(ctx, src, 0, -1, &driver.ReaderOptions{})
	if err != nil {
		return err
	}
	defer r.Close()
	if opts.BeforeCopy != nil {
		if err := opts.BeforeCopy(noAs); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewTypedWriter(ctx, dst, contentType, &driver.WriterOptions{})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel()
		_ = w.Close()
		return err
	}
	return w.Close()
}

func (b *bucket) SignedURL(context.Context, string, *driver.SignedURLOptions) (string, error) {
	return "", errUnsupported
}

func (b *bucket) As(any) bool                            { return false }
func (b *bucket) ErrorAs(error, any) bool                { return false }
func (b *bucket) ErrorCode(err error) gcerrors.ErrorCode { return codeOf(err) }

// Close does nothing: the connection is the caller's.
func (b *bucket) Close() error { return nil }
