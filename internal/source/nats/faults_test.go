package nats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/source/nats"
)

var idSchema = arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}}, nil)

func ids(v ...int64) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, idSchema)
	defer b.Release()
	b.Field(0).(*array.Int64Builder).AppendValues(v, nil)
	return b.NewRecordBatch()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func make1(t *testing.T, s source.Stream) source.Topic {
	t.Helper()
	top, err := s.Create(within(t, 20*time.Second), "t", 1, idSchema)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// readIDs reads n ids from offset 0.
func readIDs(t *testing.T, top source.Topic, n int) []int64 {
	t.Helper()
	ctx := within(t, 20*time.Second)
	r, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []int64
	for len(got) < n {
		b, err := r.Next(ctx, n-len(got))
		if err != nil {
			t.Fatalf("after %d of %d rows: %v", len(got), n, err)
		}
		got = append(got, b.Rows.Column(0).(*array.Int64).Int64Values()...)
		b.Rows.Release()
	}
	return got
}

func dial(t *testing.T, url string) *natsgo.Conn {
	t.Helper()
	nc, err := broker.Dial(within(t, 10*time.Second), url, broker.DialConfig{Name: t.Name(), ReconnectWait: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestBrokerRestart: a reader and an appender outlive their broker.
func TestBrokerRestart(t *testing.T) {
	dir := t.TempDir()
	b, err := broker.Start(broker.Config{Dir: dir, Listen: ":0"})
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(b.URL(), "nats://")
	s := stream(t, dial(t, b.URL()), nats.Config{AttemptTimeout: 200 * time.Millisecond})
	top := make1(t, s)
	ctx := within(t, 30*time.Second)
	r, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []int64
	read := func(n int) {
		t.Helper()
		for len(got) < n {
			batch, err := r.Next(ctx, 100)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, batch.Rows.Column(0).(*array.Int64).Int64Values()...)
			batch.Rows.Release()
		}
	}
	next := int64(0)
	for range 3 {
		if _, err := top.Append(ctx, 0, ids(next, next+1), ""); err != nil {
			t.Fatal(err)
		}
		next += 2
		read(int(next))
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		// Appended while nobody is there: it waits.
		done := make(chan error, 1)
		go func() {
			_, err := top.Append(ctx, 0, ids(next), "")
			done <- err
		}()
		if b, err = broker.Start(broker.Config{Dir: dir, Listen: addr}); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		next++
		read(int(next))
	}
	for i, id := range got {
		if id != int64(i) {
			t.Fatalf("ids %v", got)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := top.Append(short, 0, ids(99), ""); !errors.Is(err, tidemill.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a broker: %v", err)
	}
}

// cutter is a proxy that closes a connection after passing on a number of answers: the
// requests arrived, and the client does not know.
type cutter struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	every int // answers per connection; 0: never cut
	conns []net.Conn
}

func newCutter(t *testing.T, target string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, target: target}
	c.wg.Add(1)
	go c.serve()
	t.Cleanup(func() {
		l.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *cutter) serve() {
	defer c.wg.Done()
	for {
		in, err := c.l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.target)
		if err != nil {
			in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		every := c.every
		c.mu.Unlock()
		c.wg.Add(2)
		go func() {
			defer c.wg.Done()
			io.Copy(out, in)
			out.Close()
		}()
		go func() {
			defer c.wg.Done()
			defer in.Close()
			defer out.Close()
			buf := make([]byte, 64<<10)
			for n := 0; ; n++ {
				k, err := out.Read(buf)
				if err != nil || every > 0 && n >= every {
					return
				}
				if _, err := in.Write(buf[:k]); err != nil {
					return
				}
			}
		}()
	}
}

func (c *cutter) cutEvery(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.every = n
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// TestLostAnswers: appends without a key, over a line that loses answers, are there once.
func TestLostAnswers(t *testing.T) {
	b := start(t, broker.Config{Listen: ":0"})
	cut := newCutter(t, strings.TrimPrefix(b.URL(), "nats://"))
	s := stream(t, dial(t, "nats://"+cut.l.Addr().String()), nats.Config{AttemptTimeout: 200 * time.Millisecond})
	top := make1(t, s)
	cut.cutEvery(9)
	const n = 40
	ctx := within(t, 30*time.Second)
	for i := range int64(n) {
		r, err := top.Append(ctx, 0, ids(i), "")
		if err != nil {
			t.Fatal(err)
		}
		if r != (tidemill.Range{First: i, Next: i + 1}) {
			t.Fatalf("append %d at %v", i, r)
		}
	}
	cut.cutEvery(0)
	for i, id := range readIDs(t, top, n) {
		if id != int64(i) {
			t.Fatalf("row %d has id %d", i, id)
		}
	}
	direct := make1(t, stream(t, connect(t, b), nats.Config{}))
	if in, err := direct.Info(ctx); err != nil || in.Next[0] != n {
		t.Errorf("%+v %v", in, err)
	}
}

// TestTwoProcesses: producers that share nothing but the broker never take the same offset.
func TestTwoProcesses(t *testing.T) {
	b := start(t, broker.Config{})
	const producers, appends = 3, 40
	var wg sync.WaitGroup
	ctx := within(t, 30*time.Second)
	ranges := make([][]tidemill.Range, producers)
	for i := range producers {
		top := make1(t, stream(t, connect(t, b), nats.Config{}))
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := range appends {
				r, err := top.Append(ctx, 0, ids(int64(i*1000+k)), fmt.Sprintf("p%d/%d", i, k))
				if err != nil {
					t.Error(err)
					return
				}
				ranges[i] = append(ranges[i], r)
			}
		}()
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	got := readIDs(t, make1(t, stream(t, connect(t, b), nats.Config{})), producers*appends)
	for i, rs := range ranges {
		for k, r := range rs {
			if got[r.First] != int64(i*1000+k) {
				t.Fatalf("append %d of producer %d is not at %v", k, i, r)
			}
		}
	}
}

func TestMessageSize(t *testing.T) {
	b := start(t, broker.Config{})
	nc := connect(t, b)
	s := stream(t, nc, nats.Config{})
	var fields []arrow.Field
	for i := range 8 {
		fields = append(fields, arrow.Field{Name: fmt.Sprint("c", i), Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	ctx := within(t, 20*time.Second)
	top, err := s.Create(ctx, "small", 1, schema)
	if err != nil {
		t.Fatal(err)
	}
	rb := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for i := range 8 {
		rb.Field(i).(*array.Float64Builder).Append(float64(i))
	}
	rec := rb.NewRecordBatch()
	const n = 10
	for i := range n {
		if _, err := top.Append(ctx, 0, rec, fmt.Sprintf("demo/0/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "TIDEMILL_small_0")
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	stored := int(st.CachedInfo().State.Bytes / n)
	t.Logf("a row of 8 numbers is a message of %d bytes and takes %d on disk", len(m.Data), stored)
	if len(m.Data) > 620 || stored > 720 {
		t.Errorf("a row of 8 numbers is a message of %d bytes and takes %d on disk", len(m.Data), stored)
	}
}

func TestTooLarge(t *testing.T) {
	s := stream(t, connect(t, start(t, broker.Config{})), nats.Config{})
	top := make1(t, s)
	ctx := within(t, 20*time.Second)
	_, err := top.Append(ctx, 0, ids(make([]int64, nats.MaxAppendBytes/8)...), "")
	if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "split") {
		t.Errorf("too many rows: %v", err)
	}
	r, err := top.Append(ctx, 0, ids(make([]int64, nats.MaxAppendBytes/8-200)...), "")
	if err != nil {
		t.Fatalf("as many rows as fit: %v", err)
	}
	readIDs(t, top, int(r.Next))
}

// TestForeignMessages: what is not a message of ours ends a reader with ErrCorrupt.
func TestForeignMessages(t *testing.T) {
	nc := connect(t, start(t, broker.Config{}))
	s := stream(t, nc, nats.Config{})
	top := make1(t, s)
	ctx := within(t, 20*time.Second)
	if _, err := top.Append(ctx, 0, ids(0), ""); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "TIDEMILL_t_0")
	if err != nil {
		t.Fatal(err)
	}
	r, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	subject := strings.Replace(st.CachedInfo().Config.Subjects[0], "*", "x", 1)
	if _, err := js.Publish(ctx, subject, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	b, err := r.Next(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	b.Rows.Release()
	if _, err := r.Next(ctx, 1); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("reading on: %v", err)
	}
	// A producer that does not know it yet finds out; nothing is written behind it.
	for range 2 {
		if _, err := top.Append(ctx, 0, ids(1), ""); !errors.Is(err, tidemill.ErrCorrupt) {
			t.Errorf("appending behind it: %v", err)
		}
	}
}

// TestHole: rows that are missing from the middle of a log stop a reader.
func TestHole(t *testing.T) {
	nc := connect(t, start(t, broker.Config{}))
	top := make1(t, stream(t, nc, nats.Config{}))
	ctx := within(t, 20*time.Second)
	for i := range int64(5) {
		if _, err := top.Append(ctx, 0, ids(i), ""); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "TIDEMILL_t_0")
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(ctx, 3); err != nil {
		t.Fatal(err)
	}
	r, err := top.Reader(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		b, err := r.Next(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		b.Rows.Release()
	}
	if _, err := r.Next(ctx, 1); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), "[2,3)") {
		t.Errorf("at the hole: %v", err)
	}
	if _, err := top.Reader(ctx, 0, 2); !errors.Is(err, tidemill.ErrCorrupt) {
		t.Errorf("opening in the hole: %v", err)
	}
}

// TestHalfDone: whoever meets a topic that was being made or deleted finishes it.
func TestHalfDone(t *testing.T) {
	nc := connect(t, start(t, broker.Config{}))
	s := stream(t, nc, nats.Config{})
	top := make1(t, s)
	ctx := within(t, 20*time.Second)
	if _, err := top.Append(ctx, 0, ids(1, 2), ""); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, "TIDEMILL_TOPICS")
	if err != nil {
		t.Fatal(err)
	}
	set := func(state string) {
		t.Helper()
		e, err := kv.Get(ctx, "t.t")
		if err != nil {
			t.Fatal(err)
		}
		var r map[string]any
		if err := json.Unmarshal(e.Value(), &r); err != nil {
			t.Fatal(err)
		}
		r["state"] = state
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(ctx, "t.t", b); err != nil {
			t.Fatal(err)
		}
	}
	set("making")
	if names, err := s.Topics(ctx); err != nil || len(names) != 0 {
		t.Errorf("topics %v %v", names, err)
	}
	top, err = s.Open(ctx, "t")
	if err != nil {
		t.Fatal(err)
	}
	if got := readIDs(t, top, 2); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("ids %v", got)
	}
	set("deleting")
	if _, err := s.Open(ctx, "t"); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	again := make1(t, s)
	if in, err := again.Info(ctx); err != nil || in.Next[0] != 0 {
		t.Errorf("%+v %v", in, err)
	}
	// A log without its record is not taken over, and can be dropped.
	if err := kv.Purge(ctx, "t.t"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(ctx, "t", 1, idSchema); !errors.Is(err, tidemill.ErrExists) {
		t.Errorf("over leftovers: %v", err)
	}
	if err := s.Delete(ctx, "t"); err != nil {
		t.Fatal(err)
	}
	make1(t, s)
}
