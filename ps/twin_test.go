package ps

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// seeds is how many random jobs each comparison runs.
const seeds = 8

// ending is all that a job leaves behind.
type ending struct {
	digest   snapshot.Digest
	home     wire.Home
	examples int64
	rows     int64
	overflow int64
}

func (w *work) end(t *testing.T, c *cluster, number int64) ending {
	t.Helper()
	ctx := context.Background()
	parts, home, examples, err := w.snapshot(ctx, c, number, w.last())
	must(t, err)
	if home == nil {
		t.Fatal("nobody owns the home shard")
	}
	e := ending{digest: snapshot.SumParts(parts), home: *home, examples: examples}
	for i, p := range c.ps {
		if !c.owns()[i] {
			continue
		}
		st, err := p.Status(ctx, c.asg.Job)
		must(t, err)
		if !st.Ready || st.Round != w.last() || st.Examples != examples || !reflect.DeepEqual(st.Cut, w.cut(w.last())) || st.Generation != c.asg.Generation {
			t.Fatalf("ps %d: status %+v", i, st)
		}
		e.rows, e.overflow = e.rows+st.Rows, e.overflow+st.Overflow
	}
	return e
}

// TestTwoWaysSameAnswer trains random jobs in process and over gRPC, on one to three servers,
// with the partitions racing each other: all must end in the same bits.
func TestTwoWaysSameAnswer(t *testing.T) {
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := randomWork(t, seed, 0)
			defer w.release()
			var first ending
			for i, servers := range []int{1, 1, 3, 3} {
				remote := i%2 == 1
				c := start(t, w.assignment(min(servers, w.spec.Shards)), store(t), remote)
				must(t, w.train(context.Background(), c, 0, w.last(), remote))
				e := w.end(t, c, 1)
				if i == 0 {
					first = e
				}
				if !reflect.DeepEqual(e, first) {
					t.Errorf("%d servers, remote %v: %s\n%+v\nand one in process: %s\n%+v", servers, remote, e.digest, e, first.digest, first)
				}
			}
			if first.rows == 0 || first.examples != w.cut(w.last()).Rows() {
				t.Errorf("%d rows after %d examples", first.rows, first.examples)
			}
		})
	}
}

// TestAsynchronous does the same without rounds, in one fixed order.
func TestAsynchronous(t *testing.T) {
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := randomWork(t, 100+seed, -1)
			defer w.release()
			var first snapshot.Digest
			for i, twin := range twins {
				c := start(t, w.assignment(min(2, w.spec.Shards)), store(t), twin.remote)
				trainers := make([]trainer, len(w.rows))
				for r := int64(1); r <= w.last(); r++ {
					for p := range w.rows {
						tr := &trainers[p]
						tr.w, tr.c, tr.partition, tr.scribble = w, c, p, true
						if r <= w.rounds(p) {
							must(t, tr.batch(context.Background(), 0, tidemill.Range{First: w.cut(r - 1)[p], Next: w.cut(r)[p]}, nil))
						}
					}
				}
				parts, _, _, err := w.snapshot(context.Background(), c, 1, w.last())
				must(t, err)
				if d := snapshot.SumParts(parts); i == 0 {
					first = d
				} else if d != first {
					t.Errorf("%s: digest %s, and %s in process", twin.name, d, first)
				}
			}
		})
	}
}

// TestRestore takes a snapshot while training goes on, throws everything away, and goes on
// from the snapshot on another number of servers: the end must be that of a job to which
// nothing happened.
func TestRestore(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := randomWork(t, 200+seed, 0)
			defer w.release()
			remote := seed%2 == 0
			calm := start(t, w.assignment(1), store(t), false)
			must(t, w.train(ctx, calm, 0, w.last(), false))
			want := w.end(t, calm, 1)

			bucket := store(t)
			c := start(t, w.assignment(min(2, w.spec.Shards)), bucket, remote)
			half := w.last() / 2
			type taken struct {
				parts    []snapshot.Part
				examples int64
				err      error
			}
			snapped := make(chan taken, 1)
			go func() { // asked for before its cut is reached
				var s taken
				s.parts, _, s.examples, s.err = w.snapshot(ctx, c, 1, half)
				snapped <- s
			}()
			must(t, w.train(ctx, c, 0, half, remote))
			s := <-snapped
			must(t, s.err)
			must(t, w.train(ctx, c, half, w.last(), remote)) // of no consequence

			chain, err := snapshot.Snapshots(bucket, c.asg.Job)
			must(t, err)
			must(t, snapshot.Commit(ctx, chain, &snapshot.Manifest{
				Format: snapshot.Format, Job: c.asg.Job, Model: "test", Number: 1, Generation: 1, Cut: w.cut(half), Round: half, Examples: s.examples,
				Spec: *w.spec, Schema: w.schema, Layout: w.model.Layout, Parts: s.parts, Digest: snapshot.SumParts(s.parts),
			}))
			a := w.assignment(min(3, w.spec.Shards))
			a.Seq, a.Generation, a.Snapshot, a.Cut, a.Round, a.Examples = 2, 2, 1, w.cut(half), half, s.examples
			c = start(t, a, bucket, remote)
			must(t, w.train(ctx, c, half, w.last(), remote))
			if got := w.end(t, c, 2); !reflect.DeepEqual(withoutOverflow(got), withoutOverflow(want)) {
				t.Errorf("restored: %s\n%+v\nwithout: %s\n%+v", got.digest, got, want.digest, want)
			}
		})
	}
}

// withoutOverflow: the count of look-ups that found a table full begins anew with a restore.
func withoutOverflow(e ending) ending {
	e.overflow = 0
	return e
}
