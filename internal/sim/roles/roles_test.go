package roles

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// The job counts: under Huber's loss with delta 1 and labels beyond every prediction, each row's
// gradient is −1/batch, and plain SGD with a rate of batch adds exactly 1 to the weight of its id
// and to the bias.
const (
	jobName    = "counts"
	batch      = 8
	partitions = 3
	rows       = 60 * batch // in each partition
	keys       = 50
)

var schema = arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}, {Name: "y", Type: arrow.PrimitiveTypes.Int64}}, nil)

func idOf(partition, offset int) int64 {
	return int64(tidemill.Mix(uint64(partition)<<32+uint64(offset)) % keys)
}

// fill makes the topic and returns its rows.
func (c *cluster) fill() []arrow.RecordBatch {
	topic, err := c.stream.Create(context.Background(), jobName, partitions, schema)
	if err != nil {
		c.t.Fatal(err)
	}
	defer topic.Close()
	var out []arrow.RecordBatch
	for p := range partitions {
		b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		for o := range rows {
			b.Field(0).(*array.Int64Builder).Append(idOf(p, o))
			b.Field(1).(*array.Int64Builder).Append(1 << 26)
		}
		rec := b.NewRecordBatch()
		b.Release()
		if _, err := topic.Append(context.Background(), p, rec, ""); err != nil {
			c.t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// submit asks whoever leads for the job until it is there.
func (c *cluster) submit(staleness int) {
	doc, err := spec.Parse([]byte(fmt.Sprintf(`
model: %s
stream: {topic: %s, from: earliest}
label: {column: y, type: regression}
features: [{name: id, column: id, hash: {}}]
architecture: {kind: linear, loss: huber, huber_delta: 1}
optimizer: {sparse: {sgd: {lr: %d}}, dense: {sgd: {lr: %d}}}
train: {batch: %d, linger: 1h, staleness: %d, until_end: true, snapshot: {every: 200 rows, keep: 3}}
gate: {mode: off}
`, jobName, jobName, batch, batch, batch, staleness)), "job.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	for range 1000 {
		if t := c.leader(); t != nil {
			_, err := t.SubmitSpec(context.Background(), doc)
			if err == nil || errors.Is(err, tidemill.ErrExists) {
				return
			}
		}
		sleep(context.Background(), 100*time.Millisecond)
	}
	c.t.Fatal("the job could not be submitted")
}

// errorf reports what is wrong, and in which schedule.
func (c *cluster) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf(c.schedule+": "+format, args...)
}

// record reads the job's record as it is.
func (c *cluster) record() (a tidemill.Assignment, revision uint64) {
	e, err := c.records.Get(context.Background(), trainer.JobPrefix+jobName)
	if err == nil {
		err = json.Unmarshal(e.Value, &a)
	}
	if err != nil {
		c.t.Error(err)
	}
	return a, e.Revision
}

// finished waits for the job's end, for five minutes of the bubble's time.
func (c *cluster) finished() bool {
	for range 3000 {
		a, _ := c.record()
		switch a.State {
		case tidemill.JobFinished:
			return true
		case tidemill.JobFailed:
			c.errorf("the job failed: %s", a.Reason)
			return false
		}
		sleep(context.Background(), 100*time.Millisecond)
	}
	a, _ := c.record()
	c.errorf("the job did not finish: %s, generation %d, snapshot %d, cut %v", a.State, a.Generation, a.Snapshot, a.Cut)
	return false
}

// counts is a snapshot's state.
type counts struct {
	width int
	rows  map[uint64]float32
	bias  float32
}

func (s *counts) Rows(_, _ int, ids []uint64, values []float32) error {
	for i, id := range ids {
		s.rows[id] = values[i*s.width]
	}
	return nil
}

func (s *counts) Block(_ int, b snapshot.Block) error {
	s.bias += b.Weight[0]
	return nil
}

func (s *counts) Aux(int, string, []byte) error { return nil }

// audit counts every snapshot that is still whole, and returns the last one.
func (c *cluster) audit(log []arrow.RecordBatch) *snapshot.Manifest {
	ctx := context.Background()
	chain, err := snapshot.Snapshots(c.bucket, jobName)
	if err != nil {
		c.t.Fatal(err)
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	taken, err := snapshot.Taken(ctx, c.bucket, jobName)
	if err != nil {
		c.t.Fatal(err)
	}
	var last *snapshot.Manifest
	for _, n := range numbers {
		m, err := snapshot.ReadManifest(ctx, chain, n)
		if err != nil {
			c.t.Error(err)
			return nil
		}
		if m.Fence != nil {
			continue
		}
		if last != nil && slices.ContainsFunc([]int{0, 1, 2}, func(p int) bool { return m.Cut[p] < last.Cut[p] }) {
			c.errorf("snapshot %d goes back from %v to %v", m.Number, last.Cut, m.Cut)
		}
		last = m
		if !taken.Has(n) {
			c.count(m, log)
		}
	}
	return last
}

// count compares a snapshot with the rows below its cut.
func (c *cluster) count(m *snapshot.Manifest, log []arrow.RecordBatch) {
	got := &counts{width: m.Layout.Tables[0].Width(), rows: map[uint64]float32{}}
	if err := snapshot.ReadParts(context.Background(), c.bucket, m.Parts, m.Layout, nil, got); err != nil {
		c.errorf("snapshot %d: %v", m.Number, err)
		return
	}
	compiled, err := model.Compile(&m.Spec, schema)
	if err != nil {
		c.t.Fatal(err)
	}
	want := map[uint64]float32{}
	ws := compiled.Plan.NewWorkspace()
	for p, rec := range log {
		below := rec.NewSlice(0, m.Cut[p])
		var in engine.Inputs
		if err := compiled.Plan.Sparse(ws, &in, below, nil); err != nil {
			c.t.Fatal(err)
		}
		for _, id := range in.IDs {
			want[id]++
		}
		below.Release()
	}
	if n := m.Cut.Rows(); m.Examples != n || got.bias != float32(n) || !maps.Equal(got.rows, want) {
		c.errorf("snapshot %d at %v says %d examples, counts %v rows and %d ids, and its cut has %d rows of %d ids",
			m.Number, m.Cut, m.Examples, got.bias, len(got.rows), n, len(want))
	}
}

var (
	schedules = flag.Uint64("schedules", 3, "random schedules per staleness")
	from      = flag.Uint64("seed", 1, "the first seed")
)

// TestRolesUnderFaults runs the same job under no faults and under random schedules of them. All
// in one bubble, since pools of requests outlive a job.
func TestRolesUnderFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, staleness := range []int{0, 2, -1} {
			calm := play(t, 0, staleness, false)
			for seed := *from; calm != nil && seed < *from+*schedules; seed++ {
				m := play(t, seed, staleness, true)
				if m == nil {
					return
				}
				if m.Cut.Rows() != rows*partitions {
					t.Errorf("seed %d, staleness %d: the job ended at %v", seed, staleness, m.Cut)
				}
				if staleness == 0 && m.Digest != calm.Digest {
					t.Errorf("seed %d: faults have changed the result from %s to %s", seed, calm.Digest, m.Digest)
				}
			}
		}
	})
}

// play runs the job to its end and returns its last snapshot.
func play(t *testing.T, seed uint64, staleness int, faults bool) *snapshot.Manifest {
	began := time.Now()
	c := newCluster(t, seed)
	c.schedule = fmt.Sprintf("seed %d, staleness %d", seed, staleness)
	log := c.fill()
	defer func() {
		for _, rec := range log {
			rec.Release()
		}
	}()
	for i := range 2 {
		c.add(fmt.Sprintf("t%d", i+1), "trainer").start()
	}
	for i := range 3 {
		c.add(fmt.Sprintf("p%d", i+1), "ps").start()
		c.add(fmt.Sprintf("w%d", i+1), "worker").start()
	}
	c.submit(staleness)
	var told []string
	if faults {
		told = c.faults(t)
	}
	finished := c.finished()
	c.stop()
	a, _ := c.record()
	last := c.audit(log)
	c.close()
	c.log.Info("over", "seed", seed, "staleness", staleness, "took", time.Since(began), "generation", a.Generation, "faults", len(told))
	if !finished || t.Failed() {
		t.Errorf("seed %d, staleness %d, after %v", seed, staleness, told)
		return nil
	}
	return last
}
