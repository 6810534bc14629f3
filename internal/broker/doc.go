// Package broker runs the embedded NATS server that carries a node's streams, key-value
// buckets and events when no outside one is given, and dials outside ones.
//
// Start opens a store folder and returns a running Broker; Conn connects to it inside the
// process, URL tells other processes where it listens; Close stops it in the order that
// loses nothing: connections drained, then the server, then its store.
//
// Its one law: what was acknowledged is on disk. Every write is synced before it is
// acknowledged, and a store that does not open is moved aside, whole and named in the log
// and in Broker.Quarantined, never repaired in place and never deleted.
//
// It is one server. A cluster is the user's own NATS, dialled with Dial.
package broker
