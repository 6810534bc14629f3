package worker

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
)

// graphPatience is how long the store that has a graph file may be out of reach.
const graphPatience = 30 * time.Second

// compile compiles the job of an assignment. A graph file that cannot be read is asked for again
// for a while.
func (w *Worker) compile(ctx context.Context, a *tidemill.Assignment, schema *arrow.Schema) (*model.Model, error) {
	o := engine.Options{Profile: a.Profile, Threads: w.threads(&a.Spec), Cores: w.cores}
	if sum := a.Spec.Architecture.Graph; sum != "" && w.cfg.Graph != nil {
		patience, cancel := context.WithTimeout(ctx, graphPatience)
		defer cancel()
		for wait := retryFirst; ; wait = min(2*wait, retryMost) {
			var err error
			if o.Graph, err = w.cfg.Graph(patience, sum); err == nil {
				break
			}
			if errors.Is(err, tidemill.ErrNotFound) || errors.Is(err, tidemill.ErrCorrupt) || errors.Is(err, tidemill.ErrDenied) || !pause(patience, wait) {
				return nil, err
			}
		}
	}
	return model.CompileFor(&a.Spec, schema, o)
}

// threads is how many threads one slot may compute with, for engines that have their own: its
// share of the machine, and one alone where sums must not depend on it.
func (w *Worker) threads(s *tidemill.Spec) int {
	if s.Train.Staleness == 0 {
		return 1
	}
	return max(1, runtime.GOMAXPROCS(0)/w.cfg.Slots)
}
