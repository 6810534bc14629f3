// Package node joins the roles to one process: it opens listeners and stores, finds the other
// nodes, holds the session lease, and runs stream, worker, ps, trainer and serving side by
// side. It is the one place that knows all roles; they do not know each other.
//
// Run's order: data directory, stream (or the way to it, by gossip), lease stores, RPC server,
// session lease, roles. It ends in the reverse order.
package node
