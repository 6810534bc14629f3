// Package tensorflow is the engine on TensorFlow: the architectures of engine.Plan as graphs made
// here, and graphs exported from elsewhere (internal/graphfile), through the Go binding and
// libtensorflow. It is built with the tag tensorflow, by make tensorflow, which needs cgo; without
// the tag the package only says so.
//
// A Model is one graph; each Stepper has a session of its own, with as many threads as its slot.
// Rows of tables are looked up outside the graph: what an example's ids add up to is fed, and the
// gradient by it is fetched and spread over the rows. Dense tensors are fed as well, so that a
// graph holds no parameter and a session no state.
//
// Its one law: with one thread, equal batches give equal bits on every machine with the same
// Profile, on any Stepper, whatever it computed before.
//
// TensorFlow ends the process on some malformed input. Everything that reaches it is checked
// before: the shapes of what is fed here, the operations of a graph by internal/graphfile. The
// library is opened when the engine is first used, so a program with the engine starts without it.
package tensorflow

// Name is the engine's in a spec, and begins its numeric profiles.
const Name = "tensorflow"
