package snapshot

import (
	"context"
	"io"
	"net/url"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

// OpenBucket opens the store at a URL:
//
//	file:///var/lib/tidemill/store   a directory, made unless it exists (fileblob)
//	mem://                           memory, gone when the process ends
//
// s3:// and gs:// are not supported yet. Anything else wraps tidemill.ErrInvalid; a directory
// that another process uses tidemill.ErrExists. The caller closes the bucket.
func OpenBucket(ctx context.Context, storeURL string) (*blob.Bucket, error) {
	const remedy = "give file:///DIRECTORY or mem://"
	u, err := url.Parse(storeURL)
	if err != nil {
		// The parser's error would repeat the URL, and with it whatever secrets it holds.
		return nil, tidemill.Invalid("the store's URL cannot be parsed", remedy)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, tidemill.Invalid("a %s store takes no user, query or fragment", remedy, u.Scheme)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || u.Path == "" || u.Path == "/" {
			return nil, tidemill.Invalid("the store's URL names no absolute directory", "give file:///DIRECTORY, with three slashes")
		}
		return fileblob.Open(u.Path, fileblob.Options{})
	case "mem":
		if u.Host != "" || u.Path != "" {
			return nil, tidemill.Invalid("a mem store has no name", "give mem://")
		}
		return memblob.OpenBucket(nil), nil
	default:
		return nil, tidemill.Invalid("stores of kind %q are not supported", remedy, clip(u.Scheme))
	}
}

// Copy copies a blob under its name from one store to another, where it must not exist yet
// (tidemill.ErrExists). tidemill.ErrNotFound: there is none. Nothing is verified: whoever reads
// the copy does.
func Copy(ctx context.Context, to, from *blob.Bucket, name string) (err error) {
	r, err := from.NewReader(ctx, name, nil)
	if err != nil {
		return storeError("read", name, err)
	}
	defer r.Close()
	// A write that is cancelled leaves nothing behind.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := to.NewWriter(ctx, name, &blob.WriterOptions{ContentType: contentType, IfNotExist: true})
	if err != nil {
		return createError(name, err)
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel()
		_ = w.Close()
		return storeError("copy", name, err)
	}
	return createError(name, w.Close())
}
