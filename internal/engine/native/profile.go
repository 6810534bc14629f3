package native

import (
	"runtime"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Profile is what the bits of this engine's results depend on at an instruction level:
// native/GOARCH/Go version/level. Two processes with equal profiles compute equal bits. The
// blocking of sums is part of the engine's version, and does not depend on the number of threads.
func Profile(level kernel.Level) string { return prefix() + level.String() }

func prefix() string { return Name + "/" + runtime.GOARCH + "/" + runtime.Version() + "/" }

// Name is the engine's in a spec, and begins its numeric profiles.
const Name = "native"

// Driver is this engine, at the level of the profile that is asked for.
func Driver() engine.Driver {
	return engine.Driver{
		Name: Name, Profiles: Profiles(),
		Compile: func(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error) {
			level := kernel.Best()
			if o.Profile != "" {
				var err error
				if level, err = LevelOf(o.Profile); err != nil {
					return nil, err
				}
			}
			return Compile(s, shape, level, o.Cores)
		},
	}
}

// Profiles lists the profiles that this process can offer, the fastest first.
func Profiles() []string {
	levels := kernel.Levels()
	out := make([]string, len(levels))
	for i, l := range levels {
		out[len(levels)-1-i] = Profile(l)
	}
	return out
}

// LevelOf returns the level of a profile. One that this process cannot offer is refused with
// tidemill.ErrInvalid.
func LevelOf(profile string) (kernel.Level, error) {
	if name, ok := strings.CutPrefix(profile, prefix()); ok {
		if l, ok := kernel.ParseLevel(name); ok && l <= kernel.Best() {
			return l, nil
		}
	}
	return 0, tidemill.Invalid("numeric profile %q, and this process offers %s", "train where that profile is offered", profile, strings.Join(Profiles(), ", "))
}
