// Package trainerpb holds the messages of the trainer's service. They stay in the client and
// the server of package trainer, which convert them; docs/format/rpc.md explains them.
package trainerpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative trainer.proto
