// Package storepb is the wire form of the object store service (store.proto). Only
// internal/snapshot/remoteblob converts it to and from gocloud.dev/blob.
package storepb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative store.proto
