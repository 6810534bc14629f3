package remoteblob

import (
	"context"
	"errors"
	"fmt"

	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// contentType spares stores from guessing.
const contentType = "application/octet-stream"

// chunkBytes is how much of a blob goes into one message.
const chunkBytes = 256 << 10

// kinds maps the portable codes to kinds of error, and back.
var kinds = []struct {
	code gcerrors.ErrorCode
	kind error
}{
	{gcerrors.NotFound, tidemill.ErrNotFound},
	{gcerrors.FailedPrecondition, tidemill.ErrExists},
	{gcerrors.AlreadyExists, tidemill.ErrExists},
	{gcerrors.InvalidArgument, tidemill.ErrInvalid},
	{gcerrors.Unimplemented, tidemill.ErrInvalid},
	{gcerrors.PermissionDenied, tidemill.ErrDenied},
	{gcerrors.ResourceExhausted, tidemill.ErrFull},
}

// kindOf gives an error of the served bucket its kind, for the way over the wire.
func kindOf(name string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	code := gcerrors.Code(err)
	for _, k := range kinds {
		if errors.Is(err, k.kind) || k.code == code {
			return fmt.Errorf("%w: blob %s", k.kind, name)
		}
	}
	return fmt.Errorf("%w: blob %s: the store failed: %w", tidemill.ErrUnavailable, name, err)
}

var errUnsupported = fmt.Errorf("%w: a remote store does not keep that", tidemill.ErrInvalid)

// codeOf is the portable code of an error that came over the wire.
func codeOf(err error) gcerrors.ErrorCode {
	switch {
	case errors.Is(err, errUnsupported):
		return gcerrors.Unimplemented
	case errors.Is(err, context.Canceled):
		return gcerrors.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return gcerrors.DeadlineExceeded
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return k.code
		}
	}
	return gcerrors.Unknown
}
