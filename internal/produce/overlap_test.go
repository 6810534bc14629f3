package produce

import (
	"context"
	"testing"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/mem"
)

var numberedSchema = arrow.NewSchema([]arrow.Field{
	{Name: "id", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "user", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "x", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
}, nil)

// Several runs of one input at the same time, each with appends of another size: every row is there
// once, in the order of the input.
func TestRunsAtTheSameTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := mem.New(mem.Config{})
		defer s.Close()
		n := rapid.IntRange(1, 600).Draw(rt, "rows")
		key := rapid.SampledFrom([]string{"", "user"}).Draw(rt, "key")
		path := write(t, "a.csv", numbered(n))
		partitions := rapid.IntRange(1, 3).Draw(rt, "partitions")
		sizes := rapid.SliceOfN(rapid.IntRange(1, 60), 2, 4).Draw(rt, "sizes")
		// The topic is there, so that the runs begin together.
		if _, err := s.Create(t.Context(), "t", partitions, numberedSchema); err != nil {
			rt.Fatal(err)
		}
		g, ctx := errgroup.WithContext(t.Context())
		results := make([]Result, len(sizes))
		for i, size := range sizes {
			g.Go(func() (err error) {
				results[i], err = Run(ctx, s, Config{Topic: "t", Files: []string{path}, ID: "a", KeyColumn: key, BatchRows: size})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			rt.Fatal(err)
		}
		once(t, ids(t, s, "t"), n)
		for i, r := range results {
			if r.Rows+r.Skipped != int64(n) {
				rt.Fatalf("run %d: %+v", i, r)
			}
		}
	})
}

// between appends the first rows of an input under another run's eyes.
type between struct {
	source.Stream
	then func()
}

type betweenTopic struct {
	source.Topic
	s *between
}

func (b *between) Open(ctx context.Context, name string) (source.Topic, error) {
	t, err := b.Stream.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return betweenTopic{t, b}, nil
}

func (t betweenTopic) Append(ctx context.Context, p int, rows arrow.RecordBatch, key string) (tidemill.Range, error) {
	if f := t.s.then; f != nil {
		t.s.then = nil
		f()
	}
	return t.Topic.Append(ctx, p, rows, key)
}

// A run that another one has overtaken, with an append that ends within its own, goes on behind it.
func TestOvertaken(t *testing.T) {
	s := mem.New(mem.Config{})
	defer s.Close()
	if _, err := s.Create(t.Context(), "t", 1, numberedSchema); err != nil {
		t.Fatal(err)
	}
	path, part := write(t, "a.csv", numbered(100)), write(t, "part.csv", numbered(37))
	slow := &between{Stream: s, then: func() {
		if _, err := Run(t.Context(), s, Config{Topic: "t", Files: []string{part}, ID: "a"}); err != nil {
			t.Error(err)
		}
	}}
	res, err := Run(t.Context(), slow, Config{Topic: "t", Files: []string{path}, ID: "a", BatchRows: 50})
	if err != nil {
		t.Fatal(err)
	}
	if res.Rows != 63 || res.Skipped != 37 || res.Appends != 2 {
		t.Errorf("%+v", res)
	}
	once(t, ids(t, s, "t"), 100)
}
