package ps

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// Limits of one request, far above what a worker sends. They bound what a request can make
// this process allocate beyond its own size.
const (
	maxPartitions = 1 << 16
	maxTables     = 1 << 10
	maxIDs        = 1 << 22 // over all tables
	maxBlocks     = 1 << 16
	maxBad        = 1 << 16
	maxOffset     = 1 << 62 // leaves room to count on from it
)

// Register offers s over gRPC. r is a server of internal/rpc, which gives errors their codes
// and decides who may call.
func (s *Server) Register(r grpc.ServiceRegistrar) { Register(r, s) }

// service converts messages to requests and answers to messages. A request takes the message's
// bytes as they are, since a push keeps them until its round is applied.
type service struct {
	pspb.UnimplementedPSServer
	ps wire.PS
}

// Pull implements pspb.PSServer.
func (s *service) Pull(ctx context.Context, m *pspb.PullRequest) (*pspb.PullReply, error) {
	req, err := pullRequest(m)
	if err != nil {
		return nil, err
	}
	// gRPC reads the message after this function has returned and does not say until when, so
	// every reply has memory of its own.
	var reply wire.PullReply
	if err := s.ps.Pull(ctx, req, &reply); err != nil {
		return nil, err
	}
	out := &pspb.PullReply{Home: reply.Home}
	if req.Bare {
		return out, nil
	}
	out.Rows = make([][]byte, len(reply.Rows))
	for t, rows := range reply.Rows {
		out.Rows[t] = rawOf(rows)
	}
	out.Blocks = blockMessages(reply.Blocks)
	return out, nil
}

// Push implements pspb.PSServer.
func (s *service) Push(ctx context.Context, m *pspb.PushRequest) (*pspb.PushReply, error) {
	req, err := pushRequest(m)
	if err != nil {
		return nil, err
	}
	if err := s.ps.Push(ctx, req); err != nil {
		return nil, err
	}
	return &pspb.PushReply{}, nil
}

// Fence implements pspb.PSServer.
func (s *service) Fence(ctx context.Context, m *pspb.FenceRequest) (*pspb.FenceReply, error) {
	req, err := fenceRequest(m)
	if err != nil {
		return nil, err
	}
	held, err := s.ps.Fence(ctx, req)
	if err != nil {
		return nil, err
	}
	return &pspb.FenceReply{
		Round: held.Round, Applied: held.Applied,
		BufferedFirst: held.Buffered.First, BufferedNext: held.Buffered.Next,
	}, nil
}

// Snapshot implements pspb.PSServer.
func (s *service) Snapshot(m *pspb.SnapshotRequest, stream grpc.ServerStreamingServer[pspb.SnapshotReply]) error {
	req, err := snapshotRequest(m)
	if err != nil {
		return err
	}
	// Where the first message cannot be sent the call's context has ended, and so does the
	// writing.
	var unsent error
	written, err := s.ps.Snapshot(stream.Context(), req, func() { unsent = stream.Send(&pspb.SnapshotReply{}) })
	if err != nil {
		return err
	}
	if unsent != nil {
		return unsent
	}
	data, err := json.Marshal(&written)
	if err != nil {
		return err
	}
	return stream.Send(&pspb.SnapshotReply{Written: data})
}

// Status implements pspb.PSServer.
func (s *service) Status(ctx context.Context, m *pspb.StatusRequest) (*pspb.StatusReply, error) {
	if err := snapshot.CheckName("job", m.GetJob()); err != nil {
		return nil, err
	}
	st, err := s.ps.Status(ctx, m.GetJob())
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(&st)
	if err != nil {
		return nil, err
	}
	return &pspb.StatusReply{Status: data}, nil
}

func header(m *pspb.Header) (wire.Header, error) {
	h := wire.Header{
		Job: m.GetJob(), Generation: m.GetGeneration(), Partition: int(m.GetPartition()), Epoch: m.GetEpoch(), Round: m.GetRound(),
		Routes: m.GetRoutes(),
	}
	if err := checkWho(h.Job, h.Partition); err != nil {
		return h, err
	}
	if h.Round < 0 {
		return h, tidemill.Invalid("round %d", "rounds are counted from 1", h.Round)
	}
	return h, nil
}

func checkWho(job string, partition int) error {
	if err := snapshot.CheckName("job", job); err != nil {
		return err
	}
	if partition < 0 || partition >= maxPartitions {
		return tidemill.Invalid("partition %d", "partitions are 0 to 65535", partition)
	}
	return nil
}

// idTables takes the bytes of m.
func idTables(m [][]byte) ([][]uint64, error) {
	if len(m) > maxTables {
		return nil, tidemill.Invalid("ids for %d tables", "send at most 1024", len(m))
	}
	ids, total := make([][]uint64, len(m)), 0
	for t, b := range m {
		if !whole[uint64](b) {
			return nil, tidemill.Invalid("table %d: ids of %d bytes", "send 8 bytes for each id, little-endian", t, len(b))
		}
		if total += len(b) / 8; total > maxIDs {
			return nil, tidemill.Invalid("more than 4194304 ids in one request", "use smaller batches")
		}
		ids[t] = valuesOf[uint64](b)
	}
	return ids, nil
}

func pullRequest(m *pspb.PullRequest) (*wire.PullRequest, error) {
	h, err := header(m.GetHeader())
	if err != nil {
		return nil, err
	}
	ids, err := idTables(m.GetIds())
	if err != nil {
		return nil, err
	}
	return &wire.PullRequest{Header: h, IDs: ids, Bare: m.GetBare()}, nil
}

func pushRequest(m *pspb.PushRequest) (*wire.PushRequest, error) {
	h, err := header(m.GetHeader())
	if err != nil {
		return nil, err
	}
	req := &wire.PushRequest{
		Header: h, Range: tidemill.Range{First: m.GetFirst(), Next: m.GetNext()}, Floor: m.GetFloor(), Examples: m.GetExamples(),
	}
	if req.Range.First < 0 || req.Range.Empty() || req.Range.Next > maxOffset || req.Floor < 0 {
		return nil, tidemill.Invalid("range %v with floor %d", "offsets are 0 to 4611686018427387904, and a range holds some", req.Range, req.Floor)
	}
	if req.Examples < 0 || req.Examples > req.Range.Next-req.Range.First {
		return nil, tidemill.Invalid("%d examples of range %v", "an offset is one example at most", req.Examples, req.Range)
	}
	if req.Members, err = members(m.GetMembers()); err != nil {
		return nil, err
	}
	if req.IDs, err = idTables(m.GetIds()); err != nil {
		return nil, err
	}
	if len(m.GetGrads()) > maxTables {
		return nil, tidemill.Invalid("gradients for %d tables", "send at most 1024", len(m.GetGrads()))
	}
	req.Grads = make([][]float32, len(m.GetGrads()))
	for t, b := range m.GetGrads() {
		if !whole[float32](b) {
			return nil, tidemill.Invalid("table %d: gradients of %d bytes", "send 4 bytes for each value, little-endian", t, len(b))
		}
		req.Grads[t] = valuesOf[float32](b)
	}
	if len(m.GetBlocks()) > maxBlocks {
		return nil, tidemill.Invalid("%d blocks in one request", "send at most 65536", len(m.GetBlocks()))
	}
	req.Blocks = make([]wire.Block, len(m.GetBlocks()))
	for i, b := range m.GetBlocks() {
		if err := checkBlock(b); err != nil {
			return nil, err
		}
		req.Blocks[i] = wire.Block{Tensor: int(b.GetTensor()), Index: int(b.GetIndex()), Values: valuesOf[float32](b.GetValues())}
	}
	req.Tag, err = tag(m.GetTag())
	return req, err
}

// members returns the partitions of a round, which must ascend: a round that names one twice
// would never be complete.
func members(m []int32) ([]int, error) {
	if len(m) > maxPartitions {
		return nil, tidemill.Invalid("a round of %d partitions", "a topic has at most 65536", len(m))
	}
	out := make([]int, len(m))
	for i, p := range m {
		if p < 0 || p >= maxPartitions || i > 0 && p <= m[i-1] {
			return nil, tidemill.Invalid("partition %d at place %d of a round", "list each partition of the round once, ascending", p, i)
		}
		out[i] = int(p)
	}
	return out, nil
}

func checkBlock(b *pspb.Block) error {
	if n := len(b.GetValues()); b.GetTensor() < 0 || b.GetIndex() < 0 || !whole[float32](b.GetValues()) || n > 4*tidemill.BlockSize {
		return tidemill.Invalid("block %d of tensor %d with %d bytes", "send at most 16384 values of 4 bytes, little-endian", b.GetIndex(), b.GetTensor(), n)
	}
	return nil
}

func tag(m *pspb.Tag) (*wire.Tag, error) {
	if m == nil {
		return nil, nil
	}
	t := &wire.Tag{Transforms: m.GetTransforms(), Outcomes: m.GetOutcomes(), EventMax: m.GetEventMaxMs()}
	if len(m.GetBad()) == 0 {
		return t, nil
	}
	if err := json.Unmarshal(m.GetBad(), &t.Bad); err != nil {
		return nil, tidemill.Invalid("the list of rows put aside is not the JSON it should be", "send [{partition, offset, reason}, …]")
	}
	if len(t.Bad) > maxBad {
		return nil, tidemill.Invalid("%d rows put aside in one batch", "send at most 65536", len(t.Bad))
	}
	return t, nil
}

func fenceRequest(m *pspb.FenceRequest) (*wire.FenceRequest, error) {
	req := &wire.FenceRequest{Job: m.GetJob(), Generation: m.GetGeneration(), Partition: int(m.GetPartition()), Epoch: m.GetEpoch(), Routes: m.GetRoutes()}
	return req, checkWho(req.Job, req.Partition)
}

func snapshotRequest(m *pspb.SnapshotRequest) (*wire.SnapshotRequest, error) {
	if err := checkWho(m.GetJob(), 0); err != nil {
		return nil, err
	}
	if m.GetNumber() < 1 || m.GetRound() < 0 || m.GetBase() < 0 || len(m.GetCut()) > maxPartitions || len(m.GetSettled()) > maxPartitions {
		return nil, tidemill.Invalid("snapshot %d after round %d at a cut of %d partitions", "numbers begin at 1, rounds at 0, and a topic has at most 65536 partitions",
			m.GetNumber(), m.GetRound(), len(m.GetCut()))
	}
	return &wire.SnapshotRequest{
		Job: m.GetJob(), Generation: m.GetGeneration(), Number: m.GetNumber(), Round: m.GetRound(), Cut: m.GetCut(), Base: m.GetBase(),
		Settled: m.GetSettled(),
		Routes:  m.GetRoutes(),
	}, nil
}

// blockMessages returns messages that read the blocks' memory.
func blockMessages(blocks []wire.Block) []*pspb.Block {
	if len(blocks) == 0 {
		return nil
	}
	out := make([]*pspb.Block, len(blocks))
	for i, b := range blocks {
		out[i] = &pspb.Block{Tensor: int32(b.Tensor), Index: int32(b.Index), Values: rawOf(b.Values)}
	}
	return out
}
