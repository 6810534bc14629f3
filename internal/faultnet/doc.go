// Package faultnet is a network between processes on one machine that can be broken: each
// process listens on the inside address of a [Port], the others dial the outside one, and a
// [Network] carries what passes between them.
//
// [Network.Cut] holds back everything between two groups of hosts, as a broken cable does: nothing
// is closed, refused or answered meanwhile, and what was under way arrives late. [Network.Mute] and
// [Network.Deafen] do so in one direction. [Network.Worsen] makes
// a host's link slow and lossy, [Network.Reset] breaks its connections. [Network.Heal] ends all of it.
//
// Its one law: bytes of a connection arrive in order or not at all; packets may be lost, and are
// never changed.
package faultnet
