package rpc

import (
	"compress/zlib"
	"io"
)

// deflate lets clients of other languages send what they call deflate, the zlib format, which
// gRPC for Go lacks. It belongs to one server; the alternative, a codec for the whole process,
// could only be registered by an init. Answers to such requests are not compressed, which
// every client takes.
type deflate struct {
	most int // bytes of a message
}

// Type is the name of the encoding.
func (deflate) Type() string { return "deflate" }

// Do returns the message in r. Of one that is too large it returns a byte more than it may
// have, which gRPC then refuses.
func (d deflate) Do(r io.Reader) ([]byte, error) {
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(io.LimitReader(z, int64(d.most)+1))
}
