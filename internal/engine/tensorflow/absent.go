//go:build !tensorflow

package tensorflow

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Driver says that this program was built without TensorFlow, and how to get one with it.
func Driver() engine.Driver {
	return engine.Driver{
		Name: Name,
		Err:  tidemill.Invalid("this program was built without the engine tensorflow", "build one with `make tensorflow`, or use engine: native"),
	}
}
