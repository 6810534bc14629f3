package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
)

// kindOf returns the kind of a broker's or the client's error.
func kindOf(err error) error {
	for _, k := range []error{
		tidemill.ErrInvalid, tidemill.ErrNotFound, tidemill.ErrExists, tidemill.ErrCorrupt, tidemill.ErrDenied,
		tidemill.ErrFull, tidemill.ErrConflict, tidemill.ErrUnavailable,
	} {
		if errors.Is(err, k) {
			return nil // it has one
		}
	}
	is := func(codes ...*kerr.Error) bool {
		for _, c := range codes {
			if errors.Is(err, c) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, context.Canceled):
		return nil
	case is(kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID):
		return tidemill.ErrNotFound
	case is(kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.DelegationTokenAuthorizationFailed, kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState, kerr.SecurityDisabled):
		return tidemill.ErrDenied
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTopicException, kerr.InvalidPartitions, kerr.InvalidReplicationFactor,
		kerr.InvalidReplicaAssignment, kerr.InvalidConfig, kerr.PolicyViolation, kerr.InvalidRequest, kerr.UnsupportedVersion,
		kerr.UnsupportedForMessageFormat, kerr.InvalidRequiredAcks, kerr.InvalidTransactionTimeout):
		return tidemill.ErrInvalid
	case is(kerr.CorruptMessage, kerr.InvalidRecord):
		return tidemill.ErrCorrupt
	case is(kerr.TopicAlreadyExists):
		return tidemill.ErrExists
	}
	return tidemill.ErrUnavailable
}

// wrap names the operation and the kind of an error that nothing more precise is known about.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	op := fmt.Sprintf(format, args...)
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", op, kind, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// passing reports that trying again may help.
func passing(err error) bool {
	return err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, kgo.ErrClientClosed) &&
		(errors.Is(err, tidemill.ErrUnavailable) || kindOf(err) == tidemill.ErrUnavailable)
}

// expired is the error for an offset that the log no longer holds.
func expired(topic string, p int, offset, first int64) error {
	return tidemill.Invalid("topic %q partition %d: offset %d has expired, the first one available is %d",
		"rows between them are lost to this reader; submit the job again with stream.from: earliest or stream.offsets, and raise the topic's retention.ms and retention.bytes",
		topic, p, offset, first)
}

// truncated is the error for an offset beyond the log's end, where there were rows before.
func truncated(topic string, p int, offset, next int64) error {
	return fmt.Errorf("topic %q partition %d ends at %d, before offset %d that was read up to: rows were lost (an unclean leader election, or the topic was made again); submit the job again from offsets that the topic holds: %w",
		topic, p, next, offset, tidemill.ErrCorrupt)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
