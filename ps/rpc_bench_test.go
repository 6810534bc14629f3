package ps

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/internal/wire"
)

// BenchmarkPullPush is BenchmarkTable through all of a parameter server: its core, its lock, and
// over gRPC its messages, on a connection of this machine's loopback. One or two workers, each
// with batches of its own, pull and push 16 floats a row with Adagrad's state, asynchronously. It
// reports
//
//	rows/s      rows pulled plus rows pushed, by the clock
//	rows/cpu-s  and by second of processor time, of both sides
//	B/row       bytes that crossed the connection, by row pulled or pushed (gRPC)
func BenchmarkPullPush(b *testing.B) {
	for _, remote := range []bool{false, true} {
		for _, workers := range []int{1, 2} {
			name := map[bool]string{false: "local", true: "grpc"}[remote]
			b.Run(fmt.Sprintf("%s/workers=%d", name, workers), func(b *testing.B) { benchServer(b, remote, workers) })
		}
	}
}

func benchServer(b *testing.B, remote bool, workers int) {
	ctx := context.Background()
	doc, err := spec.Parse([]byte(`
model: bench
stream: {topic: bench}
label: {column: y, positive: 1}
features:
  - {name: kind, column: kind, hash: {}}
architecture: {kind: fm, dim: 15}
optimizer: {sparse: {adagrad: {}}}
train: {batch: 512, staleness: -1}
`), "bench.yaml")
	must(b, err)
	doc.Spec.Shards = tidemill.DefaultShards
	schema := arrow.NewSchema([]arrow.Field{{Name: "kind", Type: arrow.BinaryTypes.String}, {Name: "y", Type: arrow.PrimitiveTypes.Int64}}, nil)
	m, err := model.Compile(doc.Spec, schema)
	must(b, err)
	w := &work{spec: doc.Spec, model: m, rows: make([]arrow.RecordBatch, workers)}
	w.schema, err = model.EncodeSchema(schema)
	must(b, err)
	table := -1
	for t, l := range m.Layout.Tables {
		if l.Dim == 16 {
			table = t
		}
	}
	if table < 0 {
		b.Fatalf("no table of dimension 16 in %+v", m.Layout.Tables)
	}
	a := w.assignment(1)
	server := New(Config{Member: "p0", Bucket: store(b), Logger: slog.New(slog.DiscardHandler)})
	server.assign(ctx, a)
	server.background.Wait()
	var ps wire.PS = server
	var counted *countingListener
	if remote {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		must(b, err)
		counted = &countingListener{Listener: lis}
		srv := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
		server.Register(srv)
		stop, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- rpc.Serve(stop, srv, counted, time.Second) }()
		conn, err := rpc.Dial(lis.Addr().String(), rpc.ClientConfig{WaitForReady: true})
		must(b, err)
		defer func() {
			must(b, conn.Close())
			cancel()
			<-done
		}()
		ps = NewClient(conn)
	}
	n := tableRows()
	j := server.jobs[a.Job]
	var ids []uint64
	grads := make([]float32, drawn*16)
	for i := range grads {
		grads[i] = float32(i%7) - 3
	}
	for i := range n {
		if ids = append(ids, tidemill.Mix(uint64(i))); len(ids) == drawn || i == n-1 {
			j.updateRows(table, ids, grads[:len(ids)*16], 1, 0, 1)
			ids = ids[:0]
		}
	}
	batches := make([][][]uint64, workers)
	for p := range batches {
		zipf := rand.NewZipf(rand.New(rand.NewPCG(1, uint64(p))), 1.05, 1, uint64(n-1))
		batches[p], _ = idBatches(n, zipf.Uint64)
	}
	rows := make([]int, workers)
	var moved int64
	if counted != nil {
		moved = counted.bytes.Load()
	}
	spent, start := cpu(b), time.Now()
	b.ResetTimer()
	var g errgroup.Group
	for p := range workers {
		g.Go(func() error {
			var into wire.PullReply
			pull := wire.PullRequest{IDs: make([][]uint64, len(m.Layout.Tables))}
			push := wire.PushRequest{IDs: make([][]uint64, len(m.Layout.Tables)), Grads: make([][]float32, len(m.Layout.Tables)), Examples: 512}
			for i := range b.N {
				some := batches[p][i%len(batches[p])]
				pull.Header = wire.Header{Job: a.Job, Generation: 1, Partition: p, Epoch: 1, Routes: a.Routes()}
				pull.IDs[table] = some
				if err := ps.Pull(ctx, &pull, &into); err != nil {
					return err
				}
				push.Header, push.IDs[table], push.Grads[table] = pull.Header, some, grads[:len(some)*16]
				push.Range = tidemill.Range{First: int64(i) * 512, Next: int64(i+1) * 512}
				push.Floor = push.Range.First
				if err := ps.Push(ctx, &push); err != nil {
					return err
				}
				rows[p] += 2 * len(some)
			}
			return nil
		})
	}
	must(b, g.Wait())
	took := time.Since(start)
	spent = cpu(b) - spent
	total := 0
	for _, r := range rows {
		total += r
	}
	b.ReportMetric(float64(total)/took.Seconds(), "rows/s")
	b.ReportMetric(float64(total)/spent.Seconds(), "rows/cpu-s")
	if counted != nil {
		b.ReportMetric(float64(counted.bytes.Load()-moved)/float64(total), "B/row")
	}
	b.ReportMetric(0, "ns/op")
}

// countingListener counts the bytes that its connections read and write.
type countingListener struct {
	net.Listener
	bytes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, &l.bytes}, err
}

type countingConn struct {
	net.Conn
	bytes *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}
