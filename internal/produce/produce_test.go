package produce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/file"
	"github.com/tidemill/tidemill/internal/source/mem"
)

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// numbered is n rows whose id is their number.
func numbered(n int) string {
	var b strings.Builder
	b.WriteString("id,user,x\n")
	for i := range n {
		fmt.Fprintf(&b, "%d,u%d,%d.5\n", i, i%17, i)
	}
	return b.String()
}

// ids reads the id column of every partition.
func ids(t testing.TB, s source.Stream, topic string) [][]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	top, err := s.Open(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	in, err := top.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]int64, in.Partitions)
	for p := range out {
		r, err := top.Reader(ctx, p, 0)
		if err != nil {
			t.Fatal(err)
		}
		for r.Position() < in.Next[p] {
			b, err := r.Next(ctx, 1000)
			if err != nil {
				t.Fatal(err)
			}
			out[p] = append(out[p], b.Rows.Column(0).(*array.Int64).Int64Values()...)
			b.Rows.Release()
		}
		r.Close()
	}
	return out
}

// once fails unless the partitions hold 0 … n-1, each once, in order within a partition.
func once(t testing.TB, parts [][]int64, n int) {
	t.Helper()
	for p, got := range parts {
		if !slices.IsSorted(got) {
			t.Fatalf("partition %d is out of order", p)
		}
	}
	all := slices.Concat(parts...)
	slices.Sort(all)
	if len(all) != n {
		t.Fatalf("%d rows, want %d", len(all), n)
	}
	for i, id := range all {
		if id != int64(i) {
			t.Fatalf("row %d is there twice or missing", i)
		}
	}
}

func TestOnceAndAgain(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	path := write(t, "a.csv", numbered(1000))
	cfg := Config{Topic: "t", Files: []string{path}, Partitions: 3, BatchRows: 64}
	var last Progress
	cfg.Progress = func(p Progress) { last = p }
	res, err := Run(t.Context(), s, cfg)
	if err != nil || res.Rows != 1000 || res.Skipped != 0 || res.Next.Rows() != 1000 {
		t.Fatalf("%+v %v", res, err)
	}
	if last.Rows != 1000 || last.File != path || last.Read != last.Size || last.Size == 0 {
		t.Errorf("progress %+v", last)
	}
	parts := ids(t, s, "t")
	once(t, parts, 1000)
	for p, got := range parts {
		for _, id := range got {
			if id%3 != int64(p) {
				t.Fatalf("row %d in partition %d", id, p)
			}
		}
	}
	// Again, under another name and in other batches: nothing happens.
	cfg.Files = []string{write(t, "b.csv", numbered(1000))}
	cfg.BatchRows = 7
	if res, err = Run(t.Context(), s, cfg); err != nil || res.Rows != 0 || res.Skipped != 1000 {
		t.Fatalf("again: %+v %v", res, err)
	}
	once(t, ids(t, s, "t"), 1000)
	// With an ID of its own it is another input.
	cfg.ID = "second"
	if res, err = Run(t.Context(), s, cfg); err != nil || res.Rows != 1000 {
		t.Fatalf("with an ID: %+v %v", res, err)
	}
}

func TestKeyColumn(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	cfg := Config{Topic: "t", Files: []string{write(t, "a.csv", numbered(500))}, Partitions: 4, KeyColumn: "user"}
	if _, err := Run(t.Context(), s, cfg); err != nil {
		t.Fatal(err)
	}
	parts := ids(t, s, "t")
	once(t, parts, 500)
	home := map[int64]int{}
	for p, got := range parts {
		for _, id := range got {
			if q, ok := home[id%17]; ok && q != p {
				t.Fatalf("user u%d is in partitions %d and %d", id%17, p, q)
			}
			home[id%17] = p
		}
	}
	cfg.KeyColumn, cfg.Topic = "usr", "other"
	if _, err := Run(t.Context(), s, cfg); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), `"user"`) {
		t.Errorf("an unknown key column: %v", err)
	}
}

// failing refuses appends after a number of them, some after having carried them out: what
// a lost connection or a killed process leaves behind.
type failing struct {
	source.Stream
	left  int
	after bool
}

type failingTopic struct {
	source.Topic
	f *failing
}

var errLost = fmt.Errorf("connection lost: %w", tidemill.ErrUnavailable)

func (f *failing) wrap(t source.Topic, err error) (source.Topic, error) {
	if err != nil {
		return nil, err
	}
	return failingTopic{t, f}, nil
}

func (f *failing) Open(ctx context.Context, name string) (source.Topic, error) {
	return f.wrap(f.Stream.Open(ctx, name))
}

func (f *failing) Create(ctx context.Context, name string, n int, s *arrow.Schema) (source.Topic, error) {
	return f.wrap(f.Stream.Create(ctx, name, n, s))
}

func (t failingTopic) Append(ctx context.Context, p int, rows arrow.RecordBatch, key string) (tidemill.Range, error) {
	t.f.left--
	if t.f.left < 0 {
		if t.f.after {
			if _, err := t.Topic.Append(ctx, p, rows, key); err != nil {
				return tidemill.Range{}, err
			}
		}
		return tidemill.Range{}, errLost
	}
	return t.Topic.Append(ctx, p, rows, key)
}

// TestInterrupted stops runs anywhere and goes on with other batches, until one ends.
func TestInterrupted(t *testing.T) {
	path := write(t, "a.csv", numbered(300))
	rapid.Check(t, func(rt *rapid.T) {
		s := mem.New(mem.Config{})
		defer s.Close()
		cfg := Config{Topic: "t", Files: []string{path}, Partitions: rapid.IntRange(1, 4).Draw(rt, "partitions")}
		if rapid.Bool().Draw(rt, "keyed") {
			cfg.KeyColumn = "user"
		}
		total := int64(0)
		for run := 0; ; run++ {
			cfg.BatchRows = rapid.IntRange(5, 100).Draw(rt, "batch")
			cfg.BatchBytes = rapid.SampledFrom([]int{0, 3000}).Draw(rt, "bytes")
			f := &failing{Stream: s, left: rapid.IntRange(0, 10).Draw(rt, "left"), after: rapid.Bool().Draw(rt, "after")}
			if run > 8 {
				f.left = 1 << 30
			}
			res, err := Run(t.Context(), f, cfg)
			total += res.Rows
			if err == nil {
				break
			}
			if !errors.Is(err, errLost) {
				rt.Fatal(err)
			}
		}
		once(t, ids(t, s, "t"), 300)
		if total > 300 {
			rt.Fatalf("runs say they appended %d rows of 300", total)
		}
	})
}

func TestDeadLetters(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	text := "id,x\n0,1\n1\n2,1\n3,1\n4,zz\n5,1\n"
	cfg := Config{Topic: "t", Files: []string{write(t, "a.csv", text)}, Read: file.Options{InferRows: 2}, BatchRows: 2}
	var in *tidemill.InputError
	if res, err := Run(t.Context(), s, cfg); !errors.As(err, &in) || in.Place.Line != 3 || res.Rows != 1 {
		t.Fatalf("without dead letters: %+v %v", res, err)
	}
	var dead bytes.Buffer
	cfg.DeadLetter = &dead
	f := &failing{Stream: s, left: 1}
	if _, err := Run(t.Context(), f, cfg); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	res, err := Run(t.Context(), s, cfg)
	if err != nil || res.Bad != 2 {
		t.Fatalf("%+v %v", res, err)
	}
	if got := ids(t, s, "t")[0]; !slices.Equal(got, []int64{0, 2, 3, 5}) {
		t.Errorf("ids %v", got)
	}
	for _, want := range []string{`"line":3,`, `"row":1,`, `"raw":"1"`, `"line":6,"column":3,"row":4`} {
		if !strings.Contains(dead.String(), want) {
			t.Errorf("no %s in the dead letters:\n%s", want, dead.String())
		}
	}
	if res, err = Run(t.Context(), s, cfg); err != nil || res.Rows != 0 {
		t.Fatalf("again: %+v %v", res, err)
	}
}

func TestSchemas(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	run := func(name, text string) (Result, error) {
		return Run(t.Context(), s, Config{Topic: "t", Files: []string{write(t, name, text)}})
	}
	if _, err := run("a.csv", "id,x\n1,0.5\n"); err != nil {
		t.Fatal(err)
	}
	// Whole numbers go into the topic's float column; a new column is added; one is missing.
	if _, err := run("b.csv", "id,x\n2,7\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := run("c.csv", "id,tag\n3,new\n"); err != nil {
		t.Fatal(err)
	}
	top, err := s.Open(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	in, err := top.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Schema.NumFields(); got != 3 || in.Schema.Field(2).Name != "tag" {
		t.Fatalf("schema %v", in.Schema)
	}
	if got := ids(t, s, "t")[0]; !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("ids %v", got)
	}
	if _, err := run("d.csv", "id,x\nabc,1\n"); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), `"id"`) {
		t.Errorf("text in a number column: %v", err)
	}
	if _, err := run("e.libsvm", "1 2:3\n"); err != nil {
		t.Errorf("columns of another kind are new columns: %v", err)
	}
	if _, err := run("f.jsonl", `{"id":[1,2]}`+"\n"); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a list in a number column: %v", err)
	}
}

func TestStdin(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	cfg := Config{Topic: "t", Stdin: strings.NewReader(numbered(50)), ID: "pipe", Read: file.Options{Format: file.CSV}}
	if res, err := Run(t.Context(), s, cfg); err != nil || res.Rows != 50 {
		t.Fatalf("%+v %v", res, err)
	}
	cfg.Stdin = strings.NewReader(numbered(80)) // the same, and more
	if res, err := Run(t.Context(), s, cfg); err != nil || res.Rows != 30 || res.Skipped != 50 {
		t.Fatalf("%+v %v", res, err)
	}
	once(t, ids(t, s, "t"), 80)
}

// TestPipeDoesNotWait: rows that came down a pipe are there before the next ones come.
func TestPipeDoesNotWait(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	schema := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
	top, err := s.Create(t.Context(), "t", 1, schema)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), s, Config{Topic: "t", Stdin: r, ID: "pipe", Read: file.Options{Format: file.CSV, Schema: schema}})
		done <- err
	}()
	reader, err := top.Reader(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	io.WriteString(w, "id\n")
	for i := range 5 {
		fmt.Fprintf(w, "%d\n", i)
		b, err := reader.Next(t.Context(), 10)
		if err != nil || b.Rows.NumRows() != 1 {
			t.Fatalf("row %d: %v %v", i, b.Rows, err)
		}
		b.Rows.Release()
	}
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRate(t *testing.T) {
	path := write(t, "a.csv", numbered(100))
	synctest.Test(t, func(t *testing.T) {
		s := mem.New(mem.Config{})
		defer s.Close()
		began := time.Now()
		res, err := Run(t.Context(), s, Config{Topic: "t", Files: []string{path}, Rate: 10, Flush: time.Second})
		if err != nil || res.Appends != 10 {
			t.Fatalf("%+v %v", res, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("100 rows at 10 per second took %v of the test's time", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if res, err := Run(ctx, s, Config{Topic: "u", Files: []string{path}, Rate: 10, Flush: time.Second}); !errors.Is(err, context.DeadlineExceeded) || res.Rows > 30 {
			t.Errorf("stopped after 3 s: %+v %v", res, err)
		}
	})
}

func TestConfigRefusals(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	a := write(t, "a.csv", numbered(3))
	for _, cfg := range []Config{
		{},
		{Topic: "t"},
		{Topic: "a/b", Files: []string{a}},
		{Topic: "t", Files: []string{a}, Stdin: strings.NewReader("")},
		{Topic: "t", Stdin: strings.NewReader("id\n1\n"), Read: file.Options{Format: file.CSV}},
		{Topic: "t", Stdin: strings.NewReader("id\n1\n"), ID: "x"},
		{Topic: "t", Files: []string{a}, Rate: -1},
		{Topic: "t", Files: []string{a}, Partitions: -1},
		{Topic: "t", Files: []string{t.TempDir()}},
		{Topic: "t", Files: []string{write(t, "empty.csv", "")}},
	} {
		if _, err := Run(t.Context(), s, cfg); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := Run(t.Context(), s, Config{Topic: "t", Files: []string{"nowhere.csv"}}); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("a missing file: %v", err)
	}
}
