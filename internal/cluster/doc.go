// Package cluster says which processes there are: who is alive, which roles they have and
// where they listen. It is gossip (memberlist, which only this package imports), so it is
// quick and approximate: two nodes may disagree for seconds, and either side of a cut network
// believes that the other is gone. Therefore it never decides who owns anything; that is
// internal/lease's. It finds peers, and says sooner than a lease's expiry that one seems gone.
//
// [New] takes the address, [Cluster.Run] joins and stays until its context ends, then leaves,
// so that the others know at once. [Cluster.Members] is the present view and
// [Cluster.Watch] says when to look again.
//
// A cut that lasts heals by itself: every node keeps calling the seeds and the members it
// lost, on top of what the library does, which forgets them after half a minute.
//
// What a member says of itself is a JSON object of at most 512 bytes with one-letter keys (see
// member.go); unknown keys are ignored, so that versions can differ during an upgrade.
package cluster
