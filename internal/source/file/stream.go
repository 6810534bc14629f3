package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Config of a Stream.
type Config struct {
	// Topics are the files of each topic, one partition each, in this order.
	Topics map[string][]string
	// Options of reading them. Where Bad is nil, a reader ends at a malformed row.
	Options Options
}

// Stream is a read-only source.Stream over files that do not change. The offset of a row is
// its number in the file, malformed ones counted; opening at offset n reads n rows first.
// Appending, evolving, making and deleting topics are refused with tidemill.ErrDenied.
type Stream struct {
	cfg Config

	mu     sync.Mutex
	topics map[string]*topic // guarded by mu; opened
}

var _ source.Stream = (*Stream)(nil)

// New returns a Stream over cfg's files. It opens none of them.
func New(cfg Config) (*Stream, error) {
	for name, files := range cfg.Topics {
		if err := source.CheckName("topic", name); err != nil {
			return nil, err
		}
		if len(files) == 0 {
			return nil, tidemill.Invalid("topic %q has no files", "name one per partition", name)
		}
		if err := source.CheckPartitions(name, len(files)); err != nil {
			return nil, err
		}
	}
	return &Stream{cfg: cfg, topics: make(map[string]*topic)}, nil
}

func readOnly(what string) error {
	return fmt.Errorf("%s: a stream of files is read-only; produce the files into a topic instead: %w", what, tidemill.ErrDenied)
}

// Create implements source.Stream for topics that exist.
func (s *Stream) Create(ctx context.Context, name string, partitions int, schema *arrow.Schema) (source.Topic, error) {
	files, ok := s.cfg.Topics[name]
	if !ok {
		return nil, readOnly(fmt.Sprintf("make topic %q", name))
	}
	if err := source.CheckExisting(name, len(files), partitions); err != nil {
		return nil, err
	}
	t, err := s.Open(ctx, name)
	if err == nil && schema != nil {
		err = rows.Compatible(t.(*topic).schema, schema)
	}
	return t, err
}

// Open implements source.Stream. It reads the beginning of the first file, and every file
// once to the end to know where it ends.
func (s *Stream) Open(ctx context.Context, name string) (source.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[name]; t != nil {
		return t, nil
	}
	files, ok := s.cfg.Topics[name]
	if !ok {
		return nil, source.NotFound(name, s.names())
	}
	t := &topic{name: name, files: files, opts: s.cfg.Options}
	t.opts.Bad = nil
	if err := t.measure(ctx, s.cfg.Options.Bad != nil); err != nil {
		return nil, err
	}
	t.opts.Bad = s.cfg.Options.Bad
	s.topics[name] = t
	return t, nil
}

func (s *Stream) names() []string {
	var names []string
	for n := range s.cfg.Topics {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Topics implements source.Stream.
func (s *Stream) Topics(context.Context) ([]string, error) { return s.names(), nil }

// Delete implements source.Stream by refusing.
func (s *Stream) Delete(ctx context.Context, name string) error {
	return readOnly(fmt.Sprintf("delete topic %q", name))
}

// Close implements source.Stream.
func (s *Stream) Close() error { return nil }

// topic implements source.Topic.
type topic struct {
	name     string
	files    []string
	opts     Options
	schema   *arrow.Schema
	identity string
	ends     tidemill.Cut
	times    []time.Time // when each file was last changed
}

// openFile opens the rows of partition p.
func (t *topic) openFile(p int, opts Options) (Rows, io.Closer, error) {
	f, err := os.Open(t.files[p])
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("file %s: %w", t.files[p], tidemill.ErrNotFound)
		}
		return nil, nil, fmt.Errorf("open %s: %w", t.files[p], err)
	}
	rs, err := OpenRows(t.files[p], f, opts)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return rs, f, nil
}

// measure learns the schema, where the files end, and what identifies their content as far
// as sizes, times and schema tell.
func (t *topic) measure(ctx context.Context, tolerant bool) error {
	id := xxh3.New()
	for p, name := range t.files {
		opts := t.opts
		if t.schema != nil {
			opts.Schema = t.schema
		}
		if tolerant {
			opts.Bad = func(BadRow) error { return nil }
		}
		rs, f, err := t.openFile(p, opts)
		if err != nil {
			return err
		}
		end, err := count(ctx, rs)
		fi, serr := f.(*os.File).Stat()
		if t.schema == nil {
			t.schema = rs.Schema()
		}
		rs.Close()
		f.Close()
		if err = errors.Join(err, serr); err != nil {
			return err
		}
		t.ends = append(t.ends, end)
		t.times = append(t.times, fi.ModTime())
		fmt.Fprintf(id, "%s %d %d %d\n", name, fi.Size(), fi.ModTime().UnixNano(), end)
	}
	fmt.Fprintf(id, "%016x", rows.Fingerprint(t.schema))
	t.identity = fmt.Sprintf("files-%016x", id.Sum64())
	t.opts.Schema = t.schema
	return nil
}

// count reads to the end, or to the first malformed row, and returns the offset there.
func count(ctx context.Context, rs Rows) (end int64, err error) {
	for {
		c, err := rs.Next(4096)
		var bad *tidemill.InputError
		if err == io.EOF || errors.As(err, &bad) {
			// A reader will come to the malformed row and say so.
			if bad != nil {
				end++
			}
			return end, nil
		}
		if err != nil {
			return end, err
		}
		end = c.First + c.Rows.NumRows()
		c.Rows.Release()
		if ctx.Err() != nil {
			return end, ctx.Err()
		}
	}
}

// Info implements source.Topic.
func (t *topic) Info(context.Context) (source.Info, error) {
	return source.Info{
		Name: t.name, Partitions: len(t.files), Identity: t.identity, Schema: t.schema,
		First: make(tidemill.Cut, len(t.files)), Next: t.ends.Clone(),
	}, nil
}

// Evolve implements source.Topic by refusing, unless there is nothing to add.
func (t *topic) Evolve(ctx context.Context, schema *arrow.Schema) error {
	if next, err := rows.Evolve(t.schema, schema); err == nil && next == t.schema {
		return nil
	}
	return readOnly(fmt.Sprintf("evolve topic %q", t.name))
}

// Append implements source.Topic by refusing.
func (t *topic) Append(context.Context, int, arrow.RecordBatch, string) (tidemill.Range, error) {
	return tidemill.Range{}, readOnly(fmt.Sprintf("append to topic %q", t.name))
}

// LastKey implements source.Topic: files have none.
func (t *topic) LastKey(ctx context.Context, p int, prefix string) (string, error) {
	return "", source.CheckPartition(t.name, p, len(t.files))
}

// OffsetAt implements source.Topic: all rows of a file came when it was last changed.
func (t *topic) OffsetAt(ctx context.Context, p int, at time.Time) (int64, error) {
	if err := source.CheckPartition(t.name, p, len(t.files)); err != nil {
		return 0, err
	}
	if t.times[p].Before(at) {
		return t.ends[p], nil
	}
	return 0, nil
}

// Grow implements source.Topic by refusing: a file is a partition.
func (t *topic) Grow(_ context.Context, partitions int) error {
	if err := source.CheckGrow(t.name, len(t.files), partitions); err != nil || partitions == len(t.files) {
		return err
	}
	return readOnly(fmt.Sprintf("add partitions to topic %q", t.name))
}

// Retain implements source.Topic: files keep everything.
func (t *topic) Retain(ctx context.Context, holder string, cut tidemill.Cut) error {
	if err := source.CheckName("holder", holder); err != nil || cut == nil {
		return err
	}
	return source.CheckCut(t.name, cut, len(t.files))
}

// Close implements source.Topic.
func (t *topic) Close() error { return nil }

// Reader implements source.Topic.
func (t *topic) Reader(ctx context.Context, p int, offset int64) (source.Reader, error) {
	if err := source.CheckPartition(t.name, p, len(t.files)); err != nil {
		return nil, err
	}
	if err := source.CheckOffset(t.name, p, offset, 0, t.ends[p]); err != nil {
		return nil, err
	}
	opts := t.opts
	r := &reader{t: t, p: p, done: make(chan struct{})}
	if bad := opts.Bad; bad != nil {
		opts.Bad = func(b BadRow) error {
			if b.Index < offset {
				return nil // before the reader's beginning
			}
			return bad(b)
		}
	}
	var err error
	if r.rows, r.file, err = t.openFile(p, opts); err != nil {
		return nil, err
	}
	for r.pos < offset {
		c, err := r.rows.Next(int(min(4096, offset-r.pos)))
		if err == io.EOF {
			r.pos = offset
			break
		}
		if err == nil && c.First+c.Rows.NumRows() > offset {
			// Malformed rows were left out on the way, and the chunk reaches beyond.
			r.held = &c
			r.pos = offset
			break
		}
		if err != nil || ctx.Err() != nil {
			r.Close()
			return nil, errors.Join(err, ctx.Err())
		}
		r.pos = c.First + c.Rows.NumRows()
		c.Rows.Release()
	}
	r.pos = offset
	return r, nil
}

// reader implements source.Reader.
type reader struct {
	t    *topic
	p    int
	rows Rows
	file io.Closer
	held *Chunk // read while looking for the beginning
	pos  int64
	once sync.Once
	done chan struct{}
}

// Next implements source.Reader. At the end it waits for ctx: files do not grow.
func (r *reader) Next(ctx context.Context, limit int) (tidemill.Batch, error) {
	if err := ctx.Err(); err != nil && r.pos >= r.t.ends[r.p] {
		return tidemill.Batch{}, err
	}
	c, err := r.chunk(int64(max(1, limit)))
	if err == io.EOF {
		r.pos = r.t.ends[r.p]
		select {
		case <-ctx.Done():
			return tidemill.Batch{}, ctx.Err()
		case <-r.done:
			return tidemill.Batch{}, fmt.Errorf("the reader is closed: %w", tidemill.ErrUnavailable)
		}
	}
	if err != nil {
		return tidemill.Batch{}, err
	}
	r.pos = c.First + c.Rows.NumRows()
	return tidemill.Batch{Partition: r.p, Range: tidemill.Range{First: c.First, Next: r.pos}, Rows: c.Rows, Appended: r.t.times[r.p]}, nil
}

// chunk returns the next rows from r.pos on.
func (r *reader) chunk(limit int64) (Chunk, error) {
	if r.held == nil {
		return r.rows.Next(int(limit))
	}
	h := r.held
	from := max(0, r.pos-h.First)
	n := min(limit, h.Rows.NumRows()-from)
	c := Chunk{First: h.First + from, Rows: h.Rows.NewSlice(from, from+n)}
	if from+n == h.Rows.NumRows() {
		h.Rows.Release()
		r.held = nil
	}
	return c, nil
}

// Buffered implements source.Reader: a file never waits, but for its end.
func (r *reader) Buffered() (int, int64) {
	end := r.t.ends[r.p]
	return int(end - r.pos), end
}

// Position implements source.Reader.
func (r *reader) Position() int64 { return r.pos }

// Close implements source.Reader.
func (r *reader) Close() error {
	var err error
	r.once.Do(func() {
		close(r.done)
		if r.held != nil {
			r.held.Rows.Release()
		}
		err = errors.Join(r.rows.Close(), r.file.Close())
	})
	return err
}
