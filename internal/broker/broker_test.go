package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg Config) *Broker {
	t.Helper()
	b, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func jet(t *testing.T, b *Broker) jetstream.JetStream {
	t.Helper()
	nc, err := b.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// fill makes streams A and B with one message each.
func fill(t *testing.T, b *Broker) {
	t.Helper()
	js := jet(t, b)
	for _, name := range []string{"A", "B"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name}}); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), name, []byte("hello "+name)); err != nil {
			t.Fatal(err)
		}
	}
}

func has(t *testing.T, b *Broker, name string) bool {
	t.Helper()
	st, err := jet(t, b).Stream(t.Context(), name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), 1)
	if err != nil || string(m.Data) != "hello "+name {
		t.Fatalf("message of %s: %v %v", name, m, err)
	}
	return true
}

func TestKeepsAcrossRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	b := open(t, Config{Dir: dir})
	if b.URL() != "" {
		t.Errorf("URL %q without listening", b.URL())
	}
	fill(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, err := b.Conn(t.Context()); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("connecting to a closed broker: %v", err)
	}
	b = open(t, Config{Dir: dir})
	if !has(t, b, "A") || !has(t, b, "B") || len(b.Quarantined()) != 0 {
		t.Errorf("lost a stream; quarantined %v", b.Quarantined())
	}
}

func TestOneBrokerPerFolder(t *testing.T) {
	dir := t.TempDir()
	open(t, Config{Dir: dir})
	if _, err := Start(Config{Dir: dir}); !errors.Is(err, tidemill.ErrConflict) {
		t.Errorf("a second broker: %v", err)
	}
}

func TestListen(t *testing.T) {
	b := open(t, Config{Dir: t.TempDir(), Listen: ":0"})
	if !strings.HasPrefix(b.URL(), "nats://127.0.0.1:") {
		t.Fatalf("URL %q", b.URL())
	}
	nc, err := Dial(t.Context(), b.URL(), DialConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		t.Error(err)
	}
	if got := nc.MaxPayload(); got != MaxPayload {
		t.Errorf("largest message %d, want %d", got, MaxPayload)
	}
	addr := strings.TrimPrefix(b.URL(), "nats://")
	if _, err := Start(Config{Dir: t.TempDir(), Listen: addr}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("a port in use: %v", err)
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "nats://" + l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, url, DialConfig{ReconnectWait: time.Millisecond}); !errors.Is(err, tidemill.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestConfigRefusals(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Dir: "x", Listen: "nowhere"},
		{Dir: "x", Listen: "host:99999"},
		{Dir: "x", Listen: "host:http"},
		{Dir: "x", MaxStore: -1},
	} {
		if b, err := Start(cfg); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
			if err == nil {
				b.Close()
			}
		}
	}
}

// TestQuarantine damages a store in every place that the server would pass over, or refuse.
func TestQuarantine(t *testing.T) {
	streamA := filepath.Join("jetstream", "$G", "streams", "A")
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		what   string
		keepsB bool
	}{
		{"meta flipped", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, streamA, "meta.inf")) }, streamA, true},
		{"meta empty", func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, streamA, "meta.inf")) }, streamA, true},
		{"meta gone", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, streamA, "meta.inf")) }, streamA, true},
		{"sum gone", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, streamA, "meta.sum")) }, streamA, true},
		{"sum flipped", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, streamA, "meta.sum")) }, streamA, true},
		{"store is a file", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "jetstream"), filepath.Join(dir, "away")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "jetstream"), []byte("?"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "jetstream", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			b := open(t, Config{Dir: dir})
			fill(t, b)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			b = open(t, Config{Dir: dir})
			q := b.Quarantined()
			if len(q) != 1 || q[0].What != c.what || q[0].Why == "" {
				t.Fatalf("quarantined %+v", q)
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(dir), q[0].Where)); err != nil {
				t.Errorf("what was moved is not where it is said to be: %v", err)
			}
			if has(t, b, "A") {
				t.Error("the damaged stream is served")
			}
			if c.keepsB && !has(t, b, "B") {
				t.Error("the sound stream is gone")
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if b = open(t, Config{Dir: dir}); len(b.Quarantined()) != 0 {
				t.Errorf("quarantined again: %+v", b.Quarantined())
			}
		})
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// What the server does not come back from by itself is told, once, with its kind; other errors
// are not.
func TestBroken(t *testing.T) {
	for _, c := range []struct {
		line string
		kind error
	}{
		{"Critical write error: write 2.blk: no space left on device", tidemill.ErrFull},
		{"JetStream failed to store a msg on stream 'A > B': input/output error", tidemill.ErrUnavailable},
		{"JetStream out of file resources, will be DISABLED", tidemill.ErrUnavailable},
	} {
		b := &Broker{broken: make(chan string, 1)}
		l := &logger{log: slog.New(slog.DiscardHandler), broken: b.broken}
		l.Errorf("a client went away")
		done, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Broken(done); err != nil {
			t.Errorf("nothing has happened yet: %v", err)
		}
		l.Errorf("%s", c.line)
		l.Errorf("%s", c.line)
		if err := b.Broken(t.Context()); !errors.Is(err, c.kind) {
			t.Errorf("%q: %v, want %v", c.line, err, c.kind)
		}
	}
}
