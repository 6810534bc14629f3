package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
)

// deadLetters appends the rows that a job put aside to its dead-letter topic, after the
// manifest that lists them is committed. It needs the newest manifest alone: a row is listed
// again until a snapshot is told that it is in the topic. Appends are keyed by lineage, the
// job's partition and offset, so that one that is repeated, by this trainer or by another after
// it, adds nothing.
type deadLetters struct {
	r    *run
	log  *slog.Logger
	kick chan struct{} // capacity 1

	mu      sync.Mutex
	todo    *snapshot.Manifest // guarded by mu; the newest that is not dealt with
	settled tidemill.Cut       // guarded by mu; what is put aside below is in the topic
	final   bool               // guarded by mu; no further manifest will come
	trouble string             // guarded by mu; why the topic cannot be written
}

// maxDead is how many rows put aside a manifest lists at most; the next ones list the others.
const maxDead = 1 << 16

func newDeadLetters(r *run) *deadLetters {
	return &deadLetters{r: r, log: r.log, kick: make(chan struct{}, 1)}
}

// committed hands over a committed manifest.
func (d *deadLetters) committed(m *snapshot.Manifest) {
	d.mu.Lock()
	d.todo = m
	d.mu.Unlock()
	d.wake()
}

// finish tells that no further manifest will come.
func (d *deadLetters) finish() {
	d.mu.Lock()
	d.final = true
	d.mu.Unlock()
	d.wake()
}

func (d *deadLetters) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// below returns the cut below which whatever was put aside is in the topic; it may be nil.
func (d *deadLetters) below() tidemill.Cut {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settled.Clone()
}

// waiting returns how many rows are still to be appended, and why that does not succeed.
func (d *deadLetters) waiting() (rows int, trouble string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.todo != nil {
		for _, b := range d.todo.BadRows {
			if !d.settled.Covers(b.Partition, b.Offset) {
				rows++
			}
		}
	}
	return rows, d.trouble
}

// needs lowers cut to the first row of each partition that is still to be appended.
func (d *deadLetters) needs(cut tidemill.Cut) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.todo == nil {
		return
	}
	for _, b := range d.todo.BadRows {
		if b.Partition < len(cut) && !d.settled.Covers(b.Partition, b.Offset) {
			cut[b.Partition] = min(cut[b.Partition], b.Offset)
		}
	}
}

// run appends until ctx ends, or until all is appended after finish.
func (d *deadLetters) run(ctx context.Context) {
	const least, most = 50 * time.Millisecond, 10 * time.Second
	wait := least
	for ctx.Err() == nil {
		d.mu.Lock()
		m, final := d.todo, d.final
		d.mu.Unlock()
		if m == nil {
			if final {
				return
			}
			select {
			case <-d.kick:
			case <-ctx.Done():
			}
			continue
		}
		err := d.append(ctx, m)
		if ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		if err == nil {
			d.settled, d.trouble = d.reached(m), ""
			if d.todo == m {
				d.todo = nil
			}
		} else {
			d.trouble = err.Error()
		}
		d.mu.Unlock()
		if err == nil {
			wait = least
			continue
		}
		d.log.Warn("rows put aside are not in the dead-letter topic yet", "topic", deadletter.Topic(d.r.job), "err", err)
		if final && errors.Is(err, tidemill.ErrInvalid) {
			return // trying again changes nothing; the manifest lists them
		}
		sleep(ctx, wait)
		wait = min(2*wait, most)
	}
}

// reached returns the cut that is settled once m's rows are appended. mu is held.
func (d *deadLetters) reached(m *snapshot.Manifest) tidemill.Cut {
	cut := m.Cut.Clone()
	if len(m.BadRows) < maxDead {
		return cut
	}
	// The list was cut short, in the order of partitions.
	last := m.BadRows[len(m.BadRows)-1]
	for p := range cut {
		switch {
		case p == last.Partition:
			cut[p] = last.Offset + 1
		case p > last.Partition && p < len(d.settled):
			cut[p] = d.settled[p]
		case p > last.Partition:
			cut[p] = 0
		}
	}
	return cut
}

// append adds the rows that m lists and the topic does not have yet.
func (d *deadLetters) append(ctx context.Context, m *snapshot.Manifest) error {
	own := m.BadRows
	if a := m.Ancestor; a != nil && len(a.Lines) > 0 {
		// What was put aside before this lineage began is the letter of the one before.
		before := a.Lines[len(a.Lines)-1].Cut
		own = slices.DeleteFunc(slices.Clone(own), func(b snapshot.BadRow) bool { return before.Covers(b.Partition, b.Offset) })
	}
	if len(own) == 0 {
		return nil
	}
	t, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer t.topic.Close()
	added := 0
	for rest := own; len(rest) > 0; {
		p := rest[0].Partition
		n := slices.IndexFunc(rest, func(b snapshot.BadRow) bool { return b.Partition != p })
		if n < 0 {
			n = len(rest)
		}
		k, err := d.partition(ctx, t, p, rest[:n], m.Created)
		if added += k; err != nil {
			return err
		}
		rest = rest[n:]
	}
	if added > 0 {
		d.log.Info("rows put aside are in the dead-letter topic", "topic", deadletter.Topic(d.r.job), "rows", added)
		if f := d.r.t.cfg.Events.DeadLettered; f != nil {
			f(d.r.job, added)
		}
	}
	return nil
}

// partition adds the rows of one of the job's partitions and returns how many are new.
func (d *deadLetters) partition(ctx context.Context, t *letters, p int, bad []snapshot.BadRow, at time.Time) (added int, err error) {
	prefix := fmt.Sprintf("%s/%d", d.r.line, p)
	key, err := t.topic.LastKey(ctx, 0, prefix)
	if err != nil {
		return 0, err
	}
	if key != "" {
		_, last, err := source.ParseKey(key)
		if err != nil {
			return 0, err
		}
		bad = slices.DeleteFunc(slices.Clone(bad), func(b snapshot.BadRow) bool { return b.Offset <= last })
	}
	if len(bad) == 0 {
		return 0, nil
	}
	origin := d.r.logOf(p)
	log, err := openLog(ctx, d.r.t.cfg.Source, &d.r.spec.Stream, origin)
	if err != nil {
		return 0, err
	}
	defer log.close()
	for _, b := range bad {
		rec, raw, err := log.row(ctx, b.Offset)
		if err != nil {
			return added, err
		}
		l := deadletter.Letter{
			Lineage: d.r.line, Topic: origin.Topic, Partition: origin.Partition, Offset: b.Offset,
			Cause: b.Cause, Reason: b.Reason, Time: at, Attempts: 1, Part: p, At: b.Offset, Raw: raw,
		}
		if l, err = returned(l, rec); err == nil {
			_, err = t.put(ctx, l, rec, source.FormatKey(prefix, b.Offset))
		}
		if rec != nil {
			rec.Release()
		}
		if err != nil {
			return added, err
		}
		added++
	}
	return added, nil
}

// letters is an open dead-letter topic, or one that rows are replayed from.
type letters struct {
	topic  source.Topic
	schema *arrow.Schema
}

// open opens the dead-letter topic, which it makes when there is none.
func (d *deadLetters) open(ctx context.Context) (*letters, error) {
	return openLetters(ctx, d.r.t.cfg.Source, deadletter.Topic(d.r.job), d.r.schema)
}

// openLetters opens a topic for letters of rows with columns own, and makes it when there is
// none.
func openLetters(ctx context.Context, stream source.Stream, name string, own *arrow.Schema) (*letters, error) {
	topic, err := stream.Create(ctx, name, 0, nil)
	if errors.Is(err, tidemill.ErrNotFound) {
		topic, err = stream.Create(ctx, name, 1, deadletter.Schema(nil, own))
	}
	if err != nil {
		return nil, err
	}
	info, err := topic.Info(ctx)
	if err == nil && !deadletter.Has(info.Schema) {
		err = tidemill.Invalid("topic %q is there and no dead-letter topic", "rename it, or the job", name)
	}
	if err != nil {
		topic.Close()
		return nil, err
	}
	return &letters{topic, info.Schema}, nil
}

// put appends a letter with its row (nil: none), after adding columns that the topic lacks, and
// returns its offset.
func (t *letters) put(ctx context.Context, l deadletter.Letter, row arrow.RecordBatch, key string) (int64, error) {
	if row != nil {
		want := deadletter.Schema(t.schema, row.Schema())
		if want.NumFields() > t.schema.NumFields() {
			if err := t.topic.Evolve(ctx, want); err != nil {
				return 0, err
			}
			t.schema = want
		}
	}
	rec := deadletter.Row(t.schema, l, row, nil)
	defer rec.Release()
	rng, err := t.topic.Append(ctx, 0, rec, key)
	return rng.First, err
}

// returned makes l the letter of a row that was a letter before: it keeps where it came from at
// first.
func returned(l deadletter.Letter, row arrow.RecordBatch) (deadletter.Letter, error) {
	if row == nil {
		return l, nil
	}
	was, err := deadletter.Read(row)
	if err == nil && len(was) == 1 {
		l.Topic, l.Partition, l.Offset, l.Attempts = was[0].Topic, was[0].Partition, was[0].Offset, was[0].Attempts+1
	}
	return l, err
}

// originLog reads single rows of a log, in increasing order of offset.
type originLog struct {
	topic  source.Topic
	part   int
	info   source.Info
	reader source.Reader
	have   tidemill.Batch // Rows nil: none
}

func openLog(ctx context.Context, stream source.Stream, spec *tidemill.StreamSpec, o tidemill.Origin) (*originLog, error) {
	topic, err := source.OpenLog(ctx, stream, spec, o.Topic)
	if err != nil {
		return nil, err
	}
	info, err := topic.Info(ctx)
	if err != nil {
		topic.Close()
		return nil, err
	}
	return &originLog{topic: topic, part: o.Partition, info: info}, nil
}

func (l *originLog) close() {
	l.drop()
	if l.reader != nil {
		l.reader.Close()
	}
	l.topic.Close()
}

func (l *originLog) drop() {
	if l.have.Rows != nil {
		l.have.Rows.Release()
		l.have = tidemill.Batch{}
	}
}

// near is how far a reader reads on rather than being opened anew.
const near = 4096

// row returns the row at an offset, which the caller releases, or the bytes of what cannot be
// decoded there; neither where the stream no longer has it.
func (l *originLog) row(ctx context.Context, offset int64) (arrow.RecordBatch, []byte, error) {
	if l.part >= len(l.info.Next) || offset < l.info.First[l.part] || offset >= l.info.Next[l.part] {
		return nil, nil, nil
	}
	for l.have.Rows == nil || offset >= l.have.Range.Next {
		l.drop()
		if l.reader == nil || offset < l.reader.Position() || offset > l.reader.Position()+near {
			if l.reader != nil {
				l.reader.Close()
				l.reader = nil
			}
			r, err := l.topic.Reader(ctx, l.part, offset)
			if err != nil {
				return nil, nil, err
			}
			l.reader = r
		}
		var err error
		if l.have, err = l.reader.Next(ctx, 256); err != nil {
			return nil, nil, err
		}
	}
	if offset < l.have.Range.First {
		return nil, nil, nil
	}
	at := l.have.Slice(tidemill.Range{First: offset, Next: offset + 1})
	for _, b := range at.Bad {
		at.Rows.Release()
		return nil, b.Raw, nil
	}
	if at.Rows.NumRows() != 1 {
		at.Rows.Release()
		return nil, nil, nil
	}
	return at.Rows, nil, nil
}

// tooMany says, for people, why a job pauses that put aside what m counts.
func (d *deadLetters) tooMany(m *snapshot.Manifest) string {
	budget := d.r.spec.Train.MaxBadRows
	d.r.t.mu.Lock()
	if p := d.r.asg.Pardon; !p.MaxBadRows.IsZero() {
		budget = p.MaxBadRows
	}
	d.r.t.mu.Unlock()
	var causes []string
	for _, c := range tidemill.BadCauses() {
		if n := m.BadCounts[c]; n > 0 {
			causes = append(causes, fmt.Sprintf("%s: %d", c, n))
		}
	}
	var newest []string
	for i := len(m.BadRows) - 1; i >= 0 && len(newest) < 3; i-- {
		b := m.BadRows[i]
		newest = append(newest, fmt.Sprintf("offset %d of partition %d (%s)", b.Offset, b.Partition, b.Reason))
	}
	return fmt.Sprintf("%d rows were put aside (%s), more than train.max_bad_rows: %s allows; the newest: %s. They are in topic %s. Accept them with `tidemill job %s resume`, "+
		"raise the budget with `resume --max-bad-rows N`, or mend the cause and train them with `replay-dead`",
		m.Bad(), strings.Join(causes, ", "), budget, strings.Join(newest, "; "), deadletter.Topic(d.r.job), d.r.job)
}
