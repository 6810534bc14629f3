package source

import (
	"context"

	"github.com/tidemill/tidemill"
)

// SpecOpener is a Stream that also reaches topics elsewhere, where a job's spec says so.
type SpecOpener interface {
	// OpenSpec opens the topic of a spec, wherever it is. The errors are Open's; what is wrong
	// with how the spec says to get there is tidemill.ErrInvalid.
	OpenSpec(ctx context.Context, spec *tidemill.StreamSpec) (Topic, error)
}

// OpenSpec opens the topic that a job reads: in s, unless the spec says that it is elsewhere.
func OpenSpec(ctx context.Context, s Stream, spec *tidemill.StreamSpec) (Topic, error) {
	if spec.Kafka == nil {
		return s.Open(ctx, spec.Topic)
	}
	if o, ok := s.(SpecOpener); ok {
		return o.OpenSpec(ctx, spec)
	}
	return nil, tidemill.Invalid("topic %q is in Kafka, which this stream does not reach", "leave out stream.kafka", spec.Topic)
}

// OpenLog opens a topic that a job reads by name: the one of its spec, wherever that is, or else
// one of s, such as the job's dead letters.
func OpenLog(ctx context.Context, s Stream, spec *tidemill.StreamSpec, topic string) (Topic, error) {
	if topic == spec.Topic {
		return OpenSpec(ctx, s, spec)
	}
	return s.Open(ctx, topic)
}
