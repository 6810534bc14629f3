package trainer

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/spec"
)

// able leaves of workers (in place), of ps and of what each offers those who have the engine, and
// the numeric profiles of that engine alone. Who says nothing of profiles is taken to have every
// engine that needs no build of its own.
func able(name string, workers map[string]int, ps []string, profiles map[string][]string) ([]string, map[string][]string) {
	const everybody = "native"
	of := make(map[string][]string, len(profiles))
	for id, all := range profiles {
		own := slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !strings.HasPrefix(p, name+"/") })
		if len(own) > 0 || len(all) == 0 && name == everybody {
			of[id] = own
		}
	}
	without := func(id string) bool {
		_, ok := of[id]
		return !ok && (name != everybody || len(profiles[id]) > 0)
	}
	maps.DeleteFunc(workers, func(id string, _ int) bool { return without(id) })
	return slices.DeleteFunc(slices.Clone(ps), without), of
}

// noEngine places the error that the spec's engine cannot be used here.
func noEngine(doc *spec.Document, err error) error {
	var in *tidemill.InputError
	if errors.As(err, &in) {
		return &tidemill.InputError{Place: doc.Place("engine"), What: in.What, Remedy: in.Remedy}
	}
	return err
}

// compile compiles the job. While the store that has its graph file cannot be reached it waits.
func (r *run) compile(ctx context.Context) (*model.Model, error) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		m, err := model.CompileIn(ctx, r.t.cfg.Bucket, &r.spec, r.schema, engine.Options{})
		if err == nil || r.spec.Architecture.Graph == "" || ctx.Err() != nil || errors.Is(err, tidemill.ErrInvalid) ||
			errors.Is(err, tidemill.ErrNotFound) || errors.Is(err, tidemill.ErrCorrupt) || errors.Is(err, tidemill.ErrDenied) {
			return m, err
		}
		r.log.Warn("cannot read the job's graph file yet", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}
