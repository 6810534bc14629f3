//go:build tensorflow

package tensorflow

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Driver is this engine; the library is opened by the first call. Where it cannot be, Err says
// why, and what to do.
func Driver() engine.Driver {
	d := engine.Driver{Name: Name}
	version, err := load()
	if err != nil {
		d.Err = err
		return d
	}
	own := profile(version)
	d.Version, d.Profiles = version, []string{own}
	d.Compile = func(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error) {
		if o.Profile != "" && o.Profile != own {
			return nil, tidemill.Invalid("numeric profile %q, and the engine tensorflow offers %s here", "train where that profile is offered", o.Profile, own)
		}
		if s.Architecture.Kind == tidemill.Graph {
			return compileGraph(s, shape, version, o)
		}
		return compile(s, shape, version, o)
	}
	return d
}
