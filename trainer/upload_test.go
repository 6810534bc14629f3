package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// store is a trainer that only keeps graph files.
func store(t *testing.T) *Trainer {
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { b.Close() })
	return New(Config{Bucket: b, Logger: slog.New(slog.DiscardHandler)})
}

// sending sends parts to t, as a client does; broken, when it returns an error, takes the
// place of an answer.
func sending(tr *Trainer, broken func(args map[string]string) error) Uploader {
	return func(ctx context.Context, verb string, args map[string]string, answer any) error {
		if err := broken(args); err != nil {
			return err
		}
		st, err := tr.command(ctx, "", verb, args)
		if err == nil {
			*answer.(*UploadStatus) = st.(UploadStatus)
		}
		return err
	}
}

func fine(map[string]string) error { return nil }

func TestUploadGraph(t *testing.T) {
	ctx := t.Context()
	data, err := os.ReadFile("../internal/graphfile/testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	tr := store(t)
	calls := 0
	count := func(map[string]string) error { calls++; return nil }
	graph, err := UploadGraph(ctx, sending(tr, count), data, "ratings.graph")
	if err != nil || calls != 2 {
		t.Fatalf("uploaded in %d calls: %v", calls, err)
	}
	if got, err := snapshot.ReadGraph(ctx, tr.cfg.Bucket, graph); err != nil || string(got) != string(data) {
		t.Fatalf("the store has %d bytes: %v", len(got), err)
	}
	calls = 0
	if again, err := UploadGraph(ctx, sending(tr, count), data, "ratings.graph"); err != nil || again != graph || calls != 1 {
		t.Fatalf("a second time in %d calls: %v", calls, err)
	}
	if len(tr.uploads.open) != 0 {
		t.Errorf("%d uploads are kept", len(tr.uploads.open))
	}
}

// A file of several parts that is no graph arrives whole, is refused by its name and leaves nothing.
func TestUploadRefuses(t *testing.T) {
	ctx := t.Context()
	tr := store(t)
	long := make([]byte, 2*partBytes+5)
	_, err := UploadGraph(ctx, sending(tr, fine), long, "long.graph")
	if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "long.graph") {
		t.Errorf("error %v", err)
	}
	if len(tr.uploads.open) != 0 {
		t.Errorf("%d uploads are kept", len(tr.uploads.open))
	}
	graph := strings.Repeat("ab", 32)
	for what, args := range map[string]map[string]string{
		"name":         {"graph": "ratings"},
		"path":         {"graph": "../../" + graph[6:]},
		"no parts":     {"graph": graph, "part": "0", "data": ""},
		"part":         {"graph": graph, "part": "3", "parts": "3", "data": ""},
		"negative":     {"graph": graph, "part": "-1", "parts": "3", "data": ""},
		"many":         {"graph": graph, "part": "0", "parts": fmt.Sprint(maxParts + 1), "data": ""},
		"base64":       {"graph": graph, "part": "0", "parts": "1", "data": "*"},
		"short":        {"graph": graph, "part": "0", "parts": "2", "data": "AAAA"},
		"another hash": {"graph": graph, "part": "0", "parts": "1", "data": "AAAA"},
	} {
		if _, err := tr.upload(ctx, args); !errors.Is(err, tidemill.ErrInvalid) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if _, err := tr.upload(ctx, map[string]string{"graph": graph, "part": "1", "parts": "2", "data": "AAAA"}); !errors.Is(err, tidemill.ErrConflict) {
		t.Errorf("a second part first: %v", err)
	}
}

// Whatever is lost, repeated or begun again by others meanwhile, the parts that come together are
// the file's, in order.
func TestUploadParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var u uploads
		type file struct{ parts, next int }
		files := map[string]*file{}
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "file")
			f := files[name]
			if f == nil {
				f = &file{parts: rapid.IntRange(1, 4).Draw(t, "parts")}
				files[name] = f
			}
			part := min(f.next, f.parts-1)
			if rapid.Bool().Draw(t, "odd") {
				part = rapid.IntRange(0, f.parts-1).Draw(t, "part")
			}
			next, whole, err := u.take(name, part, f.parts, []byte(fmt.Sprint(name, part, " ")))
			if len(u.open) > maxUploads {
				t.Fatalf("%d uploads are open", len(u.open))
			}
			f.next = next
			if err != nil {
				if !errors.Is(err, tidemill.ErrConflict) {
					t.Fatal(err)
				}
				f.next = 0
			}
			if whole == nil {
				continue
			}
			want := ""
			for k := range f.parts {
				want += fmt.Sprint(name, k, " ")
			}
			if string(whole) != want {
				t.Fatalf("file %q, want %q", whole, want)
			}
			f.next = 0
		}
	})
}

// A trainer that takes over in the middle has the client begin again.
func TestUploadMovesOn(t *testing.T) {
	first, second := store(t), store(t)
	calls := 0
	data := make([]byte, 3*partBytes)
	_, err := UploadGraph(t.Context(), func(ctx context.Context, verb string, args map[string]string, answer any) error {
		calls++
		if calls <= 3 {
			return sending(first, fine)(ctx, verb, args, answer)
		}
		return sending(second, fine)(ctx, verb, args, answer)
	}, data, "long.graph")
	if !errors.Is(err, tidemill.ErrInvalid) || calls != 3+1+3 { // asked, two parts; refused; all of them
		t.Errorf("%d calls, then %v", calls, err)
	}
}
