package file_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/file"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func numbered(from, to int) string {
	var b strings.Builder
	b.WriteString("id,name\n")
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "%d,row %d\n", i, i)
	}
	return b.String()
}

func TestStream(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	a, b := write(t, "a.csv", numbered(0, 1000)), write(t, "b.csv", "name,id\nx,1000\n")
	s, err := file.New(file.Config{Topics: map[string][]string{"ids": {a, b}}, Options: file.Options{Mem: mem}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	if _, err := s.Open(ctx, "id"); !errors.Is(err, tidemill.ErrNotFound) || !strings.Contains(err.Error(), `"ids"`) {
		t.Errorf("open: %v", err)
	}
	topic, err := s.Open(ctx, "ids")
	if err != nil {
		t.Fatal(err)
	}
	in, err := topic.Info(ctx)
	if err != nil || in.Partitions != 2 || in.Next[0] != 1000 || in.Next[1] != 1 || in.Identity == "" {
		t.Fatalf("%+v %v", in, err)
	}
	for _, from := range []int64{0, 1, 999, 1000} {
		r, err := topic.Reader(ctx, 0, from)
		if err != nil {
			t.Fatal(err)
		}
		next := from
		for next < 1000 {
			rec, err := r.Next(ctx, 7)
			if err != nil {
				t.Fatal(err)
			}
			ids := rec.Rows.Column(0).(*array.Int64)
			for i := range ids.Len() {
				if ids.Value(i) != next || rec.Offset(i) != next {
					t.Fatalf("id %d at offset %d, want %d", ids.Value(i), rec.Offset(i), next)
				}
				next++
			}
			rec.Rows.Release()
		}
		if n, end := r.Buffered(); n != 0 || end != r.Position() {
			t.Errorf("at the end: %d %d %d", n, end, r.Position())
		}
		done, cancel := context.WithTimeout(ctx, time.Millisecond)
		if _, err := r.Next(done, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("past the end: %v", err)
		}
		cancel()
		r.Close()
	}
	// The second file has its columns in another order.
	r, err := topic.Reader(ctx, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec, err := r.Next(ctx, 5)
	if err != nil || rec.Rows.Column(0).(*array.Int64).Value(0) != 1000 {
		t.Fatalf("%v %v", rec.Rows, err)
	}
	rec.Rows.Release()
	if _, err := topic.Reader(ctx, 0, 1001); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := topic.Append(ctx, 0, rec.Rows, ""); !errors.Is(err, tidemill.ErrDenied) {
		t.Errorf("append: %v", err)
	}
	if err := s.Delete(ctx, "ids"); !errors.Is(err, tidemill.ErrDenied) {
		t.Errorf("delete: %v", err)
	}
}

func TestStreamMalformed(t *testing.T) {
	path := write(t, "a.csv", "id,x\n0,a\n1,b\n2\n3,d\n4,e\n")
	var bad []int64
	for _, collect := range []bool{false, true} {
		opts := file.Options{}
		if collect {
			opts.Bad = func(b file.BadRow) error { bad = append(bad, b.Index); return nil }
		}
		s, err := file.New(file.Config{Topics: map[string][]string{"t": {path}}, Options: opts})
		if err != nil {
			t.Fatal(err)
		}
		topic, err := s.Open(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		r, err := topic.Reader(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ids []int64
		for r.Position() < 5 {
			b, err := r.Next(t.Context(), 10)
			if err != nil {
				var in *tidemill.InputError
				if collect || !errors.As(err, &in) || in.Place.Line != 4 {
					t.Errorf("error %v", err)
				}
				break
			}
			for i := range int(b.Rows.NumRows()) {
				if id := b.Rows.Column(0).(*array.Int64).Value(i); id != b.Offset(i) {
					t.Errorf("id %d at offset %d", id, b.Offset(i))
				}
				ids = append(ids, b.Offset(i))
			}
			b.Rows.Release()
		}
		r.Close()
		want := "[0 1]"
		if collect {
			want = "[0 1 3 4]"
		}
		if fmt.Sprint(ids) != want {
			t.Errorf("ids %v, want %s", ids, want)
		}
	}
	if fmt.Sprint(bad) != "[2]" {
		t.Errorf("malformed %v", bad)
	}
}
