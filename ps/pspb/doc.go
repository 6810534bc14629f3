// Package pspb holds the messages of the parameter servers' service. They stay in the client
// and the server of package ps, which convert them; docs/format/rpc.md explains them.
package pspb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative ps.proto
