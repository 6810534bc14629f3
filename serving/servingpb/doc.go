// Package servingpb is the generated gRPC surface of the Open Inference Protocol, version 2.
// serving converts it to its own types at the edge; nothing else uses it.
package servingpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative inference.proto
