// Package storetest is what every store must do for snapshots to be safe in it. A driver's
// test calls Run with a way to open an empty store.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"pgregory.net/rapid"
)

// Options says what a store is exempt from.
type Options struct {
	// AnyName: the store takes names that would leave its folder, because it has none.
	AnyName bool
}

// Run runs the suite. open returns an empty store, which the suite closes.
func Run(t *testing.T, opts Options, open func(t *testing.T) *blob.Bucket) {
	tests := []struct {
		name string
		f    func(t *testing.T, b *blob.Bucket)
	}{
		{"ReadBack", readBack}, {"Ranges", ranges}, {"Missing", missing}, {"CreateOnly", createOnly},
		{"CreateOnlyRace", createOnlyRace}, {"Replace", replace}, {"Cancelled", cancelled},
		{"List", listing}, {"ListPages", listPages}, {"Delete", deleting}, {"Copy", copying}, {"Model", model},
	}
	if !opts.AnyName {
		tests = append(tests, struct {
			name string
			f    func(t *testing.T, b *blob.Bucket)
		}{"Names", names})
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			defer func() {
				if err := b.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.f(t, b)
		})
	}
}

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code gcerrors.ErrorCode) {
	t.Helper()
	if gcerrors.Code(err) != code {
		t.Fatalf("error is %v (code %v), want code %v", err, gcerrors.Code(err), code)
	}
}

// data returns n bytes that differ from place to place.
func data(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8) ^ byte(i*7)
	}
	return b
}

func readBack(t *testing.T, b *blob.Bucket) {
	for _, n := range []int{0, 1, 511, 512, 1 << 16, 3<<20 + 17} {
		name := fmt.Sprintf("a/b/size-%d", n)
		must(t, b.WriteAll(ctx, name, data(n), nil))
		got, err := b.ReadAll(ctx, name)
		must(t, err)
		if !bytes.Equal(got, data(n)) {
			t.Fatalf("%d bytes came back as %d other ones", n, len(got))
		}
		attrs, err := b.Attributes(ctx, name)
		must(t, err)
		if attrs.Size != int64(n) || attrs.ModTime.IsZero() {
			t.Fatalf("attributes of %d bytes: size %d, modified %v", n, attrs.Size, attrs.ModTime)
		}
	}
}

func ranges(t *testing.T, b *blob.Bucket) {
	want := data(600_000)
	must(t, b.WriteAll(ctx, "r", want, nil))
	for _, c := range []struct{ offset, length int64 }{{0, 0}, {0, 10}, {5, 1}, {300_000, 200_000}, {599_999, 5}, {600_000, -1}, {7, -1}, {600_000, 3}} {
		r, err := b.NewRangeReader(ctx, "r", c.offset, c.length, nil)
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		end := int64(len(want))
		if c.length >= 0 {
			end = min(end, c.offset+c.length)
		}
		if !bytes.Equal(got, want[c.offset:end]) {
			t.Errorf("range [%d,+%d) gave %d bytes, want %d", c.offset, c.length, len(got), end-c.offset)
		}
		if r.Size() != int64(len(want)) {
			t.Errorf("range [%d,+%d): size %d, want that of the whole blob", c.offset, c.length, r.Size())
		}
	}
}

func missing(t *testing.T, b *blob.Bucket) {
	_, err := b.ReadAll(ctx, "no/such")
	wantCode(t, err, gcerrors.NotFound)
	_, err = b.Attributes(ctx, "no/such")
	wantCode(t, err, gcerrors.NotFound)
	wantCode(t, b.Delete(ctx, "no/such"), gcerrors.NotFound)
	ok, err := b.Exists(ctx, "no/such")
	must(t, err)
	if ok {
		t.Error("a blob that nobody wrote exists")
	}
	must(t, b.WriteAll(ctx, "x/y", nil, nil))
	_, err = b.ReadAll(ctx, "x")
	wantCode(t, err, gcerrors.NotFound)
}

func createOnly(t *testing.T, b *blob.Bucket) {
	only := &blob.WriterOptions{IfNotExist: true}
	must(t, b.WriteAll(ctx, "c/1", []byte("first"), only))
	wantCode(t, b.WriteAll(ctx, "c/1", []byte("second"), only), gcerrors.FailedPrecondition)
	got, err := b.ReadAll(ctx, "c/1")
	must(t, err)
	if string(got) != "first" {
		t.Fatalf("the second writer left %q", got)
	}
	must(t, b.Delete(ctx, "c/1"))
	must(t, b.WriteAll(ctx, "c/1", []byte("third"), only))
}

// createOnlyRace lets 16 writers create one name, again and again: one wins, and everybody who
// lost can read what the winner wrote.
func createOnlyRace(t *testing.T, b *blob.Bucket) {
	for round := range 20 {
		name := fmt.Sprintf("race/%d", round)
		start := make(chan struct{})
		errs := make([]error, 16)
		seen := make([]string, 16)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				<-start
				errs[i] = b.WriteAll(ctx, name, fmt.Appendf(nil, "writer %d", i), &blob.WriterOptions{IfNotExist: true})
				got, err := b.ReadAll(ctx, name)
				seen[i] = fmt.Sprintf("%s %v", got, err)
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			if err == nil {
				if winner >= 0 {
					t.Fatalf("round %d: writers %d and %d both created it", round, winner, i)
				}
				winner = i
				continue
			}
			wantCode(t, err, gcerrors.FailedPrecondition)
		}
		for i, s := range seen {
			if want := fmt.Sprintf("writer %d <nil>", winner); s != want {
				t.Fatalf("round %d: writer %d then read %q, want %q", round, i, s, want)
			}
		}
	}
}

func replace(t *testing.T, b *blob.Bucket) {
	must(t, b.WriteAll(ctx, "same", []byte("one"), nil))
	must(t, b.WriteAll(ctx, "same", []byte("another"), nil))
	got, err := b.ReadAll(ctx, "same")
	must(t, err)
	if string(got) != "another" {
		t.Fatalf("read %q after it was replaced", got)
	}
}

func cancelled(t *testing.T, b *blob.Bucket) {
	for _, size := range []int{0, 10, 2 << 20} {
		c, cancel := context.WithCancel(ctx)
		w, err := b.NewWriter(c, "cancelled", &blob.WriterOptions{ContentType: "application/octet-stream"})
		must(t, err)
		_, err = w.Write(data(size))
		must(t, err)
		cancel()
		if err := w.Close(); !errors.Is(err, context.Canceled) && gcerrors.Code(err) != gcerrors.Canceled {
			t.Errorf("close of a cancelled write of %d bytes: %v", size, err)
		}
		ok, err := b.Exists(ctx, "cancelled")
		must(t, err)
		if ok {
			t.Fatalf("a cancelled write of %d bytes is visible", size)
		}
	}
}

func keys(t testing.TB, b *blob.Bucket, prefix, delimiter string) []string {
	t.Helper()
	out := []string{}
	it := b.List(&blob.ListOptions{Prefix: prefix, Delimiter: delimiter})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		if o.IsDir != strings.HasSuffix(o.Key, "/") {
			t.Fatalf("%q: IsDir is %v", o.Key, o.IsDir)
		}
		out = append(out, o.Key)
	}
}

func listing(t *testing.T, b *blob.Bucket) {
	all := []string{"a-b/x", "a/b/c", "a/b/d", "a/e", "a0", "b/1", "b/2", "ba"}
	for _, k := range all {
		must(t, b.WriteAll(ctx, k, []byte(k), nil))
	}
	for _, c := range []struct {
		prefix, delimiter string
		want              []string
	}{
		{"", "", all},
		{"a/", "", []string{"a/b/c", "a/b/d", "a/e"}},
		{"a", "", []string{"a-b/x", "a/b/c", "a/b/d", "a/e", "a0"}},
		{"", "/", []string{"a-b/", "a/", "a0", "b/", "ba"}},
		{"a/", "/", []string{"a/b/", "a/e"}},
		{"a/b", "/", []string{"a/b/"}},
		{"a/b/", "/", []string{"a/b/c", "a/b/d"}},
		{"b/2", "", []string{"b/2"}},
		{"none/", "", []string{}},
		{"a/e/", "", []string{}},
	} {
		if got := keys(t, b, c.prefix, c.delimiter); !slices.Equal(got, c.want) {
			t.Errorf("list of %q by %q is %q, want %q", c.prefix, c.delimiter, got, c.want)
		}
	}
}

func listPages(t *testing.T, b *blob.Bucket) {
	var want []string
	for i := range 25 {
		k := fmt.Sprintf("p/%02d/x", i)
		want = append(want, k)
		must(t, b.WriteAll(ctx, k, []byte("x"), nil))
	}
	for _, size := range []int{1, 2, 7, 24, 25, 26} {
		var got []string
		for token := blob.FirstPageToken; len(token) > 0; {
			page, next, err := b.ListPage(ctx, token, size, &blob.ListOptions{Prefix: "p/"})
			must(t, err)
			if len(page) > size {
				t.Fatalf("a page of %d has %d objects", size, len(page))
			}
			for _, o := range page {
				if o.Size != 1 {
					t.Fatalf("%s has size %d", o.Key, o.Size)
				}
				got = append(got, o.Key)
			}
			token = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %q", size, got)
		}
	}
}

func deleting(t *testing.T, b *blob.Bucket) {
	must(t, b.WriteAll(ctx, "d/1/a", nil, nil))
	must(t, b.WriteAll(ctx, "d/2/a", nil, nil))
	must(t, b.Delete(ctx, "d/1/a"))
	if got := keys(t, b, "d/", "/"); !slices.Equal(got, []string{"d/2/"}) {
		t.Errorf("after a delete the folders are %q", got)
	}
	must(t, b.WriteAll(ctx, "d/1/b", nil, nil))
	if got := keys(t, b, "", ""); !slices.Equal(got, []string{"d/1/b", "d/2/a"}) {
		t.Errorf("after a write into a folder that had become empty: %q", got)
	}
}

func copying(t *testing.T, b *blob.Bucket) {
	must(t, b.WriteAll(ctx, "from", data(1000), nil))
	must(t, b.Copy(ctx, "deep/to", "from", nil))
	got, err := b.ReadAll(ctx, "deep/to")
	must(t, err)
	if !bytes.Equal(got, data(1000)) {
		t.Error("the copy differs")
	}
	wantCode(t, b.Copy(ctx, "x", "missing", nil), gcerrors.NotFound)
}

func names(t *testing.T, b *blob.Bucket) {
	for _, bad := range []string{"..", "../x", "a/../../x", "a/..", "/etc/x", "a//b", "a/", ".", "./a", `a\b`, "C:x", "a\x00b", "a\nb",
		"FORMAT", "LOCK", "format", ".tmp/1", strings.Repeat("n", 256)} {
		wantCode(t, b.WriteAll(ctx, bad, []byte("x"), nil), gcerrors.InvalidArgument)
		if _, err := b.ReadAll(ctx, bad); err == nil {
			t.Errorf("%q can be read", bad)
		}
		if err := b.Delete(ctx, bad); err == nil {
			t.Errorf("%q can be deleted", bad)
		}
	}
	for _, good := range []string{"a.b-c_d", "..a/...b", "ü/ß", "sub/FORMAT", strings.Repeat("n", 255)} {
		must(t, b.WriteAll(ctx, good, []byte("x"), nil))
		_, err := b.ReadAll(ctx, good)
		must(t, err)
	}
	if got := keys(t, b, "../", ""); len(got) != 0 {
		t.Errorf("list of ../ shows %q", got)
	}
}

// model compares random operations with a map.
func model(t *testing.T, b *blob.Bucket) {
	trial := 0
	rapid.Check(t, func(r *rapid.T) {
		trial++
		root := fmt.Sprintf("t%d/", trial)
		want := map[string]string{}
		name := rapid.SampledFrom([]string{"a", "b/c", "b/d", "b/e/f", "g-h"})
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			k := name.Draw(r, "name")
			v := rapid.StringN(0, 8, -1).Draw(r, "value")
			_, had := want[k]
			switch rapid.SampledFrom([]string{"write", "create", "delete", "read"}).Draw(r, "op") {
			case "write":
				if err := b.WriteAll(ctx, root+k, []byte(v), nil); err != nil {
					r.Fatal(err)
				}
				want[k] = v
			case "create":
				err := b.WriteAll(ctx, root+k, []byte(v), &blob.WriterOptions{IfNotExist: true})
				if had != (gcerrors.Code(err) == gcerrors.FailedPrecondition) || !had && err != nil {
					r.Fatalf("create, existing %v: %v", had, err)
				}
				if !had {
					want[k] = v
				}
			case "delete":
				err := b.Delete(ctx, root+k)
				if had != (err == nil) {
					r.Fatalf("delete, existing %v: %v", had, err)
				}
				delete(want, k)
			case "read":
				got, err := b.ReadAll(ctx, root+k)
				if had != (err == nil) || string(got) != want[k] {
					r.Fatalf("read %q, %v; want %q, existing %v", got, err, want[k], had)
				}
			}
		}
		var list []string
		for k := range want {
			list = append(list, root+k)
		}
		slices.Sort(list)
		if got := keys(t, b, root, ""); !slices.Equal(got, list) {
			r.Fatalf("listed %q, want %q", got, list)
		}
	})
}
