package trainer

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/spec"
)

// able leaves of workers (in place), of ps and of what each offers those who have the engine, and
// the numeric profiles of that engine alone. Who says nothing of profiles is taken to have every
// engine that needs no build of its own.
func able(engine string, workers map[string]int, ps []string, profiles map[string][]string) ([]string, map[string][]string) {
	const everybody = "native"
	of := make(map[string][]string, len(profiles))
	for id, all := range profiles {
		own := slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !strings.HasPrefix(p, engine+"/") })
		if len(own) > 0 || len(all) == 0 && engine == everybody {
			of[id] = own
		}
	}
	without := func(id string) bool {
		_, ok := of[id]
		return !ok && (engine != everybody || len(profiles[id]) > 0)
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
