package kafka_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
	"github.com/tidemill/tidemill/internal/source/kafka/brokertest"
	"github.com/tidemill/tidemill/internal/source/sourcetest"
)

// The suite on a real broker: what the fake is lenient about shows here.
func TestBrokerConformance(t *testing.T) {
	b := brokertest.Start(t)
	open := func(t *testing.T, mem memory.Allocator) source.Stream {
		s := stream(t, kafka.Config{Spec: arrowSpec([]string{b.Addr}), Mem: mem})
		// The suite expects a stream of its own.
		ctx := within(t)
		names, err := s.Topics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if err := s.Delete(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	reopen := func(t *testing.T, s source.Stream, mem memory.Allocator) source.Stream {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		b.Kill()
		b.Restart()
		return stream(t, kafka.Config{Spec: arrowSpec([]string{b.Addr}), Mem: mem})
	}
	sourcetest.Run(t, open, sourcetest.Options{Reopen: reopen})
	t.Run("Group", func(t *testing.T) { arrowGroup(t, []string{b.Addr}) })
}
