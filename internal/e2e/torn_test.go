package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

const tornJob = `
model: torn
stream: {topic: torn}
label: {column: y, positive: 1}
features:
  - {name: x, column: x}
architecture: {kind: logistic}
optimizer: {sparse: {adagrad: {lr: 0.1}}, dense: {adagrad: {lr: 0.1}}}
train: {batch: 8, linger: 20ms, snapshot: {every: 100 rows}, max_bad_rows: 50%}
gate: {mode: off}
`

// torn returns what the stream holds for row i, and whether it is a row.
func torn(i int) (value []byte, good bool) {
	row := fmt.Appendf(nil, `{"x":%g,"y":%d}`, float64(i%10)/10, i%10/5)
	if i%23 != 7 {
		return row, true
	}
	switch i / 23 % 6 {
	case 0:
		return row[:len(row)-3], false // as a producer leaves it that dies while it writes
	case 1:
		return []byte{}, false
	case 2:
		return []byte(`[1, 2]`), false
	case 3:
		return []byte(`{"x":"much","y":1}`), false
	case 4:
		return []byte{0xff, 0xfe, 0x00, '{'}, false
	default:
		return append(row, row...), false
	}
}

// records is a topic of JSON records on a fake broker.
type records struct {
	t    *testing.T
	c    *kfake.Cluster
	prod *kgo.Client
}

func newRecords(t *testing.T, partitions int32) *records {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.CreateTopic("torn", partitions, nil); err != nil {
		t.Fatal(err)
	}
	prod, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(prod.Close)
	return &records{t, c, prod}
}

// add appends rows from to next, row i to partition i mod partitions.
func (r *records) add(partitions, from, next int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var all []*kgo.Record
	for i := from; i < next; i++ {
		value, _ := torn(i)
		all = append(all, &kgo.Record{Topic: "torn", Partition: int32(i % partitions), Value: value})
	}
	if err := r.prod.ProduceSync(ctx, all...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *records) job() *spec.Document {
	return parse(r.t, []byte(tornJob), func(s *tidemill.Spec) {
		s.Stream.Kafka = &tidemill.KafkaSpec{Brokers: r.c.ListenAddrs(), Format: tidemill.KafkaJSON, Schema: []tidemill.ColumnSpec{
			{Name: "x", Type: "float64"}, {Name: "y", Type: "int64"},
		}}
		s.Train.UntilEnd = false
	})
}

// Records that cannot be decoded are put aside as they are, each once, whatever was stopped
// meanwhile; replaying them says that they still cannot be.
func TestUndecodableRecords(t *testing.T) {
	const rows, partitions = 1500, 2
	bad := 0
	for i := range rows {
		if _, good := torn(i); !good {
			bad++
		}
	}
	r := newRecords(t, partitions)
	r.add(partitions, 0, rows/2)
	dir := t.TempDir()
	s := start(t, dir, node.Config{})
	s.submit(r.job())
	for _, at := range []int64{1, rows / 4} {
		s.until("some rows are trained", func() bool { return s.status("torn").Examples >= at })
		s.stop()
		s = start(t, dir, node.Config{})
	}
	r.add(partitions, rows/2, rows)
	var st trainer.JobStatus
	s.until("all rows are trained", func() bool {
		st = s.status("torn")
		if st.State != tidemill.JobRunning {
			t.Fatalf("the job is %s: %s", st.State, st.Reason)
		}
		return st.Examples >= int64(rows-bad)
	})
	if _, err := s.Trainer().Command(s.ctx, "torn", trainer.VerbSavepoint, map[string]string{"label": "all", "by": "test"}); err != nil {
		t.Fatal(err)
	}
	s.until("all bad records are put aside", func() bool { st = s.status("torn"); return st.BadRows >= int64(bad) })
	if want := map[string]int64{tidemill.BadDecode: int64(bad)}; st.Examples != int64(rows-bad) || st.BadRows != int64(bad) || !maps.Equal(st.Bad.Counts, want) {
		t.Errorf("%d examples and %d bad rows %v, want %d and %v", st.Examples, st.BadRows, st.Bad.Counts, rows-bad, want)
	}
	letters := s.letters("torn")
	seen := map[int]bool{}
	for _, l := range letters {
		i := int(l.Offset)*partitions + l.Partition
		value, good := torn(i)
		if seen[i] || good || l.Cause != tidemill.BadDecode || l.Reason == "" || !bytes.Equal(l.Raw, value) {
			t.Errorf("row %d is a letter (again: %v), good %v: %+v holds %q", i, seen[i], good, l, l.Raw)
		}
		seen[i] = true
	}
	if len(letters) != bad {
		t.Errorf("%d letters of %d bad records", len(letters), bad)
	}
	if again := s.replay("torn", nil); again.Replayed != 0 || again.Undecoded != bad {
		t.Errorf("replayed: %+v; %d records cannot be decoded", again, bad)
	}
	s.stop()
}

// A broker that is away for a while is waited for: nothing is put aside for it, and the job goes
// on where it was.
func TestBrokerAway(t *testing.T) {
	const half, partitions = 600, 2
	good := func(rows int) (n int64) {
		for i := range rows {
			if _, ok := torn(i); ok {
				n++
			}
		}
		return n
	}
	r := newRecords(t, partitions)
	var away atomic.Bool
	var refused atomic.Int64
	// Who reads finds the connection broken; who produces does not.
	for _, key := range []kmsg.Key{kmsg.Fetch, kmsg.ListOffsets, kmsg.OffsetForLeaderEpoch} {
		r.c.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			r.c.KeepControl()
			if !away.Load() {
				return nil, nil, false
			}
			refused.Add(1)
			return nil, errors.New("away"), true
		})
	}
	r.add(partitions, 0, half)
	s := start(t, t.TempDir(), node.Config{})
	s.submit(r.job())
	s.until("the first half is trained", func() bool { return s.status("torn").Examples == good(half) })
	away.Store(true)
	back := time.Now().Add(5 * time.Second)
	s.until("the broker has been away for five seconds", func() bool { return refused.Load() >= 3 && time.Now().After(back) })
	r.add(partitions, half, 2*half) // what asked before the broker went has had its answer by now
	before := refused.Load()
	s.until("somebody asks for more", func() bool { return refused.Load() > before })
	if st := s.status("torn"); st.State != tidemill.JobRunning {
		t.Errorf("while the broker is away the job is %s: %s", st.State, st.Reason)
	}
	away.Store(false)
	var st trainer.JobStatus
	s.until("all rows are trained", func() bool {
		st = s.status("torn")
		if st.State != tidemill.JobRunning {
			t.Fatalf("the job is %s: %s", st.State, st.Reason)
		}
		return st.Examples >= good(2*half)
	})
	if _, err := s.Trainer().Command(s.ctx, "torn", trainer.VerbSavepoint, map[string]string{"label": "all", "by": "test"}); err != nil {
		t.Fatal(err)
	}
	st = s.status("torn")
	if want := 2*half - good(2*half); st.Examples != good(2*half) || st.BadRows != want || st.Bad.Counts[tidemill.BadDecode] != want {
		t.Errorf("%d examples and %d bad rows %v; only the %d that cannot be decoded may be put aside", st.Examples, st.BadRows, st.Bad.Counts, want)
	}
	s.stop()
}
