package natskv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
)

// ensure makes the bucket's stream if it does not exist, and refuses one that others made
// with other settings.
func (s *Store) ensure(ctx context.Context) error {
	for {
		actx, cancel := context.WithTimeout(ctx, attempt)
		err := s.ensureOnce(actx)
		cancel()
		var api *jetstream.APIError
		if err == nil || errors.Is(err, tidemill.ErrInvalid) || errors.As(err, &api) && api.Code < 500 {
			return err
		}
		if err := s.pause(ctx, err); err != nil {
			return err
		}
	}
}

func (s *Store) ensureOnce(ctx context.Context) error {
	stream, err := s.js.Stream(ctx, s.stream())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = s.js.CreateStream(ctx, s.config())
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return err
		}
		stream, err = s.js.Stream(ctx, s.stream())
	}
	if err != nil {
		return err
	}
	return s.agree(stream.CachedInfo().Config)
}

// agree checks the settings that this store's promises rest on.
func (s *Store) agree(cfg jetstream.StreamConfig) error {
	want := s.config()
	other := ""
	switch {
	case cfg.Storage != want.Storage:
		other = fmt.Sprintf("is kept in %s storage, not %s", cfg.Storage, want.Storage)
	case cfg.MaxMsgsPerSubject != 1:
		other = "keeps a history of each key"
	case !cfg.AllowMsgTTL:
		other = "does not allow a TTL per entry"
	case !cfg.AllowRollup:
		other = "does not allow purging a key"
	case cfg.Metadata["tidemill_ttl"] != want.Metadata["tidemill_ttl"]:
		other = fmt.Sprintf("has the TTL %q, not %q", cfg.Metadata["tidemill_ttl"], want.Metadata["tidemill_ttl"])
	}
	if other == "" {
		return nil
	}
	return tidemill.Invalid("the bucket %s exists and %s", "give all nodes the same settings, or use another cluster name", s.bucket, other)
}

func (s *Store) stream() string { return "KV_" + s.bucket }

// config is a key-value bucket as the client library lays it out, so that any NATS tool can
// read it, with a first sequence of our own and reads from the leader only.
func (s *Store) config() jetstream.StreamConfig {
	storage := jetstream.FileStorage
	if s.opts.Memory {
		storage = jetstream.MemoryStorage
	}
	return jetstream.StreamConfig{
		Name:                   s.stream(),
		Description:            "Tidemill leases and records",
		Subjects:               []string{"$KV." + s.bucket + ".>"},
		MaxMsgsPerSubject:      1,
		MaxMsgs:                -1,
		MaxBytes:               -1,
		MaxMsgSize:             -1,
		MaxConsumers:           -1,
		Storage:                storage,
		Replicas:               max(1, s.opts.Replicas),
		Discard:                jetstream.DiscardNew,
		Duplicates:             time.Minute,
		AllowRollup:            true,
		DenyDelete:             true,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: markerTTL,
		FirstSeq:               uint64(time.Now().UnixMicro()),
		Metadata:               map[string]string{"tidemill_ttl": s.opts.TTL.String()},
	}
}

// readLast reads the last message of a subject from the stream's leader.
func (s *Store) readLast(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	stream, err := s.js.Stream(ctx, s.stream())
	if err != nil {
		return nil, err
	}
	return stream.GetLastMsgForSubject(ctx, subject)
}
