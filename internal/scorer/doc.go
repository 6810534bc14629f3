// Package scorer computes predictions in a process of its own. Engines that run foreign code may
// end their process; what serves, and what judges candidates, must not end with them. So both keep
// features, tables and dense tensors themselves, and leave the forward pass of such an engine to a
// child: the same binary, started by the hidden command of Command.
//
// A Host makes engine.Models that forward to children. A child is given its model once, and dense
// tensors once per set; then each request is one message and one answer on one of its lanes, a
// pair of connected sockets that only the two processes have. A child that ends, answers nonsense
// or does not answer in time is replaced, and the request is computed once more by the new one: a
// second failure is the request's error (tidemill.ErrNotReady), and nobody else's.
//
// A child is in a process group of its own, its memory is limited, and it ends when its lanes
// close, and so with its parent.
package scorer
