//go:build !linux

package bench

import (
	"context"

	"github.com/tidemill/tidemill"
)

// disk cannot be made here.
type disk struct{ dir string }

func newDisk(context.Context, string) (*disk, error) {
	return nil, tidemill.Invalid("this system has no mount namespaces", "a full disk needs Linux")
}

func (d *disk) enter() []string            { return nil }
func (d *disk) outside() string            { return d.dir }
func (d *disk) fill(context.Context) error { return nil }
func (d *disk) free(context.Context) error { return nil }
func (d *disk) keep() error                { return nil }
func (d *disk) close()                     {}
