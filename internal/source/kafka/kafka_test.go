package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/kafka"
	"github.com/tidemill/tidemill/internal/source/sourcetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started once per process by libraries, for good.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	)
}

// cluster starts an in-process fake of Kafka.
func cluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.DefaultNumPartitions(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func arrowSpec(brokers []string) *tidemill.KafkaSpec { return &tidemill.KafkaSpec{Brokers: brokers} }

func stream(t testing.TB, cfg kafka.Config) *kafka.Stream {
	t.Helper()
	s, err := kafka.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	brokers := map[source.Stream][]string{}
	open := func(t *testing.T, mem memory.Allocator) source.Stream {
		c := cluster(t)
		s := stream(t, kafka.Config{Spec: arrowSpec(c.ListenAddrs()), Mem: mem})
		brokers[s] = c.ListenAddrs()
		return s
	}
	// The fake outlives the stream that was closed: what a new process knows is what it reads.
	reopen := func(t *testing.T, s source.Stream, mem memory.Allocator) source.Stream {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return stream(t, kafka.Config{Spec: arrowSpec(brokers[s]), Mem: mem})
	}
	sourcetest.Run(t, open, sourcetest.Options{Reopen: reopen})
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
