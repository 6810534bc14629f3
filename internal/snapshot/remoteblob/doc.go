// Package remoteblob reaches a store over gRPC: the node that has the object store serves it
// with NewServer, the others Open it and get the same *blob.Bucket as if it were theirs.
//
// A write is one stream that ends with the size and SHA-256 of what it carried; the server
// publishes the blob only if they agree, so a cut connection leaves nothing visible and a
// create-only write stays one across the wire. When the connection breaks after the last byte
// the client gets tidemill.ErrUnavailable and does not know: it reads the name to find out.
//
// What the portable type can do beyond names, bytes, ranges, listing and deleting (metadata,
// signed URLs) is refused.
package remoteblob
