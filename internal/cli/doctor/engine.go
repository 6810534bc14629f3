package doctor

import (
	"errors"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
)

// engines says which engines this program has, and whether they load. One that is not there is no
// fault: a job that asks for it is refused with the same words.
func (e *exam) engines() {
	for _, d := range model.Engines() {
		check := "engine " + d.Name
		var in *tidemill.InputError
		switch {
		case errors.As(d.Err, &in):
			e.note(check, OK, "not here: %s", "", in.What+"; "+in.Remedy)
		case d.Err != nil:
			e.note(check, OK, "not here: %v", "", d.Err)
		case d.Version != "":
			e.note(check, OK, "version %s, numerics %s", "", d.Version, strings.Join(d.Profiles, ", "))
		default:
			e.note(check, OK, "numerics %s", "", strings.Join(d.Profiles, ", "))
		}
	}
	e.note("engine cuda", OK, "not built: this program has no engine of its own for GPUs", "")
}
