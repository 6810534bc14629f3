// Package serving answers prediction requests with the published versions of models.
//
// A Server follows the champion chain of each model in the store. A new champion is read,
// verified, loaded, warmed up and compared with the predictions that the trainer noted for its
// probe rows, all beside the request path; then one atomic pointer flips. Requests come as the
// Open Inference Protocol (KServe, Triton) over gRPC (Register) and HTTP (Handler): the
// stream's own columns in, one tensor per column, `prediction` out, with the version that
// answered.
//
// Its laws: traffic reaches a version only through a champion record. A request pins one
// version for its whole life, and a version is let go only after its last reader. A replica
// never goes back except by a record that says so. A version that cannot be loaded leaves the
// one that serves untouched, and loading never makes a replica unready.
//
// request.go holds what the protocols have in common, tensor.go turns tensors into columns,
// grpc.go and http.go are the edges, registry.go and watch.go own the versions.
package serving
