package model

import (
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/native"
	"github.com/tidemill/tidemill/internal/engine/tensorflow"
)

// Engines lists the engines of this program, those that cannot be used here with the reason. An
// engine with a library of its own is opened by this.
func Engines() []engine.Driver {
	return []engine.Driver{native.Driver(), tensorflow.Driver()}
}

// Profiles lists the numeric profiles that this process can offer, each engine's fastest first.
func Profiles() []string {
	var all []string
	for _, d := range Engines() {
		all = append(all, d.Profiles...)
	}
	return all
}

// EngineOf names the engine that a spec asks for.
func EngineOf(s *tidemill.Spec) string {
	if s.Engine == "" {
		return native.Name
	}
	return s.Engine
}

// Isolated reports whether the engine that a spec asks for runs code which may end its process:
// what must not end with it computes in a process of its own. It opens no library.
func Isolated(s *tidemill.Spec) bool { return EngineOf(s) == tensorflow.Name }

// Driver returns the engine that a spec asks for. Where it cannot be used here, the error says
// why and how it could, and wraps tidemill.ErrInvalid.
func Driver(s *tidemill.Spec) (engine.Driver, error) {
	var d engine.Driver
	switch name := EngineOf(s); name {
	case native.Name:
		d = native.Driver()
	case tensorflow.Name:
		d = tensorflow.Driver()
	default:
		known := []string{native.Name, tensorflow.Name}
		remedy := "use engine: " + native.Name
		if near := tidemill.Nearest(name, known); near != "" && slices.Contains(known, near) {
			remedy = "did you mean " + near + "?"
		}
		return d, tidemill.Invalid("unknown engine %q", remedy, name)
	}
	return d, d.Err
}
