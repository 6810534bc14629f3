package ps

import (
	"context"
	"reflect"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// edge is a service over a live job, and a context that has ended: nothing that the fuzzer
// asks for is waited for.
func edge(t testing.TB) (*service, *work, *cluster, context.Context) {
	w := randomWork(t, 0, 0)
	c := start(t, w.assignment(1), store(t), false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return &service{ps: c.servers[0]}, w, c, ctx
}

func marshal(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	must(t, err)
	return b
}

// stable checks that what was decoded is sent and decoded again as the same.
func stable[M proto.Message, R any](t *testing.T, again M, encoded M, decode func(M) (R, error), want R) {
	t.Helper()
	if err := proto.Unmarshal(marshal(t, encoded), again); err != nil {
		t.Fatal(err)
	}
	got, err := decode(again)
	if err != nil {
		t.Fatalf("sent again, it is refused: %v", err)
	}
	if a, b := marshalled(t, got), marshalled(t, want); a != b {
		t.Fatalf("sent again, it is\n%s\nand was\n%s", a, b)
	}
}

// marshalled is a request as its message's bytes: unlike the request itself it compares NaNs.
func marshalled(t *testing.T, req any) string {
	switch req := req.(type) {
	case *wire.PullRequest:
		return string(marshal(t, pullMessage(req)))
	case *wire.PushRequest:
		m, err := pushMessage(req)
		must(t, err)
		return string(marshal(t, m))
	default:
		t.Fatalf("no message for %v", reflect.TypeOf(req))
		return ""
	}
}

func FuzzPull(f *testing.F) {
	s, w, c, ctx := edge(f)
	f.Cleanup(w.release)
	ids := make([][]uint64, len(w.model.Layout.Tables))
	ids[0] = []uint64{1, 2, 3}
	f.Add(marshal(f, pullMessage(&wire.PullRequest{Header: c.header(0, 1), IDs: ids})))
	f.Add(marshal(f, pullMessage(&wire.PullRequest{Header: c.header(0, 1), Bare: true})))
	f.Add(marshal(f, &pspb.PullRequest{Ids: [][]byte{{1, 2, 3}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m pspb.PullRequest
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		reply, err := s.Pull(ctx, &m)
		if err == nil {
			if err := pullReply(reply, &wire.PullRequest{IDs: make([][]uint64, len(m.Ids)), Bare: true}, new(wire.PullReply)); err != nil {
				t.Fatal(err)
			}
		}
		if req, err := pullRequest(&m); err == nil {
			stable(t, new(pspb.PullRequest), pullMessage(req), pullRequest, req)
		}
	})
}

func FuzzPush(f *testing.F) {
	s, w, c, ctx := edge(f)
	f.Cleanup(w.release)
	for _, req := range []*wire.PushRequest{
		w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4}),
		{
			Header: c.header(0, 1), Range: tidemill.Range{First: 0, Next: 4}, Members: []int{0}, Examples: 4,
			IDs: [][]uint64{{7, 8}}, Grads: [][]float32{{0.5, -1}}, Blocks: []wire.Block{{Values: []float32{1, 2}}},
			Tag: &wire.Tag{Transforms: []byte{1}, Outcomes: []byte{2}, EventMax: 3, Bad: []snapshot.BadRow{{Offset: 1, Reason: "x"}}},
		},
	} {
		m, err := pushMessage(req)
		must(f, err)
		f.Add(marshal(f, m))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m pspb.PushRequest
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		req, err := pushRequest(&m)
		if err != nil {
			return
		}
		encoded, err := pushMessage(req)
		must(t, err)
		stable(t, new(pspb.PushRequest), encoded, pushRequest, req)
		// What the edge lets through must not break the job, whether it is refused or applied.
		_, _ = s.Push(ctx, &m)
		if _, err := s.Status(ctx, &pspb.StatusRequest{Job: c.asg.Job}); err != nil {
			t.Fatal(err)
		}
	})
}

// stub is the server's end of a snapshot whose caller has gone.
type stub struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stub) Context() context.Context       { return s.ctx }
func (s stub) Send(*pspb.SnapshotReply) error { return nil }
func (s stub) SendMsg(any) error              { return nil }

// FuzzSmall feeds one input to every other message: fences, snapshots and status, and the
// answers that a client reads.
func FuzzSmall(f *testing.F) {
	s, w, c, ctx := edge(f)
	f.Cleanup(w.release)
	f.Add(marshal(f, &pspb.FenceRequest{Job: c.asg.Job, Generation: 1, Partition: 1, Epoch: 2}))
	f.Add(marshal(f, &pspb.SnapshotRequest{Job: c.asg.Job, Generation: 1, Number: 1, Round: 1, Cut: []int64{4, 4}}))
	f.Add(marshal(f, &pspb.PullReply{Rows: [][]byte{{0, 0, 128, 63}}, Blocks: []*pspb.Block{{Values: make([]byte, 8)}}, Home: []byte{1}}))
	f.Add(marshal(f, &pspb.SnapshotReply{Written: []byte(`{"Part":{"digest":"00000000000000000000000000000000"}}`)}))
	f.Add(marshal(f, &pspb.StatusReply{Status: []byte(`{"Round":3}`)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var fence pspb.FenceRequest
		if proto.Unmarshal(data, &fence) == nil {
			_, _ = s.Fence(ctx, &fence)
		}
		var snap pspb.SnapshotRequest
		if proto.Unmarshal(data, &snap) == nil {
			_ = s.Snapshot(&snap, stub{ctx: ctx})
		}
		var status pspb.StatusRequest
		if proto.Unmarshal(data, &status) == nil {
			_, _ = s.Status(ctx, &status)
		}
		var pull pspb.PullReply
		if proto.Unmarshal(data, &pull) == nil {
			req := &wire.PullRequest{IDs: make([][]uint64, len(pull.Rows))}
			for i := range req.IDs {
				req.IDs[i] = make([]uint64, 1)
			}
			_ = pullReply(&pull, req, new(wire.PullReply))
		}
		var written pspb.SnapshotReply
		if proto.Unmarshal(data, &written) == nil {
			_, _ = writtenReply(&written)
		}
		var st pspb.StatusReply
		if proto.Unmarshal(data, &st) == nil {
			_, _ = statusReply(&st)
		}
	})
}
