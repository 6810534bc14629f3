package ps

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// both runs a test on two servers in process and over gRPC. The job has two partitions at
// least.
func both(t *testing.T, f func(t *testing.T, w *work, c *cluster)) {
	seed := uint64(0)
	w := randomWork(t, seed, 0)
	for len(w.rows) < 2 || w.spec.Shards < 2 || w.last() < 4 {
		w.release()
		seed++
		w = randomWork(t, seed, 0)
	}
	defer w.release()
	for _, twin := range twins {
		t.Run(twin.name, func(t *testing.T) { f(t, w, start(t, w.assignment(2), store(t), twin.remote)) })
	}
}

func (c *cluster) header(partition int, round int64) wire.Header {
	return wire.Header{Job: c.asg.Job, Generation: c.asg.Generation, Partition: partition, Epoch: c.asg.Partitions[partition].Epoch, Round: round, Routes: c.asg.Routes()}
}

// members are all partitions.
func (w *work) members() (all []int) {
	for p := range w.rows {
		all = append(all, p)
	}
	return all
}

// empty is a push for a partition that changes nothing.
func (w *work) empty(c *cluster, partition int, round int64, rng tidemill.Range) *wire.PushRequest {
	n := len(w.model.Layout.Tables)
	return &wire.PushRequest{
		Header: c.header(partition, round), Range: rng, Floor: rng.First, Members: w.members(), Examples: rng.Next - rng.First,
		IDs: make([][]uint64, n), Grads: make([][]float32, n),
	}
}

// waiting calls f, which asks ps i for what it has to wait for, and returns once it waits.
func waiting(c *cluster, i int, f func() error) <-chan error {
	j, _ := c.servers[i].job(c.asg.Job)
	before := j.asked()
	done := make(chan error, 1)
	go func() { done <- f() }()
	for j.asked() == before {
		select {
		case err := <-done:
			done <- err
			return done
		default:
			runtime.Gosched()
		}
	}
	return done
}

// asked returns how many calls the core has heard of.
func (j *job) asked() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.nextID
}

// TestKinds: errors keep their kind on the way.
func TestKinds(t *testing.T) {
	ctx := context.Background()
	both(t, func(t *testing.T, w *work, c *cluster) {
		c.asg.Generation, c.asg.Seq = 5, 5
		c.assign(c.asg)
		p := c.ps[0]
		var into wire.PullReply
		tables := make([][]uint64, len(w.model.Layout.Tables))
		pull := func(change func(*wire.PullRequest)) error {
			req := &wire.PullRequest{Header: c.header(0, 1), IDs: append([][]uint64(nil), tables...)}
			change(req)
			return p.Pull(ctx, req, &into)
		}
		push := func(change func(*wire.PushRequest)) error {
			req := w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})
			change(req)
			return p.Push(ctx, req)
		}
		foreign := uint64(0) // an id of the other server
		for tidemill.ShardOf(foreign, w.spec.Shards)%2 == 0 {
			foreign++
		}
		must(t, pull(func(*wire.PullRequest) {}))
		must(t, push(func(*wire.PushRequest) {}))
		for _, x := range []struct {
			name string
			want error
			err  error
		}{
			{"pull of no such job", tidemill.ErrNotReady, pull(func(r *wire.PullRequest) { r.Job = "other" })},
			{"pull of an old generation", tidemill.ErrFenced, pull(func(r *wire.PullRequest) { r.Generation-- })},
			{"pull of a new generation", tidemill.ErrNotReady, pull(func(r *wire.PullRequest) { r.Generation++ })},
			{"pull by an old owner", tidemill.ErrFenced, pull(func(r *wire.PullRequest) { r.Epoch-- })},
			{"pull by a new owner", tidemill.ErrNotReady, pull(func(r *wire.PullRequest) { r.Epoch++ })},
			{"pull for a round that is over", tidemill.ErrConflict, pull(func(r *wire.PullRequest) { r.Round = 0 })},
			{"pull of other tables", tidemill.ErrInvalid, pull(func(r *wire.PullRequest) { r.IDs = append(r.IDs, nil) })},
			{"pull of another's shard", tidemill.ErrFenced, pull(func(r *wire.PullRequest) { r.IDs[0] = []uint64{foreign} })},
			{"pull for no partition", tidemill.ErrInvalid, pull(func(r *wire.PullRequest) { r.Partition = 99 })},
			{"push of other values", tidemill.ErrInvalid, push(func(r *wire.PushRequest) { r.Grads[0] = make([]float32, 1) })},
			{"push of another's shard", tidemill.ErrInvalid, push(func(r *wire.PushRequest) {
				r.IDs[0], r.Grads[0] = []uint64{foreign}, make([]float32, w.model.Layout.Tables[0].Dim)
			})},
			{"push of no block", tidemill.ErrInvalid, push(func(r *wire.PushRequest) { r.Blocks = []wire.Block{{Tensor: 7}} })},
			{"push of another range", tidemill.ErrInvalid, push(func(r *wire.PushRequest) { r.Range.Next, r.Examples = 5, 5 })},
			{"push after a gap", tidemill.ErrNotReady, push(func(r *wire.PushRequest) { r.Partition, r.Range.First, r.Examples = 1, 2, 2 })},
			{"push of an old generation", tidemill.ErrFenced, push(func(r *wire.PushRequest) { r.Generation-- })},
			{"push again", nil, push(func(*wire.PushRequest) {})},
			{"fence by an old owner", tidemill.ErrFenced, second(p.Fence(ctx, &wire.FenceRequest{Job: "job", Routes: 1, Generation: 5}))},
			{"fence of no partition", tidemill.ErrInvalid, second(p.Fence(ctx, &wire.FenceRequest{Job: "job", Routes: 1, Generation: 5, Partition: 9999, Epoch: 5}))},
			{"snapshot of an old generation", tidemill.ErrFenced, second(p.Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 4, Number: 1}, func() {}))},
			{"snapshot of a cut that is passed", tidemill.ErrConflict, func() error {
				must(t, w.others(c, 1, 0))
				return second(p.Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 5, Number: 1, Cut: make(tidemill.Cut, len(w.rows))}, func() {}))
			}()},
			{"status of no such job", tidemill.ErrNotReady, second(p.Status(ctx, "other"))},
		} {
			if !errors.Is(x.err, x.want) || x.want == nil && x.err != nil {
				t.Errorf("%s: %v, want %v", x.name, x.err, x.want)
			}
		}
		held, err := c.ps[0].Fence(ctx, &wire.FenceRequest{Job: "job", Routes: 1, Generation: 5, Partition: 1, Epoch: 7})
		if want := (wire.Held{Round: 1, Applied: 4}); err != nil || held != want {
			t.Errorf("fence: %+v, %v, want %+v", held, err, want)
		}
		req := w.empty(c, 0, 2, tidemill.Range{First: 4, Next: 9})
		must(t, p.Push(ctx, req))
		held, err = p.Fence(ctx, &wire.FenceRequest{Job: "job", Routes: 1, Generation: 5, Partition: 0, Epoch: 7})
		if want := (wire.Held{Round: 1, Applied: 4, Buffered: req.Range}); err != nil || held != want {
			t.Errorf("fence: %+v, %v, want %+v", held, err, want)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// others pushes empty batches of four rows for all partitions but one, to the first ps.
func (w *work) others(c *cluster, round int64, but int) error {
	for p := range w.rows {
		if p != but {
			if err := c.ps[0].Push(context.Background(), w.empty(c, p, round, tidemill.Range{First: 4*round - 4, Next: 4 * round})); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestWaiting: a pull for the next round waits until the present one is applied; its caller
// may give up, a rewind refuses it, and so does a job that ends.
func TestWaiting(t *testing.T) {
	both(t, func(t *testing.T, w *work, c *cluster) {
		tables := make([][]uint64, len(w.model.Layout.Tables))
		pull := func(ctx context.Context) func() error {
			return func() error {
				return c.ps[0].Pull(ctx, &wire.PullRequest{Header: c.header(0, 2), IDs: tables}, new(wire.PullReply))
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		given := waiting(c, 0, pull(ctx))
		cancel()
		if err := <-given; !errors.Is(err, tidemill.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		ctx = context.Background()
		served := waiting(c, 0, pull(ctx))
		must(t, c.ps[0].Push(ctx, w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})))
		must(t, w.others(c, 1, 0))
		must(t, <-served)

		c.asg.Round, c.asg.Generation, c.asg.Seq = 0, 2, 2
		c.assign(c.asg)
		refused := waiting(c, 0, pull(ctx))
		snapped := waiting(c, 0, func() error {
			return second(c.ps[0].Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 2, Number: 1, Round: 1, Cut: w.cut(1)}, func() { t.Error("marked") }))
		})
		next := c.asg
		next.Generation, next.Seq = 3, 3
		old := c.asg
		c.assign(next)
		if err := <-refused; !errors.Is(err, tidemill.ErrFenced) {
			t.Errorf("pull over a rewind: %v", err)
		}
		if err := <-snapped; !errors.Is(err, tidemill.ErrFenced) {
			t.Errorf("snapshot over a rewind: %v", err)
		}
		// Assignments that come late change nothing.
		for _, s := range c.servers {
			s.assign(ctx, old)
		}
		st, err := c.ps[0].Status(ctx, "job")
		if err != nil || st.Generation != 3 || !st.Ready {
			t.Errorf("status %+v, %v", st, err)
		}
		ended := waiting(c, 0, pull(ctx))
		next.State, next.Seq = tidemill.JobCancelled, 4
		c.assign(next)
		if err := <-ended; !errors.Is(err, tidemill.ErrFenced) {
			t.Errorf("pull over the end of the job: %v", err)
		}
		if err := pull(ctx)(); !errors.Is(err, tidemill.ErrNotReady) {
			t.Errorf("pull after the end of the job: %v", err)
		}
	})
}

// TestMarkedThenWritten: training goes on as soon as a snapshot is marked, and nothing of what
// follows gets into it.
func TestMarkedThenWritten(t *testing.T) {
	ctx := context.Background()
	both(t, func(t *testing.T, w *work, c *cluster) {
		must(t, w.train(ctx, c, 0, 2, false))
		want, _, _, err := w.snapshot(ctx, c, 1, 2)
		must(t, err)
		// Both servers have to mark before either may be trained further.
		marks := make(chan int, len(c.ps))
		goOn := make(chan struct{})
		got := make([]wire.Written, len(c.ps))
		done := make(chan error, len(c.ps))
		for i, p := range c.ps {
			go func() {
				var err error
				got[i], err = p.Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 1, Number: 2, Round: 2, Cut: w.cut(2)}, func() {
					marks <- i
					<-goOn
				})
				done <- err
			}()
		}
		for range c.ps {
			<-marks
		}
		must(t, w.train(ctx, c, 2, w.last(), false))
		close(goOn)
		for range c.ps {
			must(t, <-done)
		}
		for i := range got {
			if got[i].Part.Digest != want[i].Digest || !reflect.DeepEqual(got[i].Part.Shards, want[i].Shards) {
				t.Errorf("ps %d: training went into a snapshot that was marked before", i)
			}
		}
		// The images are let go: pages are changed in place again.
		for _, s := range c.servers {
			j, err := s.job("job")
			must(t, err)
			for _, sh := range j.owned {
				for _, tab := range sh.tables {
					if len(tab.images) != 0 {
						t.Errorf("shard %d still holds %d images", sh.number, len(tab.images))
					}
				}
			}
		}
	})
}

// TestReplyIsReused: a reply's buffers serve the next pull.
func TestReplyIsReused(t *testing.T) {
	ctx := context.Background()
	both(t, func(t *testing.T, w *work, c *cluster) {
		ids := make([][]uint64, len(w.model.Layout.Tables))
		for id := uint64(0); len(ids[0]) < 20; id++ {
			if tidemill.ShardOf(id, w.spec.Shards)%2 == 0 {
				ids[0] = append(ids[0], id)
			}
		}
		var into wire.PullReply
		must(t, c.ps[0].Pull(ctx, &wire.PullRequest{Header: c.header(0, 1), IDs: ids}, &into))
		at := &into.Rows[0][0]
		if len(into.Rows[0]) != 20*w.model.Layout.Tables[0].Dim {
			t.Errorf("%d values for 20 rows", len(into.Rows[0]))
		}
		ids[0] = ids[0][:7]
		must(t, c.ps[0].Pull(ctx, &wire.PullRequest{Header: c.header(1, 1), IDs: ids}, &into))
		if &into.Rows[0][0] != at || len(into.Rows[0]) != 7*w.model.Layout.Tables[0].Dim {
			t.Error("the second pull did not use the first one's buffers")
		}
		home := tidemill.HomeShard(w.spec.Shards) % 2
		for i, p := range c.ps {
			into.Home = []byte("left over")
			must(t, p.Pull(ctx, &wire.PullRequest{Header: c.header(0, 1), Bare: true}, &into))
			if (into.Home != nil) != (i == home && w.model.Plan.Learns()) {
				t.Errorf("ps %d of home %d (learns: %v) sent %d bytes of state", i, home, w.model.Plan.Learns(), len(into.Home))
			}
		}
	})
}

// TestLostLease: a process that is no longer alive by its lease neither applies nor writes.
func TestLostLease(t *testing.T) {
	ctx := context.Background()
	w := randomWork(t, 1, 0)
	defer w.release()
	for _, twin := range twins {
		alive := true
		s := New(Config{Member: "p0", Bucket: store(t), Logger: slog.New(slog.DiscardHandler), Alive: func() bool { return alive }})
		var p wire.PS = s
		if twin.remote {
			p, _ = serve(t, s)
		}
		c := &cluster{servers: []*Server{s}, ps: []wire.PS{p}}
		c.assign(w.assignment(1))
		must(t, p.Push(ctx, w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})))
		alive = false
		for name, err := range map[string]error{
			"pull":     p.Pull(ctx, &wire.PullRequest{Header: c.header(0, 1), Bare: true}, new(wire.PullReply)),
			"push":     p.Push(ctx, w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})),
			"fence":    second(p.Fence(ctx, &wire.FenceRequest{Job: "job", Routes: 1, Generation: 1, Epoch: 1})),
			"snapshot": second(p.Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 1, Number: 1, Cut: make(tidemill.Cut, len(w.rows))}, func() {})),
		} {
			if !errors.Is(err, tidemill.ErrFenced) {
				t.Errorf("%s, %s: %v", twin.name, name, err)
			}
		}
		if _, err := p.Status(ctx, "job"); err != nil {
			t.Errorf("%s: the trainer must still see what it can: %v", twin.name, err)
		}
	}
}

// TestCutOff: calls without a connection, or whose connection breaks, are ErrUnavailable.
func TestCutOff(t *testing.T) {
	ctx := context.Background()
	w := randomWork(t, 1, 0)
	defer w.release()
	c := start(t, w.assignment(1), store(t), true)
	waits := waiting(c, 0, func() error {
		return c.ps[0].Pull(ctx, &wire.PullRequest{Header: c.header(0, 9), Bare: true}, new(wire.PullReply))
	})
	snaps := waiting(c, 0, func() error {
		return second(c.ps[0].Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 1, Number: 1, Round: 9, Cut: w.cut(9)}, func() { t.Error("marked") }))
	})
	c.stop[0]()
	p := c.ps[0]
	for name, err := range map[string]error{
		"waiting pull":     <-waits,
		"waiting snapshot": <-snaps,
		"pull":             p.Pull(ctx, &wire.PullRequest{Header: c.header(0, 1), Bare: true}, new(wire.PullReply)),
		"push":             p.Push(ctx, w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})),
		"fence":            second(p.Fence(ctx, &wire.FenceRequest{Job: "job"})),
		"snapshot":         second(p.Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Number: 1}, func() {})),
		"status":           second(p.Status(ctx, "job")),
	} {
		if !errors.Is(err, tidemill.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRun follows assignments from a channel, waits for restores and ends with the channel.
func TestRun(t *testing.T) {
	ctx := context.Background()
	w := randomWork(t, 1, 0)
	defer w.release()
	s := New(Config{Member: "p0", Bucket: store(t), Logger: slog.New(slog.DiscardHandler)})
	assignments := make(chan tidemill.Assignment)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, assignments) }()
	a := w.assignment(1)
	assignments <- a
	a.Job = "second"
	assignments <- a
	a.Job, a.Snapshot = "broken", 12 // there is no such snapshot
	assignments <- a
	close(assignments)
	must(t, <-done)
	for job, ready := range map[string]bool{"job": true, "second": true, "broken": false} {
		if st, err := s.Status(ctx, job); err != nil || st.Ready != ready || st.Generation != 1 {
			t.Errorf("%s: %+v, %v", job, st, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Run(cancelled, make(chan tidemill.Assignment)); err != nil {
		t.Errorf("Run without time: %v", err)
	}
}

// TestPartNames: what two members, or two generations, write never has the same name.
func TestPartNames(t *testing.T) {
	ctx := context.Background()
	w := randomWork(t, 2, 0)
	defer w.release()
	bucket := store(t)
	c := start(t, w.assignment(1), bucket, false)
	must(t, w.train(ctx, c, 0, 1, false))
	names := map[string]bool{}
	take := func() {
		t.Helper()
		parts, _, _, err := w.snapshot(ctx, c, 1, 1)
		must(t, err)
		for _, p := range parts {
			for _, b := range p.Blobs {
				if names[b.Name] {
					t.Errorf("%s is written twice", b.Name)
				}
				names[b.Name] = true
			}
		}
	}
	take()
	c.asg.Generation, c.asg.Seq = 2, 2
	c.assign(c.asg)
	must(t, w.train(ctx, c, 0, 1, false))
	take()
	if len(names) == 0 {
		t.Error("nothing was written")
	}
	if err := second(c.ps[0].Snapshot(ctx, &wire.SnapshotRequest{Job: "job", Routes: 1, Generation: 2, Number: 1 << 40, Round: 1, Cut: w.cut(1)}, func() {})); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("impossible number: %v", err)
	}
}
