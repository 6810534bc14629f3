package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow/array"
	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
)

// ledger is what was appended: for each partition, by offset, the ids of the row's features.
type ledger struct {
	ids  [][][2]uint64
	rows int64
}

// readLedger reads a topic of the counting job. Every row from 0 to rows−1 has to be there
// exactly once; what is not is named in the error.
func readLedger(ctx context.Context, streamURL string, m *model.Model, rows int64) (*ledger, error) {
	nc, err := broker.Dial(ctx, streamURL, broker.DialConfig{Name: "ledger"})
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stream, err := natsource.New(nc, natsource.Config{})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	topic, err := stream.Open(ctx, m.Spec.Stream.Topic)
	if err != nil {
		return nil, err
	}
	defer topic.Close()
	info, err := topic.Info(ctx)
	if err != nil {
		return nil, err
	}
	l := &ledger{ids: make([][][2]uint64, info.Partitions)}
	seen := make([]uint8, rows)
	for p := range info.Partitions {
		if err := l.read(ctx, topic, p, info.Next[p], m, seen); err != nil {
			return nil, err
		}
		l.rows += info.Next[p]
	}
	var wrong []error
	for id, n := range seen {
		if n != 1 && len(wrong) < 10 {
			wrong = append(wrong, fmt.Errorf("acknowledged row %d is in the topic %d times: %w", id, n, tidemill.ErrCorrupt))
		}
	}
	return l, errors.Join(wrong...)
}

func (l *ledger) read(ctx context.Context, topic source.Topic, p int, next int64, m *model.Model, seen []uint8) error {
	r, err := topic.Reader(ctx, p, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	w := m.Plan.NewWorkspace()
	var in engine.Inputs
	for r.Position() < next {
		batch, err := r.Next(ctx, 4096)
		if err != nil {
			return err
		}
		column, ok := batch.Rows.Column(batch.Rows.Schema().FieldIndices("id")[0]).(*array.Int64)
		if ok {
			for _, id := range column.Int64Values() {
				if id < 0 || id >= int64(len(seen)) {
					batch.Rows.Release()
					return fmt.Errorf("row %d in partition %d was never produced: %w", id, p, tidemill.ErrCorrupt)
				}
				seen[id]++
			}
			err = m.Plan.Sparse(w, &in, batch.Rows, nil)
		} else {
			err = fmt.Errorf("column id is no int64: %w", tidemill.ErrCorrupt)
		}
		batch.Rows.Release()
		if err != nil {
			return err
		}
		for i := range in.N {
			l.ids[p] = append(l.ids[p], [2]uint64{in.IDs[2*i], in.IDs[2*i+1]})
		}
	}
	return nil
}

// state is a counting job's parameters as a snapshot holds them. It is a snapshot.Sink.
type state struct {
	width  int
	counts map[uint64]float32
	bias   float32
	twice  int // ids that came more than once
}

func (s *state) Rows(_, _ int, ids []uint64, rows []float32) error {
	for i, id := range ids {
		if _, ok := s.counts[id]; ok {
			s.twice++
		}
		s.counts[id] = rows[i*s.width]
	}
	return nil
}

func (s *state) Block(_ int, b snapshot.Block) error {
	if len(b.Weight) == 1 {
		s.bias += b.Weight[0]
	}
	return nil
}

func (s *state) Aux(int, string, []byte) error { return nil }

// check compares one snapshot with the rows below its cut: each of them counted once, and
// nothing else.
func (l *ledger) check(ctx context.Context, b *blob.Bucket, m *snapshot.Manifest) error {
	s := &state{width: m.Layout.Tables[0].Width(), counts: map[uint64]float32{}}
	if err := snapshot.ReadParts(ctx, b, m.Parts, m.Layout, nil, s); err != nil {
		return fmt.Errorf("snapshot %d: %w", m.Number, err)
	}
	return l.compare(s, m)
}

// compare compares the state that a snapshot holds with the rows below its cut.
func (l *ledger) compare(s *state, m *snapshot.Manifest) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("snapshot %d: %s: %w", m.Number, fmt.Sprintf(format, args...), tidemill.ErrCorrupt)
	}
	want := make(map[uint64]float32, len(s.counts))
	for p, ids := range l.ids {
		if m.Cut[p] > int64(len(ids)) {
			return wrong("its cut %d in partition %d lies after the log's end %d", m.Cut[p], p, len(ids))
		}
		for _, pair := range ids[:m.Cut[p]] {
			want[pair[0]]++
			want[pair[1]]++
		}
	}
	rows := m.Cut.Rows()
	switch {
	case m.Examples != rows:
		return wrong("it says %d examples, and its cut holds %d", m.Examples, rows)
	case s.bias != float32(rows):
		return wrong("the bias was moved by %v rows of %d", s.bias, rows)
	case s.twice > 0:
		return wrong("%d ids are in it more than once", s.twice)
	case len(m.BadRows) > 0:
		return wrong("%d rows were put aside", len(m.BadRows))
	}
	bad, first := 0, ""
	for p, ids := range l.ids {
		for at, pair := range ids[:m.Cut[p]] {
			if got := s.counts[pair[0]]; got != want[pair[0]] {
				if bad++; first == "" {
					first = fmt.Sprintf("the row at offset %d of partition %d counts %v times", at, p, got)
				}
			}
		}
	}
	for id, n := range want {
		if s.counts[id] != n && bad == 0 {
			bad++
			first = fmt.Sprintf("id %x counts %v times, not %v", id, s.counts[id], n)
		}
	}
	if bad > 0 {
		return wrong("%d of %d rows are not counted once; %s", bad, rows, first)
	}
	if len(s.counts) != len(want) {
		return wrong("it holds %d ids, and its rows have %d", len(s.counts), len(want))
	}
	return nil
}

// audit is what audit found in a job's chain of snapshots.
type audit struct {
	snapshots int // committed
	checked   int // of them, compared row by row
	last      *snapshot.Manifest
}

// audit compares every snapshot of the chain that is still there with the ledger, the last one
// with all of it, and sees that cuts only grow within a lineage.
func (l *ledger) audit(ctx context.Context, b *blob.Bucket) (audit, error) {
	var a audit
	chain, err := snapshot.Snapshots(b, countsJob)
	if err != nil {
		return a, err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return a, err
	}
	slices.Sort(numbers)
	var errs []error
	for _, n := range numbers {
		m, err := snapshot.ReadManifest(ctx, chain, n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if m.Fence != nil {
			continue
		}
		a.snapshots++
		if a.last != nil && a.last.Lineage == m.Lineage {
			for p := range m.Cut {
				if m.Cut[p] < a.last.Cut[p] {
					errs = append(errs, fmt.Errorf("snapshot %d goes back in partition %d from %d to %d: %w",
						m.Number, p, a.last.Cut[p], m.Cut[p], tidemill.ErrCorrupt))
				}
			}
		}
		a.last = m
		if err := l.check(ctx, b, m); err != nil {
			errs = append(errs, err)
		}
		a.checked++
	}
	if a.last == nil {
		errs = append(errs, fmt.Errorf("no snapshot was committed: %w", tidemill.ErrCorrupt))
	} else if a.last.Cut.Rows() != l.rows {
		errs = append(errs, fmt.Errorf("the last snapshot holds %d rows, %d were acknowledged: %w", a.last.Cut.Rows(), l.rows, tidemill.ErrCorrupt))
	}
	return a, errors.Join(errs...)
}
