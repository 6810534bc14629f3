package e2e

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/rebuild"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

const deadJob = `
model: dead
stream: {topic: dead}
label: {column: y, type: regression}
weight: w
time: {column: at}
features:
  - {name: x, column: x}
  - {name: c, column: c, hash: {}}
architecture: {kind: linear}
optimizer: {sparse: {adagrad: {lr: 0.1}}, dense: {adagrad: {lr: 0.1}}}
train: {batch: 8, linger: 20ms, staleness: %d, snapshot: {every: 150 rows}, max_bad_rows: 50%%}
gate: {mode: off}
`

// poison is the cause that row i is bad for, "" for most.
func poison(i int) string {
	if i%37 != 5 {
		return ""
	}
	return []string{
		tidemill.BadValue, tidemill.BadLabel, tidemill.BadWeight, tidemill.BadTime, tidemill.BadGradient,
	}[i/37%5]
}

// fillDead appends rows from to next; row i goes to partition i mod partitions.
func fillDead(s *system, partitions, from, next int) {
	s.t.Helper()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "i", Type: arrow.PrimitiveTypes.Int64},
		{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "c", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "w", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "at", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "y", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	}, nil)
	topic, err := s.Stream().Create(s.ctx, "dead", partitions, schema)
	if err != nil {
		s.t.Fatal(err)
	}
	defer topic.Close()
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for p := range partitions {
		for i := from; i < next; i++ {
			if i%partitions != p {
				continue
			}
			x, c, w, at, y := float64(i%7)/7, fmt.Sprintf("c%d", i%3), 1.0, "2026-01-02T03:04:05Z", float64(i%7)/3
			switch poison(i) {
			case tidemill.BadValue:
				x = math.Inf(1)
			case tidemill.BadLabel:
				y = math.NaN()
			case tidemill.BadWeight:
				w = -1
			case tidemill.BadTime:
				at = "yesterday"
			case tidemill.BadGradient:
				x = 3e38
			}
			b.Field(0).(*array.Int64Builder).Append(int64(i))
			b.Field(1).(*array.Float64Builder).Append(x)
			b.Field(2).(*array.StringBuilder).Append(c)
			b.Field(3).(*array.Float64Builder).Append(w)
			b.Field(4).(*array.StringBuilder).Append(at)
			b.Field(5).(*array.Float64Builder).Append(y)
		}
		rec := b.NewRecordBatch()
		_, err := topic.Append(s.ctx, p, rec, "")
		rec.Release()
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// Bad rows of every cause in a stream of four partitions, and a node that stops and starts again
// in between: what is trained is what is not bad, and the dead-letter topic has exactly the bad
// rows, each once, with its own columns.
func TestDeadLettersOnce(t *testing.T) {
	const n, partitions = 2400, 4
	want := map[string]int64{}
	bad := 0
	for i := range n {
		if c := poison(i); c != "" {
			want[c]++
			bad++
		}
	}
	for _, staleness := range []int{0, 2} {
		t.Run(fmt.Sprintf("staleness %d", staleness), func(t *testing.T) {
			dir := t.TempDir()
			s := start(t, dir, node.Config{})
			fillDead(s, partitions, 0, n)
			s.submit(parse(t, fmt.Appendf(nil, deadJob, staleness), nil))
			for _, at := range []int64{1, n / 3, 2 * n / 3} {
				s.until("some rows are trained", func() bool {
					st := s.status("dead")
					if st.State == tidemill.JobFailed || st.State == tidemill.JobPaused {
						t.Fatalf("the job is %s: %s", st.State, st.Reason)
					}
					return st.Examples >= at || st.State == tidemill.JobFinished
				})
				s.stop()
				s = start(t, dir, node.Config{})
			}
			st := s.finish("dead")
			if st.Examples != int64(n-bad) || st.Progress.Examples != st.Examples || st.BadRows != int64(bad) || !maps.Equal(st.Bad.Counts, want) {
				t.Errorf("%d examples, %d judged, %d bad rows %v; want %d and %d %v", st.Examples, st.Progress.Examples, st.BadRows, st.Bad.Counts, n-bad, bad, want)
			}
			letters := s.letters("dead")
			seen := map[int]bool{}
			for _, l := range letters {
				i := int(l.Offset)*partitions + l.Partition
				if seen[i] || l.Cause != poison(i) || l.Topic != "dead" || l.Attempts != 1 || l.Part != l.Partition || l.At != l.Offset || l.Time.IsZero() {
					t.Errorf("row %d is a letter (again: %v), and bad for %q: %+v", i, seen[i], poison(i), l)
				}
				seen[i] = true
			}
			if len(letters) != bad || st.Bad.Letters != int64(bad) || st.Bad.Topic != deadletter.Topic("dead") {
				t.Errorf("%d letters, %+v; %d rows are bad", len(letters), st.Bad, bad)
			}
			at := 0
			s.read(deadletter.Topic("dead"), func(rec arrow.RecordBatch) {
				for k, i := range rec.Column(0).(*array.Int64).Int64Values() {
					if l := letters[at]; i != l.Offset*partitions+int64(l.Partition) {
						t.Errorf("the letter of offset %d of partition %d has row %d", l.Offset, l.Partition, i)
					}
					if x := rec.Column(1).(*array.Float64).Value(k); poison(int(i)) == tidemill.BadGradient && x != 3e38 {
						t.Errorf("row %d: x is %v", i, x)
					}
					at++
				}
			})
			// A trainer that takes over adds nothing.
			s.stop()
			s = start(t, dir, node.Config{})
			s.until("the trainer has looked at the job", func() bool { return !s.Trainer().Busy("dead") })
			if again := s.letters("dead"); len(again) != bad {
				t.Errorf("%d letters after another start", len(again))
			}
		})
	}
}

// replay gives dead letters to training again.
func (s *system) replay(job string, args map[string]string) trainer.ReplayStatus {
	s.t.Helper()
	st, err := s.Trainer().ReplayDead(s.ctx, job, args["reason"], args["limit"])
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// A job whose spec does not know a label pauses; started again from its snapshot with a spec that
// does, it trains the dead rows when it is told to, each once, over stops and repeated commands;
// those that are still bad are put aside again.
func TestReplayAfterAFix(t *testing.T) {
	const n = 1000
	var labels []int
	for i := range 12 {
		labels = append(labels, 110+37*i)
	}
	numbers := []int{120, 700}
	dir := t.TempDir()
	s := start(t, dir, node.Config{})
	fillBad(s, 2, n, labels, numbers)
	s.submit(parse(t, fmt.Appendf(nil, badJob, 4, 5), nil))
	s.reach("bad", tidemill.JobPaused)
	if _, err := s.Trainer().Command(s.ctx, "bad", trainer.VerbCancel, map[string]string{"by": "test"}); err != nil {
		t.Fatal(err)
	}
	s.until("the job is over", func() bool { return !s.Trainer().Busy("bad") })
	st := s.status("bad")
	dead := len(s.letters("bad"))
	if dead < 6 || int64(dead) != st.BadRows {
		t.Fatalf("%d letters of %d bad rows", dead, st.BadRows)
	}

	fixed := func() *spec.Document {
		return parse(t, fmt.Appendf(nil, badJob, 4, 5), func(s *tidemill.Spec) {
			s.Label.Positive, s.Train.UntilEnd = []string{"yes", "perhaps"}, false
		})
	}
	from := fmt.Sprintf("bad/%d", st.Snapshot)
	if _, err := s.Trainer().SubmitFrom(s.ctx, fixed(), trainer.From{Name: from}); err != nil {
		t.Fatal(err)
	}
	one := s.replay("bad", map[string]string{"reason": "label", "limit": "2"})
	if one.Replayed != 2 || one.Before != 0 || one.Partition != 2 || one.Left == 0 {
		t.Errorf("two of them: %+v", one)
	}
	s.stop()
	s = start(t, dir, node.Config{})
	var all trainer.ReplayStatus
	s.until("the job takes commands again", func() bool {
		var err error
		all, err = s.Trainer().ReplayDead(s.ctx, "bad", "label", "")
		return err == nil
	})
	unknown := int(st.Bad.Counts[tidemill.BadLabel])
	if all.Replayed+2 != unknown || all.Before != 2 || all.Letters != unknown {
		t.Errorf("all of them, %d: %+v", unknown, all)
	}
	if again := s.replay("bad", map[string]string{"reason": tidemill.BadLabel}); again.Replayed != 0 || again.Before != unknown {
		t.Errorf("a second time: %+v", again)
	}
	hopeless := s.replay("bad", map[string]string{"reason": "not a finite number"})
	if hopeless.Replayed < 1 || hopeless.Replayed > len(numbers) {
		t.Errorf("rows that are bad for ever: %+v", hopeless)
	}
	// The row that is bad for ever is put aside again, and nothing else is missing.
	s.until("all is trained", func() bool { return s.status("bad").Examples == n-int64(len(numbers)) })
	s.until("all is put aside", func() bool {
		return s.status("bad").BadRows == int64(unknown+len(numbers)+hopeless.Replayed)
	})
	if _, err := s.Trainer().Command(s.ctx, "bad", trainer.VerbFinish, map[string]string{"by": "test"}); err != nil {
		t.Fatal(err)
	}
	st = s.finish("bad")
	if st.Examples != n-int64(len(numbers)) {
		t.Errorf("%d examples of %d rows, %d of which are bad", st.Examples, n, len(numbers))
	}
	if st.Cut.Rows() != int64(n+unknown+hopeless.Replayed) || len(st.Cut) != 3 {
		t.Errorf("the job ends at %v", st.Cut)
	}
	// Row 120 was a letter, was trained again, and is as bad as before.
	attempts := map[int][]int64{}
	for _, l := range s.letters("bad") {
		i := int(l.Offset)*2 + l.Partition
		attempts[i] = append(attempts[i], l.Attempts)
	}
	for _, i := range numbers {
		want := []int64{1}
		if slices.Contains(attempts[i], 2) {
			want = []int64{1, 2}
		}
		if !slices.Equal(attempts[i], want) || i == 120 && len(want) != 2 {
			t.Errorf("row %d was put aside %v", i, attempts[i])
		}
	}
}

// A bounded job that put too many rows aside waits at its end, and its dead rows can be replayed
// before it is over.
func TestReplayBeforeTheEnd(t *testing.T) {
	const n, dead = 200, 8
	var labels []int
	for i := range dead {
		labels = append(labels, 3+20*i)
	}
	s := start(t, t.TempDir(), node.Config{})
	fillBad(s, 1, n, labels, nil)
	s.submit(parse(t, fmt.Appendf(nil, badJob, 4, 5), func(s *tidemill.Spec) { s.Train.Snapshot.Rows = 10 * n }))
	st := s.reach("bad", tidemill.JobPaused)
	if st.Examples != n-dead || len(s.letters("bad")) != dead {
		t.Fatalf("paused after %d examples with %d letters", st.Examples, len(s.letters("bad")))
	}
	if r := s.replay("bad", nil); r.Replayed != dead || r.State != tidemill.JobPaused {
		t.Errorf("%+v", r)
	}
	s.until("the job is over", func() bool {
		if st = s.status("bad"); st.State == tidemill.JobPaused {
			// It may be over before it is resumed.
			_, _ = s.Trainer().Command(s.ctx, "bad", trainer.VerbResume, map[string]string{"by": "test"})
		}
		return st.State == tidemill.JobFinished
	})
	if !slices.Equal(st.Cut, tidemill.Cut{n, dead}) || st.Examples != n-dead || st.BadRows != 2*dead {
		t.Errorf("the job ends at %v with %d examples, %d bad rows", st.Cut, st.Examples, st.BadRows)
	}
	count := map[int64]int{}
	for _, l := range s.letters("bad") {
		count[l.Attempts]++
	}
	if count[1] != dead || count[2] != dead {
		t.Errorf("letters by attempts: %v", count)
	}
}

// Partitions that a topic gets while a job runs join it, and the digest at staleness 0 is that
// of the recorded schedule: a stop and a start give the same.
func TestPartitionsJoin(t *testing.T) {
	const n = 1200
	dir := t.TempDir()
	s := start(t, dir, node.Config{})
	fillDead(s, 2, 0, n)
	doc := parse(t, fmt.Appendf(nil, deadJob, 0), func(s *tidemill.Spec) { s.Train.UntilEnd = false })
	s.submit(doc)
	s.reach("dead", tidemill.JobRunning)
	s.until("the job is under way", func() bool { return s.status("dead").Examples > n/4 })
	topic, err := s.Stream().Open(s.ctx, "dead")
	if err != nil {
		t.Fatal(err)
	}
	if err := topic.Grow(s.ctx, 4); err != nil {
		t.Fatal(err)
	}
	topic.Close()
	fillDead(s, 4, n, 2*n)
	bad := int64(0)
	for i := range 2 * n {
		if poison(i) != "" {
			bad++
		}
	}
	s.until("all partitions are trained", func() bool { return s.status("dead").Examples == 2*n-bad })
	s.stop()
	s = start(t, dir, node.Config{})
	s.until("all partitions are trained", func() bool { return s.status("dead").Examples == 2*n-bad })
	if _, err := s.Trainer().Command(s.ctx, "dead", trainer.VerbFinish, map[string]string{"by": "test"}); err != nil {
		t.Fatal(err)
	}
	st := s.finish("dead")
	if st.Examples != 2*n-bad || st.BadRows != bad || st.Cut.Rows() != 2*n || len(st.Cut) != 4 || int64(len(s.letters("dead"))) != bad {
		t.Errorf("%d examples, %d bad rows, cut %v, %d letters; want %d and %d", st.Examples, st.BadRows, st.Cut, len(s.letters("dead")), 2*n-bad, bad)
	}
	if m := s.manifest("dead"); len(m.Origins) != 4 || m.Origins[3].Partition != 3 || m.Origins[3].Round < 2 {
		t.Errorf("the manifest's origins: %+v", m.Origins)
	}
	if st.Champion < 2 {
		t.Errorf("version %d serves", st.Champion)
	}
	// A version from after the growth comes out the same when it is trained again.
	if r := s.rebuild("dead", st.Champion, rebuild.Nearest); r.Outcome != rebuild.Same {
		t.Errorf("version %d again: %+v", st.Champion, r)
	}
}
