package nats_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/nats"
	"github.com/tidemill/tidemill/internal/source/sourcetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Started once per process by libraries, for good.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
	)
}

func start(t *testing.T, cfg broker.Config) *broker.Broker {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	b, err := broker.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func connect(t *testing.T, b *broker.Broker) *natsgo.Conn {
	t.Helper()
	nc, err := b.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func stream(t *testing.T, nc *natsgo.Conn, cfg nats.Config) *nats.Stream {
	t.Helper()
	s, err := nats.New(nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	dirs := map[source.Stream]string{}
	brokers := map[source.Stream]*broker.Broker{}
	open := func(bc broker.Config, nc nats.Config) sourcetest.Open {
		return func(t *testing.T, mem memory.Allocator) source.Stream {
			bc, nc := bc, nc
			bc.Dir, nc.Mem = t.TempDir(), mem
			b := start(t, bc)
			s := stream(t, connect(t, b), nc)
			dirs[s], brokers[s] = bc.Dir, b
			return s
		}
	}
	reopen := func(t *testing.T, s source.Stream, mem memory.Allocator) source.Stream {
		if err := brokers[s].Close(); err != nil {
			t.Fatal(err)
		}
		b := start(t, broker.Config{Dir: dirs[s]})
		return stream(t, connect(t, b), nats.Config{Mem: mem})
	}
	sourcetest.Run(t, open(broker.Config{}, nats.Config{}), sourcetest.Options{
		Reopen: reopen,
		Full:   open(broker.Config{}, nats.Config{MaxPartitionBytes: 1 << 20}),
	})
	// The store's own limit, which partitions grow into.
	t.Run("Growing", func(t *testing.T) {
		sourcetest.RunFull(t, open(broker.Config{MaxStore: 6 << 20}, nats.Config{}))
	})
}

// BenchmarkAppend is a demo's producer: 20 rows an append, each synced to disk.
func BenchmarkAppend(b *testing.B) {
	top := benchTopic(b)
	rec := ids(make([]int64, 20)...)
	for i := 0; b.Loop(); i++ {
		if _, err := top.Append(b.Context(), 0, rec, fmt.Sprintf("bench/%d", i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(20*b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkTail is the way of one row from its append to a reader that waits for it.
func BenchmarkTail(b *testing.B) {
	top := benchTopic(b)
	r, err := top.Reader(b.Context(), 0, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for i := 0; b.Loop(); i++ {
		if _, err := top.Append(b.Context(), 0, ids(int64(i)), ""); err != nil {
			b.Fatal(err)
		}
		got, err := r.Next(b.Context(), 1)
		if err != nil {
			b.Fatal(err)
		}
		got.Rows.Release()
	}
}

// BenchmarkNextOne reads one row at a time from messages of 4096.
func BenchmarkNextOne(b *testing.B) {
	top := benchTopic(b)
	rec := ids(make([]int64, 4096)...)
	for range 32 {
		if _, err := top.Append(b.Context(), 0, rec, ""); err != nil {
			b.Fatal(err)
		}
	}
	var r source.Reader
	for i := 0; b.Loop(); i++ {
		if i%(32*4096) == 0 {
			if r != nil {
				r.Close()
			}
			var err error
			if r, err = top.Reader(b.Context(), 0, 0); err != nil {
				b.Fatal(err)
			}
		}
		got, err := r.Next(b.Context(), 1)
		if err != nil {
			b.Fatal(err)
		}
		got.Rows.Release()
	}
	r.Close()
}

func benchTopic(b *testing.B) source.Topic {
	br, err := broker.Start(broker.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { br.Close() })
	nc, err := br.Conn(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	s, err := nats.New(nc, nats.Config{})
	if err != nil {
		b.Fatal(err)
	}
	top, err := s.Create(b.Context(), "bench", 1, idSchema)
	if err != nil {
		b.Fatal(err)
	}
	return top
}
