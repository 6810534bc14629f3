package ps

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/quant"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/internal/wire"
)

// twins are the two forms of every parameter server.
var twins = []struct {
	name   string
	remote bool
}{{"in process", false}, {"gRPC", true}}

// work is a job and the rows that it is trained on.
type work struct {
	spec   *tidemill.Spec
	schema []byte
	model  *model.Model
	rows   []arrow.RecordBatch // by partition
}

// randomWork makes up a job: architecture, optimizers, features that learn or not, and rows.
func randomWork(t testing.TB, seed uint64, staleness int) *work {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	architecture := pick("{kind: logistic}", "{kind: fm, dim: 3}", "{kind: mlp, dim: 2, hidden: [5]}", "{kind: deepfm, dim: 2, hidden: [4, 3]}")
	table := map[byte]string{'l': "weights", 'f': "factors", 'm': "embeddings", 'd': "factors"}[architecture[len("{kind: ")]]
	doc, err := spec.Parse([]byte(fmt.Sprintf(`
model: test
stream: {topic: test}
label: {column: y, positive: 1}
features:
  - {name: kind, column: kind, hash: {}}
  - {name: level, column: level, %s}
  - {name: size, column: size, %s}
  - {cross: [kind, level]}
architecture: %s
optimizer: {sparse: {%s: {}}, dense: {%s: {}}%s}
tables: %s
train: {batch: %d, staleness: %d%s}
`,
		pick("bucketize: {edges: [-1, 0, 1]}", "bucketize: {quantiles: 4, learn_rows: 30}"),
		pick("standardize: {}", "log1p: true"),
		architecture,
		pick("ftrl", "adagrad", "adam"), pick("sgd", "momentum", "adam"), pick("", ", average: {decay: 0.99}"),
		pick("{}", fmt.Sprintf("{%s: {admit: {after: 2, counters: 4096}}}", table), fmt.Sprintf("{%s: {admit: {probability: 0.3}}}", table)),
		4+rng.IntN(20), staleness, pick("", ", max_rows: 40"))), "test.yaml")
	must(t, err)
	doc.Spec.Shards, doc.Spec.Seed = 1+rng.IntN(12), seed
	if choice := doc.Spec.Tables[table]; rng.IntN(2) == 0 {
		choice.Expire = tidemill.Expiry{Every: 30 + rng.Int64N(100), Uses: rng.IntN(4)}
		choice.Values = quant.Names()[rng.IntN(4)]
		doc.Spec.Tables = map[string]tidemill.TableChoice{table: choice}
	}
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "kind", Type: arrow.BinaryTypes.String},
		{Name: "level", Type: arrow.PrimitiveTypes.Float64},
		{Name: "size", Type: arrow.PrimitiveTypes.Float64},
		{Name: "y", Type: arrow.PrimitiveTypes.Int64},
	}, nil)
	w := &work{spec: doc.Spec}
	w.model, err = model.Compile(w.spec, schema)
	must(t, err)
	w.schema, err = model.EncodeSchema(schema)
	must(t, err)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for range 1 + rng.IntN(3) {
		for range 40 + rng.IntN(100) {
			k := rng.IntN(30)
			level := rng.NormFloat64()
			b.Field(0).(*array.StringBuilder).Append(fmt.Sprint("k", k))
			b.Field(1).(*array.Float64Builder).Append(level)
			b.Field(2).(*array.Float64Builder).Append(rng.ExpFloat64() * 10)
			y := int64(0)
			if level+float64(k%3) > 1 {
				y = 1
			}
			b.Field(3).(*array.Int64Builder).Append(y)
		}
		w.rows = append(w.rows, b.NewRecordBatch())
	}
	return w
}

func (w *work) release() {
	for _, r := range w.rows {
		r.Release()
	}
}

// rounds is in how many rounds a partition takes part.
func (w *work) rounds(partition int) int64 {
	return (w.rows[partition].NumRows() + int64(w.spec.Train.Batch) - 1) / int64(w.spec.Train.Batch)
}

// last is the round after which everything is trained.
func (w *work) last() int64 {
	n := int64(0)
	for p := range w.rows {
		n = max(n, w.rounds(p))
	}
	return n
}

// cut is where the partitions stand after a round.
func (w *work) cut(round int64) tidemill.Cut {
	c := make(tidemill.Cut, len(w.rows))
	for p, r := range w.rows {
		c[p] = min(r.NumRows(), round*int64(w.spec.Train.Batch))
	}
	return c
}

// assignment gives all shards to n parameter servers, in turns.
func (w *work) assignment(n int) tidemill.Assignment {
	a := tidemill.Assignment{
		Job: "job", Spec: *w.spec, Schema: w.schema, Seq: 1, Generation: 1, State: tidemill.JobRunning,
		Members: map[string]tidemill.Member{}, Cut: make(tidemill.Cut, len(w.rows)), Partitions: make([]tidemill.Owner, len(w.rows)), Shards: make([]tidemill.Owner, w.spec.Shards),
	}
	for p := range a.Partitions {
		a.Partitions[p] = tidemill.Owner{Member: "w1", Epoch: 1}
	}
	for s := range a.Shards {
		a.Shards[s] = tidemill.Owner{Member: fmt.Sprint("p", s%n), Epoch: 1}
		a.Members[a.Shards[s].Member] = tidemill.Member{ID: a.Shards[s].Member}
	}
	return a
}

// cluster is parameter servers and how to reach them.
type cluster struct {
	bucket  *blob.Bucket
	asg     tidemill.Assignment
	ids     []string // of the servers, some of which may own nothing
	servers []*Server
	ps      []wire.PS
	stop    []func() // cuts a server's connections; nil in process
}

// owns reports which servers own a shard.
func (c *cluster) owns() []bool {
	out := make([]bool, len(c.ids))
	for _, o := range c.asg.Shards {
		out[slices.Index(c.ids, o.Member)] = true
	}
	return out
}

// start serves the assignment until the test ends, on its own servers and idle ones.
func start(t testing.TB, a tidemill.Assignment, bucket *blob.Bucket, remote bool, idle ...string) *cluster {
	t.Helper()
	c := &cluster{bucket: bucket, ids: append(a.PSes(), idle...)}
	peer := func(_ context.Context, m tidemill.Member) (wire.PS, error) {
		return c.ps[slices.Index(c.ids, m.ID)], nil
	}
	for _, id := range c.ids {
		s := New(Config{Member: id, Bucket: bucket, Logger: slog.New(slog.DiscardHandler), Peer: peer})
		c.servers = append(c.servers, s)
		if !remote {
			c.ps = append(c.ps, s)
			continue
		}
		p, stop := serve(t, s)
		c.ps, c.stop = append(c.ps, p), append(c.stop, stop)
	}
	c.assign(a)
	return c
}

// assign tells all servers, and waits until they have restored what it asks for.
func (c *cluster) assign(a tidemill.Assignment) {
	c.asg = a
	for _, s := range c.servers {
		s.assign(context.Background(), a)
	}
	for _, s := range c.servers {
		s.background.Wait()
	}
}

// serve offers p over gRPC until the test ends.
func serve(t testing.TB, p wire.PS) (remote wire.PS, stop func()) {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
	Register(srv, p)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis)
	}()
	conn, err := rpc.Dial("ps:1", rpc.ClientConfig{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }})
	must(t, err)
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		<-done
	})
	return NewClient(conn), srv.Stop
}

func store(t testing.TB) *blob.Bucket {
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

// trainer computes one partition's batches against a cluster: what a worker does, without the
// waiting and trying again.
type trainer struct {
	w         *work
	c         *cluster
	partition int
	scribble  bool // overwrite what was pushed as soon as Push returns

	in      engine.Inputs
	look    []engine.Lookup
	scratch engine.Scratch
	step    engine.Stepper
	replies []wire.PullReply
}

// batch trains the batch of a round, [first, next). Members are the round's partitions.
func (tr *trainer) batch(ctx context.Context, round int64, rng tidemill.Range, members []int) error {
	m, c := tr.w.model, tr.c
	h := wire.Header{Job: c.asg.Job, Generation: c.asg.Generation, Partition: tr.partition, Epoch: c.asg.Partitions[tr.partition].Epoch, Round: round, Routes: c.asg.Routes()}
	rec := tr.w.rows[tr.partition].NewSlice(rng.First, rng.Next)
	defer rec.Release()
	if tr.step == nil {
		tr.step, tr.replies = m.Engine.NewStepper(), make([]wire.PullReply, len(c.ps))
	}
	state, ws := m.Plan.NewState(), m.Plan.NewWorkspace()
	v := len(c.asg.Shards)
	owner := func(shard int) int { return slices.Index(c.ids, c.asg.Shards[shard].Member) }
	owns := c.owns()
	if m.Plan.Learns() {
		home := owner(tidemill.HomeShard(v))
		if err := c.ps[home].Pull(ctx, &wire.PullRequest{Header: h, Bare: true}, &tr.replies[home]); err != nil {
			return err
		}
		if err := m.Plan.ReadState(state, tr.replies[home].Home); err != nil {
			return err
		}
	}
	if err := m.Plan.Sparse(ws, &tr.in, rec, state); err != nil {
		return err
	}
	tr.look = engine.Lookups(tr.look, &tr.scratch, &tr.in, m.Engine)
	params := engine.Params{}
	for _, t := range m.Layout.Tensors {
		params.Dense = append(params.Dense, make([]float32, t.Len()))
	}
	for t, l := range tr.look {
		params.Rows = append(params.Rows, make([]float32, len(l.Unique)*m.Layout.Tables[t].Dim))
	}
	reqs := make([]wire.PushRequest, len(c.ps))
	at := make([][][]int, len(c.ps)) // positions in Unique
	for i := range reqs {
		reqs[i] = wire.PushRequest{
			Header: h, Range: rng, Floor: rng.First, Members: members, Examples: int64(tr.in.N),
			IDs: make([][]uint64, len(tr.look)), Grads: make([][]float32, len(tr.look)),
		}
		at[i] = make([][]int, len(tr.look))
	}
	for t, l := range tr.look {
		for k, id := range l.Unique {
			i := owner(tidemill.ShardOf(id, v))
			reqs[i].IDs[t], at[i][t] = append(reqs[i].IDs[t], id), append(at[i][t], k)
		}
	}
	for i, p := range c.ps {
		if !owns[i] {
			continue
		}
		if err := p.Pull(ctx, &wire.PullRequest{Header: h, IDs: reqs[i].IDs}, &tr.replies[i]); err != nil {
			return err
		}
		for t := range tr.look {
			dim := m.Layout.Tables[t].Dim
			for n, k := range at[i][t] {
				copy(params.Rows[t][k*dim:(k+1)*dim], tr.replies[i].Rows[t][n*dim:(n+1)*dim])
			}
		}
		for _, b := range tr.replies[i].Blocks {
			copy(params.Dense[b.Tensor][b.Index*tidemill.BlockSize:], b.Values)
		}
	}
	if err := m.Plan.Numeric(ws, &tr.in, rec, state); err != nil {
		return err
	}
	if err := m.Plan.Labels(&tr.in, rec); err != nil {
		return err
	}
	res := tr.step.Step(&tr.in, tr.look, &params)
	for i := range reqs {
		for t := range tr.look {
			dim := m.Layout.Tables[t].Dim
			for _, k := range at[i][t] {
				reqs[i].Grads[t] = append(reqs[i].Grads[t], res.RowGrads[t][k*dim:(k+1)*dim]...)
			}
		}
		for _, b := range tr.replies[i].Blocks {
			from := b.Index * tidemill.BlockSize
			grad := append([]float32(nil), res.DenseGrads[b.Tensor][from:from+len(b.Values)]...)
			reqs[i].Blocks = append(reqs[i].Blocks, wire.Block{Tensor: b.Tensor, Index: b.Index, Values: grad})
		}
	}
	tag := &wire.Tag{EventMax: rng.Next, Bad: []snapshot.BadRow{{Partition: tr.partition, Offset: rng.First, Reason: "none, really"}}}
	var outs []progress.Outcome
	for i := range tr.in.N {
		outs = append(outs, progress.Judge(m.Spec.Label.Type, res.Predictions[i:i+1], tr.in.Labels[i], res.Losses[i]))
	}
	tag.Outcomes = progress.AppendOutcomes(nil, outs)
	if m.Plan.Learns() {
		var err error
		if tag.Transforms, err = m.Plan.AppendDelta(nil, ws, rec); err != nil {
			return err
		}
	}
	reqs[owner(tidemill.HomeShard(v))].Tag = tag
	for i, p := range c.ps {
		if !owns[i] {
			continue
		}
		if err := p.Push(ctx, &reqs[i]); err != nil {
			return err
		}
		if tr.scribble {
			for t := range reqs[i].IDs {
				for k := range reqs[i].IDs[t] {
					reqs[i].IDs[t][k] = 1
				}
				for k := range reqs[i].Grads[t] {
					reqs[i].Grads[t][k] = 1e9
				}
			}
			for _, b := range reqs[i].Blocks {
				clear(b.Values)
			}
			if reqs[i].Tag != nil {
				clear(tag.Outcomes)
				clear(tag.Transforms)
			}
		}
	}
	return nil
}

// train runs the rounds (from, to] with one goroutine a partition, in whatever order they
// come. remote says that what was pushed may be overwritten.
func (w *work) train(ctx context.Context, c *cluster, from, to int64, remote bool) error {
	g, ctx := errgroup.WithContext(ctx)
	for p := range w.rows {
		g.Go(func() error {
			tr := &trainer{w: w, c: c, partition: p, scribble: remote}
			for r := from + 1; r <= min(to, w.rounds(p)); r++ {
				var members []int
				for q := range w.rows {
					if w.rounds(q) >= r {
						members = append(members, q)
					}
				}
				if err := tr.batch(ctx, r, tidemill.Range{First: w.cut(r - 1)[p], Next: w.cut(r)[p]}, members); err != nil {
					return fmt.Errorf("partition %d, round %d: %w", p, r, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// snapshot takes snapshot number n of the state after round and returns its parts and home.
func (w *work) snapshot(ctx context.Context, c *cluster, n, round int64) (parts []snapshot.Part, home *wire.Home, examples int64, err error) {
	written := make([]wire.Written, len(c.ps))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range c.ps {
		if !c.owns()[i] {
			continue
		}
		g.Go(func() (err error) {
			marked := false
			written[i], err = p.Snapshot(ctx, &wire.SnapshotRequest{
				Job: c.asg.Job, Generation: c.asg.Generation, Number: n, Round: round, Cut: w.cut(round), Routes: c.asg.Routes(),
			}, func() { marked = true })
			if err == nil && !marked {
				err = fmt.Errorf("snapshot of ps %d was written and never marked", i)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, 0, err
	}
	for _, x := range written {
		if len(x.Part.Shards) == 0 {
			continue
		}
		parts = append(parts, x.Part)
		examples = x.Examples
		if x.Home != nil {
			home = x.Home
		}
	}
	return parts, home, examples, nil
}
