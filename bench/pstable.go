package bench

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
)

// pstable is one parameter server with one job of one table, and workers that ask it. There is no
// stream and no trainer: each worker has a partition of its own and pushes what it likes.
type pstable struct {
	asg     tidemill.Assignment
	model   *model.Model
	bucket  *blob.Bucket
	server  *ps.Server
	ps      wire.PS // the server itself, or a client of it
	applied []int64 // offsets by partition
	down    []func()
}

const psJob = "bench"

// psSpec is a job whose table has rows of dim floats and Adagrad's state beside them: a linear
// model, or a factorisation machine of dim-1 factors.
func psSpec(dim int) string {
	architecture := "{kind: logistic}"
	if dim > 1 {
		architecture = fmt.Sprintf("{kind: fm, dim: %d}", dim-1)
	}
	return fmt.Sprintf(`model: %s
stream: {topic: %[1]s, from: earliest}
label: {column: y, positive: 1}
features:
  - {name: c, column: c, hash: {}}
architecture: %s
optimizer: {sparse: {adagrad: {lr: 0.01}}, dense: {adagrad: {lr: 0.01}}}
train: {batch: 512, staleness: -1}
`, psJob, architecture)
}

// newPSTable starts a parameter server for a table of rows of dim floats, with snapshots under
// dir. remote puts gRPC over loopback between it and the workers. The caller closes it.
func newPSTable(ctx context.Context, dir string, dim, workers int, remote bool) (*pstable, error) {
	doc, err := spec.Parse([]byte(psSpec(dim)), "job")
	if err != nil {
		return nil, err
	}
	schema := arrow.NewSchema([]arrow.Field{{Name: "y", Type: arrow.PrimitiveTypes.Int8}, {Name: "c", Type: arrow.PrimitiveTypes.Int64}}, nil)
	t := &pstable{applied: make([]int64, workers)}
	if t.model, err = model.Compile(doc.Spec, schema); err != nil {
		return nil, err
	}
	coded, err := model.EncodeSchema(schema)
	if err != nil {
		return nil, err
	}
	if t.bucket, err = fileblob.Open(filepath.Join(dir, "store"), fileblob.Options{}); err != nil {
		return nil, err
	}
	t.down = append(t.down, func() { _ = t.bucket.Close() })
	t.server = ps.New(ps.Config{Member: "ps", Bucket: t.bucket, Logger: slog.New(slog.DiscardHandler)})
	t.asg = tidemill.Assignment{
		Job: psJob, Spec: *doc.Spec, Schema: coded, Seq: 1, Generation: 1, State: tidemill.JobRunning, Cut: make(tidemill.Cut, workers),
		Partitions: make([]tidemill.Owner, workers), Shards: make([]tidemill.Owner, tidemill.DefaultShards), Members: map[string]tidemill.Member{"ps": {ID: "ps"}},
	}
	for p := range t.asg.Partitions {
		t.asg.Partitions[p] = tidemill.Owner{Member: "worker", Epoch: 1}
	}
	for s := range t.asg.Shards {
		t.asg.Shards[s] = tidemill.Owner{Member: "ps", Epoch: 1}
	}
	t.run(ctx)
	if t.ps = t.server; remote {
		if err := t.connect(ctx); err != nil {
			t.close()
			return nil, err
		}
	}
	if err := t.ready(ctx); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// run runs the server until close.
func (t *pstable) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	assignments := make(chan tidemill.Assignment, 1)
	assignments <- t.asg
	var running sync.WaitGroup
	running.Go(func() { _ = t.server.Run(ctx, assignments) })
	t.down = append(t.down, func() {
		stop()
		running.Wait()
	})
}

// connect puts gRPC over loopback before the server.
func (t *pstable) connect(ctx context.Context) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("no port on loopback: %w: %w", tidemill.ErrUnavailable, err)
	}
	srv := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
	ps.Register(srv, t.server)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(lis) })
	t.down = append(t.down, func() {
		srv.Stop()
		serving.Wait()
	})
	conn, err := rpc.Dial(lis.Addr().String(), rpc.ClientConfig{})
	if err != nil {
		return err
	}
	t.down = append(t.down, func() { _ = conn.Close() })
	t.ps = ps.NewClient(conn)
	return nil
}

// ready waits until the job's shards are there.
func (t *pstable) ready(ctx context.Context) error {
	for {
		st, err := t.ps.Status(ctx, psJob)
		if err == nil && st.Ready && st.Shards == len(t.asg.Shards) {
			return nil
		}
		if !pause(ctx, sampled) {
			return over(ctx, "the parameter server never was ready")
		}
	}
}

func (t *pstable) close() {
	for i := len(t.down) - 1; i >= 0; i-- {
		t.down[i]()
	}
	t.down = nil
}

// psWorker pulls and pushes as the worker of a partition does. It belongs to one goroutine.
type psWorker struct {
	t         *pstable
	partition int
	ids       [][]uint64
	grads     [][]float32
	reply     wire.PullReply
}

func (t *pstable) worker(partition, batch int, r *rand.Rand) *psWorker {
	w := &psWorker{t: t, partition: partition, ids: [][]uint64{make([]uint64, batch)}}
	g := make([]float32, batch*t.model.Layout.Tables[0].Dim)
	for i := range g {
		g[i] = float32(r.NormFloat64()) * 0.01
	}
	w.grads = [][]float32{g}
	return w
}

func (w *psWorker) header() wire.Header {
	return wire.Header{Job: psJob, Generation: 1, Partition: w.partition, Epoch: 1, Routes: w.t.asg.Routes()}
}

// pull pulls the rows of ids.
func (w *psWorker) pull(ctx context.Context) error {
	return w.t.ps.Pull(ctx, &wire.PullRequest{Header: w.header(), IDs: w.ids}, &w.reply)
}

// push pushes a gradient for the rows of ids.
func (w *psWorker) push(ctx context.Context) error {
	first := w.t.applied[w.partition]
	next := first + 1
	err := w.t.ps.Push(ctx, &wire.PushRequest{
		Header: w.header(), Range: tidemill.Range{First: first, Next: next}, Floor: first, Members: []int{w.partition}, Examples: 1,
		IDs: w.ids, Grads: [][]float32{w.grads[0][:len(w.ids[0])*w.t.model.Layout.Tables[0].Dim]}, Tag: &wire.Tag{},
	})
	if err == nil {
		w.t.applied[w.partition] = next
	}
	return err
}

// fill makes rows 0 to n-1, by rank.
func (t *pstable) fill(ctx context.Context, n uint64) error {
	const batch = 8192
	g, ctx := errgroup.WithContext(ctx)
	workers := uint64(len(t.applied))
	for p := range workers {
		g.Go(func() error {
			w := t.worker(int(p), batch, rand.New(rand.NewPCG(p, 1)))
			whole := w.ids[0]
			for first := p * batch; first < n; first += workers * batch {
				w.ids[0] = whole[:min(batch, n-first)]
				for i := range w.ids[0] {
					w.ids[0][i] = id(first + uint64(i))
				}
				if err := w.push(ctx); err != nil {
					return fmt.Errorf("filling the table: %w", err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// cut is where the workers are.
func (t *pstable) cut() tidemill.Cut { return append(tidemill.Cut{}, t.applied...) }

// snapshot writes snapshot number, of what changed since base (0: everything).
func (t *pstable) snapshot(ctx context.Context, number, base int64, marked func()) (wire.Written, error) {
	return t.ps.Snapshot(ctx, &wire.SnapshotRequest{
		Job: psJob, Generation: 1, Number: number, Cut: t.cut(), Base: base, Routes: t.asg.Routes(),
	}, marked)
}

// transports are the ways to a parameter server.
var transports = []string{"inproc", "grpc"}

func checkTransports(given []string) error {
	for _, s := range given {
		if s != transports[0] && s != transports[1] {
			return tidemill.Invalid("the transport %q", "use "+strings.Join(transports, " or "), s)
		}
	}
	return nil
}
