package snapshot

import (
	"context"
	"errors"
	"fmt"

	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
)

// storeError gives an error of a bucket its kind and says what was being done to which blob.
// Context errors stay what they are.
func storeError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return fmt.Errorf("%s: blob %s: %w", op, name, tidemill.ErrNotFound)
	case gcerrors.AlreadyExists:
		return fmt.Errorf("%s: blob %s: %w", op, name, tidemill.ErrExists)
	case gcerrors.InvalidArgument, gcerrors.Unimplemented:
		return fmt.Errorf("%s %s: %w: %w", op, name, tidemill.ErrInvalid, err)
	case gcerrors.PermissionDenied:
		return fmt.Errorf("%s %s: %w: %w", op, name, tidemill.ErrDenied, err)
	case gcerrors.ResourceExhausted:
		return fmt.Errorf("%s %s: %w: %w", op, name, tidemill.ErrFull, err)
	default:
		return fmt.Errorf("%s %s: %w: %w", op, name, tidemill.ErrUnavailable, err)
	}
}

// createError is storeError for a create-only write, where a failed precondition means that
// the name is taken.
func createError(name string, err error) error {
	if gcerrors.Code(err) == gcerrors.FailedPrecondition && !errors.Is(err, tidemill.ErrUnavailable) {
		return fmt.Errorf("create blob %s: %w", name, tidemill.ErrExists)
	}
	return storeError("create", name, err)
}

// kinds are the error kinds that a driver of ours may already have chosen.
var kinds = []error{
	tidemill.ErrInvalid, tidemill.ErrNotFound, tidemill.ErrExists, tidemill.ErrFenced,
	tidemill.ErrNotReady, tidemill.ErrConflict, tidemill.ErrCorrupt, tidemill.ErrFull,
	tidemill.ErrUnavailable, tidemill.ErrDenied,
}

// corrupt names the blob and what is wrong with it, and wraps tidemill.ErrCorrupt.
func corrupt(name, format string, args ...any) error {
	return fmt.Errorf("blob %s is %w: %s", name, tidemill.ErrCorrupt, fmt.Sprintf(format, args...))
}
