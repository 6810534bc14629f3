package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/demo"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/trainer"
)

// TestHelp: every command has a sentence, an example, and flags that say what they do.
func TestHelp(t *testing.T) {
	var all []*cobra.Command
	for _, c := range newRoot(&app{}).Commands() {
		all = append(append(all, c), c.Commands()...)
	}
	for _, c := range all {
		if c.Short == "" || c.Args == nil {
			t.Errorf("%s lacks help or a check of its arguments", c.CommandPath())
		}
		// What nodes start by themselves shows nobody how to.
		if !c.Hidden && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("the example of %s does not show it", c.CommandPath())
		}
		if c.RunE == nil {
			t.Errorf("%s does nothing", c.CommandPath())
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		kind string
	}{
		{tidemill.Invalid("x", "y"), 2, "invalid"},
		{fmt.Errorf("a: %w", tidemill.ErrNotFound), 1, "not_found"},
		{refused{fmt.Errorf("a: %w", tidemill.ErrExists)}, 2, "exists"},
		{fmt.Errorf("a: %w", &rpc.Error{Kind: tidemill.ErrInvalid, Message: "m"}), 2, "invalid"},
		{context.DeadlineExceeded, 1, "timeout"},
		{errors.New("else"), 1, "failed"},
	} {
		if got := exitCode(c.err); got != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.code)
		}
		var out, text bytes.Buffer
		a := &app{out: &out, err: &text, json: true}
		a.fail(c.err)
		var o struct{ Error, Kind string }
		if err := json.Unmarshal(out.Bytes(), &o); err != nil || o.Kind != c.kind || o.Error == "" {
			t.Errorf("%v: printed %s, want kind %s", c.err, out.String(), c.kind)
		}
		if !strings.HasPrefix(text.String(), "tidemill: ") {
			t.Errorf("%v: said %q", c.err, text.String())
		}
	}
}

// TestInterrupted: a command whose context has ended fails, and says so in few words.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, text bytes.Buffer
	if code := run(ctx, []string{"jobs", "--server", "127.0.0.1:1"}, strings.NewReader(""), &out, &text); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if out.Len() > 0 || text.Len() > 200 {
		t.Errorf("printed %q and %q", out.String(), text.String())
	}
}

func TestParseModel(t *testing.T) {
	for _, c := range []struct {
		in, model, version string
		ok                 bool
	}{
		{"m", "m", "", true}, {"m@3", "m", "3", true}, {"m@v3", "m", "3", true}, {"m@champion", "m", "", true},
		{"m@", "", "", false}, {"m@0", "", "", false}, {"m@-1", "", "", false}, {"m@3@4", "", "", false},
		{"", "", "", false}, {"../m", "", "", false}, {"m@99999999999999999999", "", "", false},
	} {
		m, v, err := parseModel(c.in)
		if (err == nil) != c.ok || m != c.model || v != c.version {
			t.Errorf("parseModel(%q) = %q, %q, %v", c.in, m, v, err)
		}
		if err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("parseModel(%q): %v is not ErrInvalid", c.in, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "512B": 512, "20GiB": 20 << 30, "20 gib": 20 << 30, "3k": 3 << 10, "5MB": 5e6, "1T": 1 << 40,
		"": 0, "0": 0, "-1": 0, "1.5GiB": 0, "lots": 0, "5XB": 0, "GiB": 0, "9999999999GiB": 0, "1 2": 0,
	} {
		got, err := parseBytes(in)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("parseBytes(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
}

// TestParseKey: each way of writing a key gives its bytes, and no error repeats it.
func TestParseKey(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "bytes")
		key := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "key")
		h, b := hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key)
		file := filepath.Join(dir, "key")
		if err := os.WriteFile(file, []byte(b+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{h, b, file} {
			got, err := parseKey(s)
			// Base64 of 24 bytes may by chance be hex of 16; hex is tried first.
			if err != nil || !bytes.Equal(got, key) && len(got) == n {
				t.Fatalf("parseKey: %v, %x, want %x", err, got, key)
			}
		}
		short := h[:len(h)-2]
		if _, err := parseKey(short); err == nil || strings.Contains(err.Error(), short) {
			t.Fatalf("a short key gave %v", err)
		}
	})
	if got, err := parseKey(""); got != nil || err != nil {
		t.Errorf("no key gave %x, %v", got, err)
	}
}

func FuzzTypedRows(f *testing.F) {
	f.Add("a=1,b=2", "a=3")
	f.Add(`a="x,y"`, `"b=x,y"`)
	f.Add("a", "=1")
	f.Fuzz(func(t *testing.T, one, two string) {
		r, err := typedRows([]string{one, two})
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		// What comes out is csv with a header and rows as long as it.
		if _, err := csv.NewReader(r).ReadAll(); err != nil && !strings.Contains(one+two, "\r") {
			t.Fatal(err)
		}
	})
}

func FuzzReadSchema(f *testing.F) {
	f.Add("a: int64\nb: text # c\n")
	f.Add("a")
	f.Add(":\n: int64")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, s string) {
		name := filepath.Join(dir, "schema")
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		types, err := readSchema(name)
		if (err == nil) != (len(types) > 0) {
			t.Fatalf("%d types, error %v", len(types), err)
		}
		if err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Fatalf("%v is not ErrInvalid", err)
		}
	})
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		listen, grpc   string
		want, wantHost string
		bad            bool
	}{
		{"", "", "", "", false},
		{"", ":0", "127.0.0.1:0", "", false},
		{":0", "", "127.0.0.1:0", "", false},
		{":0", "-", "-", "", false},
		{"localhost:0", ":9000", "localhost:9000", "localhost", false},
		{"::1", ":9000", "[::1]:9000", "::1", false},
		{"[::1]:0", "", "[::1]:0", "::1", false},
		{"127.0.0.1", "127.0.0.2:1", "127.0.0.2:1", "127.0.0.1", false},
		{"127.0.0.1:80", "", "", "", true},
		{"", "nonsense", "", "", true},
	} {
		f := startFlags{listen: c.listen}
		f.cfg.GRPC = c.grpc
		cfg := f.cfg
		err := f.addresses(&cfg)
		if (err != nil) != c.bad {
			t.Errorf("--listen %q --grpc %q: %v", c.listen, c.grpc, err)
		} else if err == nil && (cfg.GRPC != c.want || cfg.Host != c.wantHost) {
			t.Errorf("--listen %q --grpc %q: %q on %q, want %q on %q", c.listen, c.grpc, cfg.GRPC, cfg.Host, c.want, c.wantHost)
		}
	}
}

func TestMet(t *testing.T) {
	for _, c := range []struct {
		u         until
		st        trainer.JobStatus
		ok, never bool
	}{
		{until{state: "finished"}, trainer.JobStatus{State: "running"}, false, false},
		{until{state: "finished"}, trainer.JobStatus{State: "finished"}, true, false},
		{until{state: "finished"}, trainer.JobStatus{State: "failed"}, false, true},
		{until{examples: 5}, trainer.JobStatus{State: "running", Examples: 5}, true, false},
		{until{examples: 5}, trainer.JobStatus{State: "finished", Examples: 4}, false, true},
		{until{champion: 2}, trainer.JobStatus{State: "finished", Champion: 1}, false, false},
		{until{champion: 2}, trainer.JobStatus{State: "cancelled", Champion: 1}, false, true},
	} {
		if ok, never := c.u.met(c.st); ok != c.ok || never != c.never {
			t.Errorf("%+v in %s: %v, %v, want %v, %v", c.u, c.st.State, ok, never, c.ok, c.never)
		}
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 1 << 40: "1,099,511,627,776"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
}

// TestScreen draws a demo as a terminal 60 characters wide would get it: every frame has the
// same number of lines, none longer than the terminal.
func TestScreen(t *testing.T) {
	w, err := demo.Find("power")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s := newScreen(io.Discard, demo.Config{Workload: w})
	s.w, s.width = &out, 60
	for i := range 3 {
		s.progress(demo.Progress{Elapsed: time.Duration(i) * time.Second, Status: trainer.JobStatus{Examples: int64(i) * 9000}})
		s.decided(tidemill.Decision{Version: int64(i), Decision: tidemill.Published, Reason: strings.Repeat("long ", 40)})
	}
	s.end()
	shown := out.Len()
	s.progress(demo.Progress{Elapsed: time.Hour})
	if out.Len() != shown {
		t.Error("the screen is drawn after its end")
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines)%6 != 0 {
		t.Errorf("6 frames have %d lines", len(lines))
	}
	plain := strings.NewReplacer("\r", "", "\x1b[2K", "", "\x1b[1m", "", "\x1b[0m", "")
	for _, l := range lines {
		l = plain.Replace(l)
		if strings.HasPrefix(l, "\x1b[") { // the way back up, at a frame's beginning
			l = l[strings.IndexByte(l, 'A')+1:]
		}
		if n := len([]rune(l)); n >= 60 {
			t.Errorf("a line has %d characters: %q", n, l)
		}
	}
	if !strings.Contains(out.String(), "18,000 of") {
		t.Error("the last frame does not say how far the demo is")
	}
}

// TestUsageArguments: what is missing is called by its name in the usage line.
func TestUsageArguments(t *testing.T) {
	cmd := &cobra.Command{Use: "c A B…"}
	for n, want := range map[int]string{0: "A and B are missing", 1: "B is missing", 2: ""} {
		err := args(2, -1, "A", "B")(cmd, make([]string, n))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d arguments: %v, want %q", n, err, want)
		}
	}
}
