package produce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Run produces cfg's input into its topic and returns when every row is durable, or at the
// first error; the Result tells what was done either way. Rows of one append belong to one
// partition, and a partition has them in the order of the input.
//
// The topic is made when there is none, with the input's schema; columns that an existing
// one lacks are added to it. A column of another type is refused by name. Where text leaves
// a column's type open, the topic's own decides.
func Run(ctx context.Context, stream source.Stream, cfg Config) (Result, error) {
	res := Result{Topic: cfg.Topic}
	if err := cfg.validate(); err != nil {
		return res, err
	}
	r := &runner{cfg: cfg, stream: stream, res: &res, began: time.Now()}
	n := max(1, len(cfg.Files))
	for i := range n {
		if err := r.file(ctx, i); err != nil {
			return res, err
		}
	}
	return res, nil
}

// runner is a Run under way.
type runner struct {
	cfg    Config
	stream source.Stream
	topic  source.Topic
	info   source.Info
	res    *Result
	began  time.Time

	in   *input
	from []int64 // per partition that rows are dealt to, the first input row that was not there when the run began
	at   []int64 // likewise, the first that is not there as far as is known now: the number of the last key
}

// file produces the i-th input.
func (r *runner) file(ctx context.Context, i int) (err error) {
	if r.in, err = open(&r.cfg, i); err != nil {
		return err
	}
	defer r.in.close()
	if err := r.lookUp(ctx); err != nil {
		return err
	}
	opts := r.cfg.Read
	opts.Format = r.in.format
	if r.topic != nil && opts.Schema == nil {
		opts.Types = typesOf(r.info.Schema, opts.Types)
	}
	if r.cfg.DeadLetter != nil {
		opts.Bad = r.bad
	}
	rs, err := file.OpenRows(r.in.name, r.in.r, opts)
	if err != nil {
		return err
	}
	defer rs.Close()
	if err := r.prepare(ctx, rs.Schema()); err != nil {
		return err
	}
	if err := r.resume(ctx); err != nil {
		return err
	}
	r.at = slices.Clone(r.from)
	deal, err := newDealer(rs.Schema(), len(r.from), r.cfg.KeyColumn)
	if err != nil {
		return err
	}
	for {
		c, err := rs.Next(r.chunk())
		if err == io.EOF {
			r.progress()
			return nil
		}
		if err != nil {
			return err
		}
		err = r.put(ctx, deal, c)
		c.Rows.Release()
		if err != nil {
			return err
		}
		r.progress()
	}
}

// lookUp opens the topic if there is one.
func (r *runner) lookUp(ctx context.Context) error {
	if r.topic == nil {
		t, err := r.stream.Open(ctx, r.cfg.Topic)
		if errors.Is(err, tidemill.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		r.topic = t
	}
	return r.learn(ctx)
}

func (r *runner) learn(ctx context.Context) (err error) {
	if r.info, err = r.topic.Info(ctx); err != nil {
		return err
	}
	if err := source.CheckExisting(r.cfg.Topic, r.info.Partitions, r.cfg.Partitions); err != nil {
		return err
	}
	if r.res.Next == nil {
		r.res.Next = make(tidemill.Cut, r.info.Partitions)
	}
	return nil
}

func typesOf(schema *arrow.Schema, given map[string]arrow.DataType) map[string]arrow.DataType {
	types := make(map[string]arrow.DataType, schema.NumFields())
	for _, f := range schema.Fields() {
		types[f.Name] = f.Type
	}
	for n, t := range given {
		types[n] = t
	}
	return types
}

// prepare makes the topic or adds what it lacks of schema.
func (r *runner) prepare(ctx context.Context, schema *arrow.Schema) error {
	if r.topic == nil {
		t, err := r.stream.Create(ctx, r.cfg.Topic, r.cfg.Partitions, schema)
		if err != nil {
			return err
		}
		r.topic = t
		if err := r.learn(ctx); err != nil {
			return err
		}
	}
	// Another producer may add columns at the same time; then look again.
	const tries = 5
	for try := 1; ; try++ {
		fields := append([]arrow.Field(nil), r.info.Schema.Fields()...)
		for _, f := range schema.Fields() {
			if !r.info.Schema.HasField(f.Name) {
				f.Nullable = true
				fields = append(fields, f)
			}
		}
		want := arrow.NewSchema(fields, nil)
		if err := rows.Compatible(want, schema); err != nil {
			return fmt.Errorf("topic %q, %s: %w", r.cfg.Topic, r.in.name, err)
		}
		if len(fields) == r.info.Schema.NumFields() {
			return nil
		}
		err := r.topic.Evolve(ctx, want)
		if err != nil && (try == tries || !errors.Is(err, tidemill.ErrInvalid) && !errors.Is(err, tidemill.ErrConflict)) {
			return err
		}
		if err := r.learn(ctx); err != nil {
			return err
		}
	}
}

// resume asks each partition how far the input is there. An input that was begun before the
// topic grew goes on over as many partitions as it was begun with: which partition a row
// belongs to must not change between two runs. The number is part of the keys of inputs that
// are begun after the topic has grown.
func (r *runner) resume(ctx context.Context) error {
	prefix := r.in.prefix
	sizes := append(slices.Clone(r.info.Former), r.info.Partitions)
	for i := len(sizes) - 1; i >= 0; i-- {
		r.in.prefix = prefix
		if i > 0 {
			r.in.prefix = fmt.Sprintf("%s:of=%d", prefix, sizes[i])
		}
		begun, err := r.begun(ctx, sizes[i])
		if begun || err != nil {
			return err
		}
	}
	// New here: over all partitions.
	r.from = make([]int64, r.info.Partitions)
	if len(sizes) > 1 {
		r.in.prefix = fmt.Sprintf("%s:of=%d", prefix, r.info.Partitions)
	}
	return nil
}

// begun reads how far the input is in each of n partitions, and reports whether it is at all.
func (r *runner) begun(ctx context.Context, n int) (begun bool, err error) {
	r.from = make([]int64, n)
	for p := range r.from {
		if r.from[p], err = r.last(ctx, p); err != nil {
			return false, err
		}
		begun = begun || r.from[p] > 0
	}
	return begun, nil
}

// last returns the number of the last key under the input's prefix in partition p; 0: there is none.
func (r *runner) last(ctx context.Context, p int) (int64, error) {
	key, err := r.topic.LastKey(ctx, p, r.in.prefix)
	if err != nil || key == "" {
		return 0, err
	}
	_, n, err := source.ParseKey(key)
	return n, err
}

// chunk is how many rows to read for the next appends.
func (r *runner) chunk() int {
	n := r.cfg.BatchRows * r.info.Partitions
	if r.cfg.Rate > 0 {
		n = min(n, max(1, int(r.cfg.Rate*r.cfg.Flush.Seconds())))
	}
	return n
}

// put appends the rows of one chunk.
func (r *runner) put(ctx context.Context, deal dealer, c file.Chunk) error {
	byPart, skipped := deal.deal(c.Rows, c.First, r.from)
	r.res.Skipped += skipped
	if skipped == c.Rows.NumRows() {
		return ctx.Err()
	}
	if err := r.pace(ctx, c.Rows.NumRows()-skipped); err != nil {
		return err
	}
	for p, idx := range byPart {
		for len(idx) > 0 {
			n := min(len(idx), r.cfg.BatchRows)
			if err := r.append(ctx, p, c, idx[:n]); err != nil {
				return err
			}
			idx = idx[n:]
		}
	}
	return nil
}

// append adds the rows idx of a chunk to partition p.
func (r *runner) append(ctx context.Context, p int, c file.Chunk, idx []int) error {
	part, err := rows.Take(c.Rows, idx, r.cfg.Read.Mem)
	if err != nil {
		return fmt.Errorf("%s: %w", r.in.name, err)
	}
	defer part.Release()
	pieces := rows.Split(part, r.cfg.BatchBytes)
	defer func() {
		for _, piece := range pieces {
			piece.Release()
		}
	}()
	at := 0
	for _, piece := range pieces {
		n := int(piece.NumRows())
		at += n
		if err := r.piece(ctx, p, piece, c.First, idx[at-n:at]); err != nil {
			return err
		}
	}
	return nil
}

// piece adds rows, which have the input indices first+idx, to partition p, but for those that
// another run of the same input has added meanwhile.
func (r *runner) piece(ctx context.Context, p int, piece arrow.RecordBatch, first int64, idx []int) error {
	// The key's number is the input row after the piece's last one; it is to follow the last key
	// that is known, so that a run which cuts its appends elsewhere does not add a row again.
	key := source.Key{Prefix: r.in.prefix, Number: first + int64(idx[len(idx)-1]) + 1}
	for {
		there := 0
		for there < len(idx) && first+int64(idx[there]) < r.at[p] {
			there++
		}
		if there == len(idx) {
			r.res.Skipped += int64(there)
			return nil
		}
		key.After = r.at[p]
		rest := piece.NewSlice(int64(there), int64(len(idx)))
		got, err := r.topic.Append(ctx, p, rest, key.String())
		rest.Release()
		if err == nil {
			r.at[p] = key.Number
			r.res.Skipped += int64(there)
			r.res.Appends++
			r.res.Rows += int64(len(idx) - there)
			r.res.Next[p] = max(r.res.Next[p], got.Next)
			return nil
		}
		if errors.Is(err, tidemill.ErrConflict) || errors.Is(err, tidemill.ErrExists) {
			last, lerr := r.last(ctx, p)
			if lerr == nil && last > r.at[p] {
				r.at[p] = last
				continue
			}
			err = errors.Join(err, lerr)
		}
		return fmt.Errorf("row %d of %s: %w", first+int64(idx[there]), r.in.name, err)
	}
}

// pace waits until n more rows are due.
func (r *runner) pace(ctx context.Context, n int64) error {
	if r.cfg.Rate <= 0 {
		return ctx.Err()
	}
	due := r.began.Add(time.Duration(float64(r.res.Rows+n) / r.cfg.Rate * float64(time.Second)))
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bad writes a malformed row to the dead letters, unless an earlier run got past it: then
// that run has written it.
func (r *runner) bad(b file.BadRow) error {
	r.res.Bad++
	for _, from := range r.from {
		if b.Index < from {
			return nil
		}
	}
	line, err := json.Marshal(struct {
		File   string `json:"file"`
		Line   int    `json:"line"`
		Column int    `json:"column,omitempty"`
		Row    int64  `json:"row"`
		Error  string `json:"error"`
		Raw    string `json:"raw"`
	}{r.in.name, b.Err.Place.Line, b.Err.Place.Column, b.Index, b.Err.What, string(b.Raw)})
	if err != nil {
		return fmt.Errorf("write a dead letter: %w", err)
	}
	if _, err := r.cfg.DeadLetter.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write a dead letter: %w", err)
	}
	return nil
}

func (r *runner) progress() {
	if r.cfg.Progress == nil {
		return
	}
	p := Progress{Rows: r.res.Rows, Skipped: r.res.Skipped, Bad: r.res.Bad, Size: r.in.size}
	if r.cfg.Stdin == nil {
		p.File = r.in.name
	}
	if r.in.read != nil {
		p.Read = *r.in.read
	}
	r.cfg.Progress(p)
}
