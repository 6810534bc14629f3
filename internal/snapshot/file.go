package snapshot

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// arrowBlob is an Arrow file being written to the store. It is created by the first batch, so
// that a file without rows never exists.
type arrowBlob struct {
	ctx    context.Context // of the one call that this writer lives in
	cancel context.CancelFunc
	bucket *blob.Bucket
	schema *arrow.Schema
	info   Blob

	sum   hash.Hash
	w     *blob.Writer
	buf   *bufio.Writer
	arrow *arrowWriter
}

func newArrowBlob(ctx context.Context, b *blob.Bucket, s *arrow.Schema, info Blob) *arrowBlob {
	ctx, cancel := context.WithCancel(ctx)
	return &arrowBlob{ctx: ctx, cancel: cancel, bucket: b, schema: s, info: info, sum: sha256.New()}
}

// Write takes the file's bytes, counting and hashing them on their way to the store.
func (a *arrowBlob) Write(p []byte) (int, error) {
	n, err := a.w.Write(p)
	a.sum.Write(p[:n])
	a.info.Bytes += int64(n)
	return n, err
}

// batch appends a record batch of one shard; shard < 0 where there are none.
func (a *arrowBlob) batch(shard int, columns ...arrow.Array) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if a.w == nil {
		w, err := a.bucket.NewWriter(a.ctx, a.info.Name, &blob.WriterOptions{ContentType: contentType, IfNotExist: true})
		if err != nil {
			return createError(a.info.Name, err)
		}
		a.w, a.buf = w, bufio.NewWriterSize(a, 256<<10)
		if a.arrow, err = newArrowWriter(a.buf, a.schema); err != nil {
			return err
		}
	}
	if err := a.arrow.write(columns...); err != nil {
		return createError(a.info.Name, err)
	}
	a.info.Rows += int64(columns[0].Len())
	if shard < 0 {
		return nil
	}
	n := len(a.info.Shards)
	if n == 0 || a.info.Shards[n-1] != shard {
		a.info.Shards, n = append(a.info.Shards, shard), n+1
		if a.info.Table != "" {
			a.info.ShardRows = append(a.info.ShardRows, 0)
		}
	}
	if a.info.Table != "" {
		a.info.ShardRows[n-1] += int64(columns[0].Len())
	}
	return nil
}

// close finishes the blob, or discards it when err, the fate of the batches, is not nil.
func (a *arrowBlob) close(err error) (Blob, error) {
	defer a.cancel()
	if a.w == nil {
		return a.info, err
	}
	if err == nil {
		if err = a.arrow.close(); err == nil {
			err = a.buf.Flush()
		}
		err = createError(a.info.Name, err)
	}
	if err != nil {
		a.cancel() // a writer whose context has ended publishes nothing
		_ = a.w.Close()
		return Blob{}, err
	}
	a.info.SHA256 = hex.EncodeToString(a.sum.Sum(nil))
	err = createError(a.info.Name, a.w.Close())
	if errors.Is(err, tidemill.ErrExists) {
		if _, same := fetch(a.ctx, a.bucket, a.info); same == nil {
			return a.info, nil
		}
		return Blob{}, fmt.Errorf("%w, with other bytes", err)
	}
	return a.info, err
}

// fetch returns the bytes of a blob after it has verified them. A blob that is missing or has
// other bytes wraps tidemill.ErrCorrupt and is named.
func fetch(ctx context.Context, b *blob.Bucket, info Blob) ([]byte, error) {
	data, err := readAll(ctx, b, info.Name, info.Bytes)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w: blob %s is missing", err, tidemill.ErrCorrupt, info.Name)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != info.Bytes {
		return nil, corrupt(info.Name, "it has %d bytes, and %d were written", len(data), info.Bytes)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != info.SHA256 {
		return nil, corrupt(info.Name, "its SHA-256 is another one")
	}
	return data, nil
}

// put creates a blob of data and describes it. One that is there already with the same bytes
// counts as written.
func put(ctx context.Context, b *blob.Bucket, info Blob, data []byte) (Blob, error) {
	sum := sha256.Sum256(data)
	info.Bytes, info.SHA256 = int64(len(data)), hex.EncodeToString(sum[:])
	err := create(ctx, b, info.Name, data)
	if errors.Is(err, tidemill.ErrExists) {
		if _, same := fetch(ctx, b, info); same == nil {
			return info, nil
		}
		return Blob{}, fmt.Errorf("%w, with other bytes", err)
	}
	return info, err
}
