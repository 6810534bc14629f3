package ps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// NewClient returns the parameter server at the other end of conn, which stays the caller's.
// It is safe for concurrent use. Its errors are of the kinds that the server's own are; in
// addition tidemill.ErrUnavailable means that the server cannot be reached, or the call's
// context ended, and that the request may have been carried out.
//
// A PushRequest is read only until Push returns, also when that is before its time.
func NewClient(conn grpc.ClientConnInterface) wire.PS { return &client{pspb.NewPSClient(conn)} }

type client struct{ ps pspb.PSClient }

func headerMessage(h *wire.Header) *pspb.Header {
	return &pspb.Header{Job: h.Job, Generation: h.Generation, Partition: int32(h.Partition), Epoch: h.Epoch, Round: h.Round, Routes: h.Routes}
}

// failed gives an error of a call its kind.
func failed(op string, err error) error {
	err = rpc.FromStatus(err)
	if errors.Is(err, context.Canceled) && !errors.Is(err, tidemill.ErrUnavailable) {
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

func broken(op, format string, args ...any) error {
	return fmt.Errorf("ps: "+op+": the answer "+format+": %w", append(args, tidemill.ErrCorrupt)...)
}

// Pull implements wire.PS.
func (c *client) Pull(ctx context.Context, req *wire.PullRequest, into *wire.PullReply) error {
	reply, err := c.ps.Pull(ctx, pullMessage(req))
	if err != nil {
		return failed("pull", err)
	}
	return pullReply(reply, req, into)
}

// pullMessage returns a message that reads the memory of req.
func pullMessage(req *wire.PullRequest) *pspb.PullRequest {
	m := &pspb.PullRequest{Header: headerMessage(&req.Header), Ids: make([][]byte, len(req.IDs)), Bare: req.Bare}
	for t, ids := range req.IDs {
		m.Ids[t] = rawOf(ids)
	}
	return m
}

// pullReply fills in into, in its own memory where that suffices.
func pullReply(m *pspb.PullReply, req *wire.PullRequest, into *wire.PullReply) error {
	into.Home = m.Home
	if req.Bare {
		return nil
	}
	if len(m.GetRows()) != len(req.IDs) {
		return broken("pull", "has rows of %d tables, %d were asked for", len(m.GetRows()), len(req.IDs))
	}
	if len(m.GetBlocks()) > maxBlocks {
		return broken("pull", "has %d blocks", len(m.GetBlocks()))
	}
	for len(into.Rows) < len(req.IDs) {
		into.Rows = append(into.Rows, nil)
	}
	into.Rows = into.Rows[:len(req.IDs)]
	for t, b := range m.GetRows() {
		n := len(req.IDs[t])
		if !whole[float32](b) || n == 0 && len(b) > 0 || n > 0 && (len(b) == 0 || len(b)/4%n != 0) {
			return broken("pull", "has %d bytes for %d rows of table %d", len(b), n, t)
		}
		into.Rows[t] = copyValues(into.Rows[t], b)
	}
	for len(into.Blocks) < len(m.GetBlocks()) {
		into.Blocks = append(into.Blocks, wire.Block{})
	}
	into.Blocks = into.Blocks[:len(m.GetBlocks())]
	for i, b := range m.GetBlocks() {
		if checkBlock(b) != nil {
			return broken("pull", "has block %d of tensor %d with %d bytes", b.GetIndex(), b.GetTensor(), len(b.GetValues()))
		}
		d := &into.Blocks[i]
		d.Tensor, d.Index = int(b.GetTensor()), int(b.GetIndex())
		d.Values = copyValues(d.Values, b.GetValues())
	}
	return nil
}

// Push implements wire.PS.
func (c *client) Push(ctx context.Context, req *wire.PushRequest) error {
	m, err := pushMessage(req)
	if err != nil {
		return err
	}
	// The message is encoded before the call waits for anything, so nothing reads req after
	// Push has returned.
	if _, err := c.ps.Push(ctx, m); err != nil {
		return failed("push", err)
	}
	return nil
}

// pushMessage returns a message that reads the memory of req.
func pushMessage(req *wire.PushRequest) (*pspb.PushRequest, error) {
	m := &pspb.PushRequest{
		Header: headerMessage(&req.Header), First: req.Range.First, Next: req.Range.Next, Floor: req.Floor, Examples: req.Examples,
		Members: make([]int32, len(req.Members)), Ids: make([][]byte, len(req.IDs)), Grads: make([][]byte, len(req.Grads)),
		Blocks: blockMessages(req.Blocks),
	}
	for i, p := range req.Members {
		m.Members[i] = int32(p)
	}
	for t, ids := range req.IDs {
		m.Ids[t] = rawOf(ids)
	}
	for t, grads := range req.Grads {
		m.Grads[t] = rawOf(grads)
	}
	if req.Tag == nil {
		return m, nil
	}
	m.Tag = &pspb.Tag{Transforms: req.Tag.Transforms, Outcomes: req.Tag.Outcomes, EventMaxMs: req.Tag.EventMax}
	if len(req.Tag.Bad) > 0 {
		var err error
		if m.Tag.Bad, err = json.Marshal(req.Tag.Bad); err != nil {
			return nil, fmt.Errorf("ps: push: rows put aside: %w: %w", tidemill.ErrInvalid, err)
		}
	}
	return m, nil
}

// Fence implements wire.PS.
func (c *client) Fence(ctx context.Context, req *wire.FenceRequest) (wire.Held, error) {
	m, err := c.ps.Fence(ctx, &pspb.FenceRequest{Job: req.Job, Generation: req.Generation, Partition: int32(req.Partition), Epoch: req.Epoch, Routes: req.Routes})
	if err != nil {
		return wire.Held{}, failed("fence", err)
	}
	return wire.Held{
		Round: m.GetRound(), Applied: m.GetApplied(),
		Buffered: tidemill.Range{First: m.GetBufferedFirst(), Next: m.GetBufferedNext()},
	}, nil
}

// Snapshot implements wire.PS.
func (c *client) Snapshot(ctx context.Context, req *wire.SnapshotRequest, marked func()) (wire.Written, error) {
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, however far it has come
	stream, err := c.ps.Snapshot(callCtx, &pspb.SnapshotRequest{
		Job: req.Job, Generation: req.Generation, Number: req.Number, Round: req.Round, Cut: req.Cut, Base: req.Base, Routes: req.Routes,
		Settled: req.Settled,
	})
	if err != nil {
		return wire.Written{}, failed("snapshot", err)
	}
	next := func() (*pspb.SnapshotReply, error) {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, broken("snapshot", "ends early")
		}
		if err != nil {
			return nil, failed("snapshot", err)
		}
		return m, nil
	}
	m, err := next()
	if err != nil {
		return wire.Written{}, err
	}
	if len(m.GetWritten()) > 0 {
		return wire.Written{}, broken("snapshot", "says what was written before it says that the state is captured")
	}
	marked()
	if m, err = next(); err != nil {
		return wire.Written{}, err
	}
	return writtenReply(m)
}

func writtenReply(m *pspb.SnapshotReply) (wire.Written, error) {
	var w wire.Written
	if err := json.Unmarshal(m.GetWritten(), &w); err != nil {
		return wire.Written{}, broken("snapshot", "is not the JSON it should be (%v)", err)
	}
	return w, nil
}

// Status implements wire.PS.
func (c *client) Status(ctx context.Context, job string) (wire.Status, error) {
	if err := snapshot.CheckName("job", job); err != nil {
		return wire.Status{}, err
	}
	m, err := c.ps.Status(ctx, &pspb.StatusRequest{Job: job})
	if err != nil {
		return wire.Status{}, failed("status", err)
	}
	return statusReply(m)
}

func statusReply(m *pspb.StatusReply) (wire.Status, error) {
	var st wire.Status
	if err := json.Unmarshal(m.GetStatus(), &st); err != nil {
		return wire.Status{}, broken("status", "is not the JSON it should be (%v)", err)
	}
	return st, nil
}
