package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
)

// Server error codes that nats.go does not name.
const (
	codeAccountResources      jetstream.ErrorCode = 10002
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeStorageResources      jetstream.ErrorCode = 10047
	codeStoreFailed           jetstream.ErrorCode = 10077
)

func apiCode(err error) jetstream.ErrorCode {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode
	}
	var js jetstream.JetStreamError
	if errors.As(err, &js) && js.APIError() != nil {
		return js.APIError().ErrorCode
	}
	return 0
}

// isConflict reports a lost compare-and-set.
func isConflict(err error) bool {
	switch apiCode(err) {
	case jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return true
	}
	return false
}

// isFull reports that the server refused to store for want of room.
func isFull(err error) bool {
	switch apiCode(err) {
	case codeAccountResources, codeInsufficientResources, codeStorageResources:
		return true
	case codeStoreFailed:
		s := err.Error()
		return strings.Contains(s, "maximum bytes") || strings.Contains(s, "no space left")
	}
	return false
}

// isTransient reports that the request may work when tried again, and may have worked.
func isTransient(err error) bool {
	for _, e := range []error{
		nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection, nats.ErrNoServers,
		jetstream.ErrNoStreamResponse, jetstream.ErrServerShutdown, jetstream.ErrNoHeartbeat,
		context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// wrap names the operation and the kind of a server error that nothing more precise is
// known about.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	op := fmt.Sprintf(format, args...)
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", op, err)
	case isFull(err):
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrFull, err)
	case isTransient(err), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrUnavailable, err)
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrNotFound, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrPermissionViolation):
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrDenied, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
