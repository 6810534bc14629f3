// Package rpc is what every gRPC server and client of Tidemill shares: errors that keep their
// kind across the wire, limits, keep-alive, authorisation, certificates and listening.
//
// [NewServer] and [Dial] are the two verbs; [Serve] runs a server until its context ends. A
// handler returns ordinary errors that wrap a kind of package tidemill; the client gets an
// error for which errors.Is finds the same kind. [ToStatus] and [FromStatus] do that, and the
// servers and clients made here apply them by themselves. Messages lose addresses and
// directories on the way, and what has no kind arrives as "internal error" only: its text is
// in the server's log.
//
// The law: nothing is allowed that was not said to be. A server without an Authorize function
// refuses every call, and [Security.CheckListen] refuses to listen beyond the machine without
// certificates or an explicit Insecure.
//
// A certificate names what its holder may act as by URIs in its subject alternative names:
// tidemill://role/<role>. [PeerRoles] reads them, [Policy] compares them, and a client can ask
// for a role of the server that it dials. [MakeCerts] makes such certificates for one's own
// machines; [Security.CheckOwn] says at the start what others would refuse later.
//
// Calls between processes of a cluster carry the versions of its protocol that the caller
// speaks (protocol.go); a server refuses those with which it has none in common.
package rpc
