package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer/trainerpb"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// desk is a coordinator that leaves all decisions to the test, and a commander that answers
// with what it was asked.
type desk struct {
	refuse error
	links  chan *deskLink
}

type deskLink struct {
	member  string
	ctx     context.Context
	end     context.CancelFunc
	reports chan said
	grants  chan wire.Grant
}

type said struct {
	job    string
	report wire.Report
}

func (d *desk) Connect(ctx context.Context, member string) (wire.Link, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	ctx, end := context.WithCancel(ctx)
	l := &deskLink{member: member, ctx: ctx, end: end, reports: make(chan said, 1000), grants: make(chan wire.Grant, 1000)}
	d.links <- l
	return l, nil
}

func (l *deskLink) Send(job string, r *wire.Report) error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("gone: %w", tidemill.ErrUnavailable)
	}
	if job == "unknown" {
		return fmt.Errorf("no job: %w", tidemill.ErrNotFound)
	}
	c := *r
	c.Offers = append([]wire.Offer(nil), r.Offers...)
	l.reports <- said{job, c}
	return nil
}

func (l *deskLink) Recv() (wire.Grant, error) {
	select {
	case g := <-l.grants:
		return g, nil
	case <-l.ctx.Done():
		return wire.Grant{}, fmt.Errorf("gone: %w", tidemill.ErrUnavailable)
	}
}

func (l *deskLink) Close() { l.end() }

func (d *desk) Command(_ context.Context, job, verb string, args map[string]string) ([]byte, error) {
	if d.refuse != nil {
		return nil, d.refuse
	}
	return json.Marshal(map[string]any{"job": job, "verb": verb, "args": args})
}

// dial serves d until the test ends.
func dial(t testing.TB, d *desk) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
	Register(srv, d, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis)
	}()
	conn, err := rpc.Dial("trainer:1", rpc.ClientConfig{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }})
	check(t, err)
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		<-done
	})
	return conn, srv.Stop
}

// both runs a test on a desk in process and over gRPC.
func both(t *testing.T, f func(t *testing.T, d *desk, c wire.Coordinator)) {
	t.Run("in process", func(t *testing.T) {
		d := &desk{links: make(chan *deskLink, 10)}
		f(t, d, d)
	})
	t.Run("gRPC", func(t *testing.T) {
		d := &desk{links: make(chan *deskLink, 10)}
		conn, _ := dial(t, d)
		f(t, d, NewClient(conn))
	})
}

func anyReport(r *rapid.T) wire.Report {
	offset := rapid.Int64Range(0, 1<<40)
	rep := wire.Report{
		Generation: rapid.Uint64().Draw(r, "generation"), Partition: rapid.IntRange(0, maxPartitions-1).Draw(r, "partition"), Epoch: rapid.Uint64().Draw(r, "epoch"),
		Joined: rapid.Bool().Draw(r, "joined"), Next: offset.Draw(r, "next"), Acked: offset.Draw(r, "acked"),
		AtEnd: rapid.Bool().Draw(r, "at end"), End: offset.Draw(r, "end"), Torn: rapid.Bool().Draw(r, "torn"), Fault: rapid.String().Draw(r, "fault"),
	}
	for range rapid.IntRange(0, 3).Draw(r, "offers") {
		rep.Offers = append(rep.Offers, wire.Offer{
			First: offset.Draw(r, "first"), Step: rapid.Int64Range(1, 1000).Draw(r, "step"), Count: rapid.Int64Range(0, 1000).Draw(r, "count"),
		})
	}
	rep.Fault = strings.ToValidUTF8(rep.Fault, "")
	return rep
}

func anyGrant(r *rapid.T) wire.Grant {
	offset := rapid.Int64Range(0, 1<<40)
	g := wire.Grant{
		Job: "job", Generation: rapid.Uint64().Draw(r, "generation"), Partition: rapid.IntRange(0, maxPartitions-1).Draw(r, "partition"),
		Epoch: rapid.Uint64().Draw(r, "epoch"), Next: offset.Draw(r, "next"),
		Run: tidemill.Run{Round: offset.Draw(r, "round"), Count: rapid.Int64Range(0, 1000).Draw(r, "count")},
	}
	p := 0
	for range rapid.IntRange(0, 3).Draw(r, "parts") {
		p += rapid.IntRange(1, 5).Draw(r, "skip")
		g.Run.Parts = append(g.Run.Parts, tidemill.PartRun{Partition: p, First: offset.Draw(r, "first"), Step: rapid.Int64Range(1, 1000).Draw(r, "step")})
	}
	return g
}

// TestLinkCarries: everything said on a link arrives whole and in order.
func TestLinkCarries(t *testing.T) {
	both(t, func(t *testing.T, d *desk, c wire.Coordinator) {
		worker, err := c.Connect(context.Background(), "w1")
		check(t, err)
		defer worker.Close()
		desk := <-d.links
		if desk.member != "w1" {
			t.Errorf("member %q", desk.member)
		}
		rapid.Check(t, func(r *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(r, "n") {
				rep := anyReport(r)
				check(t, worker.Send("job", &rep))
				if got := <-desk.reports; got.job != "job" || !reflect.DeepEqual(got.report, rep) {
					r.Fatalf("report %+v arrived as %+v", rep, got)
				}
				g := anyGrant(r)
				desk.grants <- g
				if got, err := worker.Recv(); err != nil || !reflect.DeepEqual(got, g) {
					r.Fatalf("grant %+v arrived as %+v, %v", g, got, err)
				}
			}
		})
	})
}

// TestManyTalkAtOnce: a link takes reports of several goroutines, and keeps each one's order.
func TestManyTalkAtOnce(t *testing.T) {
	both(t, func(t *testing.T, d *desk, c wire.Coordinator) {
		worker, err := c.Connect(context.Background(), "w1")
		check(t, err)
		defer worker.Close()
		desk := <-d.links
		const loops, each = 8, 50
		var wg sync.WaitGroup
		for p := range loops {
			wg.Go(func() {
				for i := range each {
					if err := worker.Send("job", &wire.Report{Partition: p, Next: int64(i)}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var next [loops]int64
		for range loops * each {
			got := (<-desk.reports).report
			if got.Next != next[got.Partition] {
				t.Fatalf("partition %d says %d, and %d is next", got.Partition, got.Next, next[got.Partition])
			}
			next[got.Partition]++
		}
		wg.Wait()
	})
}

// TestLinkEnds: whoever ends a link, both sides hear of it.
func TestLinkEnds(t *testing.T) {
	both(t, func(t *testing.T, d *desk, c wire.Coordinator) {
		ctx, cancel := context.WithCancel(context.Background())
		connect := func(ctx context.Context) (wire.Link, *deskLink) {
			l, err := c.Connect(ctx, "w1")
			check(t, err)
			return l, <-d.links
		}
		for name, end := range map[string]func(wire.Link, *deskLink){
			"the worker":  func(w wire.Link, _ *deskLink) { w.Close() },
			"the trainer": func(_ wire.Link, d *deskLink) { d.end() },
			"the context": func(wire.Link, *deskLink) { cancel() },
		} {
			worker, desk := connect(context.Background())
			if name == "the context" {
				worker.Close()
				worker, desk = connect(ctx)
			}
			end(worker, desk)
			if g, err := worker.Recv(); !errors.Is(err, tidemill.ErrUnavailable) {
				t.Errorf("%s ended the link, and Recv gives %v, %v", name, g, err)
			}
			<-desk.ctx.Done()
			if err := worker.Send("job", &wire.Report{}); !errors.Is(err, tidemill.ErrUnavailable) {
				t.Errorf("%s ended the link, and Send gives %v", name, err)
			}
			worker.Close()
		}
	})
}

// TestLinkRefused: a trainer that does not lead says so, and a worker without a name is none.
func TestLinkRefused(t *testing.T) {
	d := &desk{links: make(chan *deskLink, 10), refuse: fmt.Errorf("another one leads: %w", tidemill.ErrNotReady)}
	conn, stop := dial(t, d)
	c := NewClient(conn)
	ctx := context.Background()
	if _, err := c.Connect(ctx, "w1"); !errors.Is(err, tidemill.ErrNotReady) {
		t.Errorf("refused: %v", err)
	}
	if _, err := c.Connect(ctx, "../w1"); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("bad name: %v", err)
	}
	d.refuse = nil
	for name, bad := range map[string]*wire.Report{
		"partition": {Partition: -1}, "offset": {Next: -5}, "offer": {Offers: []wire.Offer{{First: 1 << 62, Step: 1 << 62, Count: 4}}},
	} {
		l, err := c.Connect(ctx, "w1")
		check(t, err)
		check(t, l.Send("job", bad))
		if _, err := l.Recv(); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("bad %s: %v", name, err)
		}
		<-(<-d.links).ctx.Done()
		l.Close()
	}
	l, err := c.Connect(ctx, "w1")
	check(t, err)
	check(t, l.Send("unknown", &wire.Report{}))
	if _, err := l.Recv(); !errors.Is(err, tidemill.ErrNotFound) {
		t.Errorf("unknown job: %v", err)
	}
	l.Close()
	l, err = c.Connect(ctx, "w1")
	check(t, err)
	stop()
	if _, err := l.Recv(); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("cut off: %v", err)
	}
	l.Close()
	if _, err := c.Connect(ctx, "w1"); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}

// TestHello: a stream that begins with anything else is refused, one that says nothing ends.
func TestHello(t *testing.T) {
	conn, _ := dial(t, &desk{links: make(chan *deskLink, 10)})
	for name, first := range map[string]*trainerpb.Up{
		"a report": {Kind: &trainerpb.Up_Report{Report: &trainerpb.Report{Job: "job"}}},
		"nothing":  {},
	} {
		s, err := trainerpb.NewTrainerClient(conn).Link(t.Context())
		check(t, err)
		check(t, s.Send(first))
		if _, err := s.Recv(); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s first: %v", name, err)
		}
	}
	s, err := trainerpb.NewTrainerClient(conn).Link(t.Context())
	check(t, err)
	check(t, s.CloseSend())
	if m, err := s.Recv(); err == nil {
		t.Errorf("nothing at all: %v", m)
	}
}

// TestLongFault: a fault is said in part rather than refused.
func TestLongFault(t *testing.T) {
	m := encodeReport("job", &wire.Report{Fault: strings.Repeat("é", maxFault)})
	if _, err := proto.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if _, r, err := decodeReport(m); err != nil || len(r.Fault) < maxFault-4 {
		t.Errorf("%d bytes of it arrived: %v", len(r.Fault), err)
	}
}

func TestCommands(t *testing.T) {
	d := &desk{}
	conn, stop := dial(t, d)
	c := NewCommander(conn)
	ctx := context.Background()
	args := map[string]string{"version": "7", "by": "ada", "why": "it is better: ✓"}
	before := maps.Clone(args)
	for _, job := range []string{"elec2", ""} {
		want, err := d.Command(ctx, job, "promote", args)
		check(t, err)
		got, err := c.Command(ctx, job, "promote", args)
		if err != nil || string(got) != string(want) {
			t.Errorf("answer %s, %v, want %s", got, err, want)
		}
	}
	if !maps.Equal(args, before) {
		t.Errorf("the caller's arguments became %v", args)
	}
	if got, err := c.Command(ctx, "elec2", "pause", nil); err != nil || !strings.Contains(string(got), `"args":{}`) {
		t.Errorf("no arguments: %s, %v", got, err)
	}
	many := map[string]string{}
	for i := range maxArgs + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for name, err := range map[string]error{
		"bad job":        failure(c.Command(ctx, "a/b", "pause", nil)),
		"no verb":        failure(c.Command(ctx, "a", "", nil)),
		"many arguments": failure(c.Command(ctx, "a", "pause", many)),
		"long argument":  failure(c.Command(ctx, "a", "pause", map[string]string{"x": strings.Repeat("x", maxArg)})),
		"by twice": failure(trainerpb.NewTrainerClient(conn).Command(ctx,
			&trainerpb.CommandRequest{Job: "a", Verb: "pause", By: "a", Args: map[string]string{"by": "b"}})),
	} {
		if !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, kind := range []error{tidemill.ErrNotFound, tidemill.ErrNotReady, tidemill.ErrInvalid, tidemill.ErrConflict} {
		d.refuse = fmt.Errorf("no: %w", kind)
		if err := failure(c.Command(ctx, "a", "pause", nil)); !errors.Is(err, kind) {
			t.Errorf("%v arrived as %v", kind, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := failure(c.Command(cancelled, "a", "pause", nil)); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("without time: %v", err)
	}
	stop()
	if err := failure(c.Command(ctx, "a", "pause", nil)); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}

func failure[T any](_ T, err error) error { return err }

// FuzzMessages: whatever arrives is refused, or understood and the same when sent again.
func FuzzMessages(f *testing.F) {
	for _, m := range []proto.Message{
		encodeReport("job", &wire.Report{Joined: true, Next: 3, Offers: []wire.Offer{{First: 1, Step: 2, Count: 3}}, Fault: "x"}),
		encodeGrant(&wire.Grant{Job: "job", Run: tidemill.Run{Round: 1, Count: 2, Parts: []tidemill.PartRun{{First: 1, Step: 2}, {Partition: 3, Step: 1}}}, Next: 9}),
		&trainerpb.CommandRequest{Job: "job", Verb: "promote", Args: map[string]string{"version": "3"}, By: "ada"},
	} {
		b, err := proto.Marshal(m)
		check(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var up trainerpb.Report
		if proto.Unmarshal(data, &up) == nil {
			if job, r, err := decodeReport(&up); err == nil {
				job2, r2, err := decodeReport(encodeReport(job, r))
				if err != nil || job2 != job || !reflect.DeepEqual(r, r2) {
					t.Fatalf("%+v became %+v, %v", r, r2, err)
				}
			}
		}
		var down trainerpb.Grant
		if proto.Unmarshal(data, &down) == nil {
			if g, err := decodeGrant(&down); err == nil {
				if g2, err := decodeGrant(encodeGrant(&g)); err != nil || !reflect.DeepEqual(g, g2) {
					t.Fatalf("%+v became %+v, %v", g, g2, err)
				}
			}
		}
		var cmd trainerpb.CommandRequest
		if proto.Unmarshal(data, &cmd) == nil {
			if args, err := decodeCommand(&cmd); err == nil && (args == nil || args[argBy] != cmd.By) {
				t.Fatalf("arguments %v by %q", args, cmd.By)
			}
		}
	})
}
