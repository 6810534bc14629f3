package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/trainer"
)

const badJob = `
model: bad
stream: {topic: bad}
label: {column: y, positive: [yes], negative: [no]}
features:
  - {name: x, column: x}
  - {name: c, column: c, hash: {}}
architecture: {kind: logistic}
optimizer: {sparse: {adagrad: {lr: 0.1}}, dense: {adagrad: {lr: 0.1}}}
train: {batch: %d, linger: 20ms, snapshot: {every: 100 rows}, max_bad_rows: %d}
gate: {mode: off}
`

// fillBad appends n rows, row i to partition i mod partitions. Those in labels have a label
// outside the set, those in numbers a number that is none.
func fillBad(s *system, partitions, n int, labels, numbers []int) {
	s.t.Helper()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "y", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	topic, err := s.Stream().Create(s.ctx, "bad", partitions, schema)
	if err != nil {
		s.t.Fatal(err)
	}
	defer topic.Close()
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for p := range partitions {
		for i := p; i < n; i += partitions {
			x, y := float64(i%7)/7, "no"
			if i%7 > 3 {
				y = "yes"
			}
			if slices.Contains(labels, i) {
				y = "perhaps"
			}
			if slices.Contains(numbers, i) {
				x = math.NaN()
			}
			b.Field(0).(*array.Float64Builder).Append(x)
			b.Field(1).(*array.StringBuilder).Append(fmt.Sprintf("c%d", i%3))
			b.Field(2).(*array.StringBuilder).Append(y)
		}
		rec := b.NewRecordBatch()
		_, err := topic.Append(s.ctx, p, rec, "")
		rec.Release()
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// Rows that cannot be used are put aside with the reason, in the manifest, and the job goes on
// as if they were not there.
func TestBadRowsArePutAside(t *testing.T) {
	const n = 1000
	labels, numbers := []int{0, 5, 6, 7, 8, 500}, []int{1, 301, 999}
	bad := append(slices.Clone(labels), numbers...)
	for _, batch := range []int{1, 8} {
		t.Run(fmt.Sprintf("batch %d", batch), func(t *testing.T) {
			s := start(t, t.TempDir(), node.Config{})
			fillBad(s, 2, n, labels, numbers)
			s.submit(parse(t, fmt.Appendf(nil, badJob, batch, 100), nil))
			st := s.finish("bad")
			if st.Examples != int64(n-len(bad)) || st.Progress.Examples != st.Examples || st.Cut.Rows() != n || st.BadRows != int64(len(bad)) {
				t.Errorf("%d examples, %d judged, cut %v, %d bad rows", st.Examples, st.Progress.Examples, st.Cut, st.BadRows)
			}
			if !(st.Progress.Loss < st.Progress.PriorLoss) {
				t.Errorf("loss %v, prior %v", st.Progress.Loss, st.Progress.PriorLoss)
			}
			if want := map[string]int64{tidemill.BadLabel: int64(len(labels)), tidemill.BadValue: int64(len(numbers))}; !maps.Equal(st.Bad.Counts, want) {
				t.Errorf("counted %v, want %v", st.Bad.Counts, want)
			}
			// Row i is offset i/2 of partition i mod 2.
			listed := map[int]string{}
			for _, l := range s.letters("bad") {
				listed[int(l.Offset)*2+l.Partition] = l.Reason
			}
			for _, i := range bad {
				column := "y: "
				if slices.Contains(numbers, i) {
					column = "x: "
				}
				if !strings.HasPrefix(listed[i], column) {
					t.Errorf("row %d is listed as %q, want a reason about column %s", i, listed[i], column)
				}
			}
			if len(listed) != len(bad) {
				t.Errorf("%d rows are listed, %d are bad", len(listed), len(bad))
			}
		})
	}
}

// More bad rows than allowed pause the job, once; the operator's word lets it go on.
func TestTooManyBadRowsPause(t *testing.T) {
	const n, most = 1000, 5
	var labels []int
	for i := range 12 {
		labels = append(labels, 110+3*i)
	}
	dir := t.TempDir()
	s := start(t, dir, node.Config{})
	fillBad(s, 1, n, labels, nil)
	s.submit(parse(t, fmt.Appendf(nil, badJob, 4, most), nil))
	st := s.reach("bad", tidemill.JobPaused)
	for _, part := range []string{"12 rows were put aside (label: 12)", "max_bad_rows: 5", "offset 143 of partition 0", "topic bad.dead", "tidemill job bad resume", "replay-dead"} {
		if !strings.Contains(st.Reason, part) {
			t.Errorf("paused because: %s; it lacks %q", st.Reason, part)
		}
	}
	// Nothing is granted any more: the newest snapshot stays what it is, also over a restart.
	s.stop()
	s = start(t, dir, node.Config{})
	s.until("the ps stands where it stood", func() bool { st = s.status("bad"); return st.State == tidemill.JobPaused && st.Progress.Examples > 0 })
	if st.Examples >= n-12 || st.BadRows != 12 {
		t.Errorf("a paused job has %d examples, %d bad rows", st.Examples, st.BadRows)
	}
	if _, err := s.Trainer().Command(s.ctx, "bad", trainer.VerbResume, map[string]string{"by": "test"}); err != nil {
		t.Fatal(err)
	}
	if st = s.finish("bad"); st.Examples != n-12 {
		t.Errorf("%d examples", st.Examples)
	}
}

// A row on which loss or gradient is not finite is put aside on its own.
func TestOverflowingRowIsPutAside(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("x,y\n")
	for i := range 300 {
		x := fmt.Sprint(float64(i%10) / 10)
		if i == 123 || i == 299 {
			x = "3e38" // fits a float32, its square does not
		}
		fmt.Fprintf(&b, "%s,%g\n", x, float64(i%10)/5)
	}
	s := start(t, t.TempDir(), node.Config{})
	s.produce("wide", 1, b.Bytes())
	s.submit(parse(t, []byte(`
model: wide
stream: {topic: wide}
label: {column: y, type: regression}
features: [{name: x, column: x}]
architecture: {kind: linear}
optimizer: {dense: {adagrad: {lr: 0.1}}}
train: {batch: 16, linger: 20ms, snapshot: {every: 100 rows}}
gate: {mode: off}
`), nil))
	st := s.finish("wide")
	var at []int64
	for _, l := range s.letters("wide") {
		at = append(at, l.Offset)
		if l.Cause != tidemill.BadGradient {
			t.Errorf("offset %d is put aside for %s: %s", l.Offset, l.Cause, l.Reason)
		}
	}
	if st.Examples != 298 || !slices.Equal(at, []int64{123, 299}) {
		t.Errorf("%d examples, put aside: %v", st.Examples, at)
	}
	if !(st.Progress.Loss < 1) {
		t.Errorf("loss %v", st.Progress.Loss)
	}
	if _, err := snapshot.ReadVersion(s.ctx, s.Bucket(), "wide", st.Champion); err != nil {
		t.Errorf("the champion cannot be read: %v", err)
	}
}
