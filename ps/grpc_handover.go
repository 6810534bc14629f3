package ps

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// This file is the gRPC edge of handing shards over, both ends of it.

const (
	maxShards = 1 << 16
	maxAux    = 64
	maxLedger = 1 << 26 // bytes
)

// Adopt implements pspb.PSServer.
func (s *service) Adopt(ctx context.Context, m *pspb.AdoptRequest) (*pspb.AdoptReply, error) {
	req := &wire.AdoptRequest{
		Job: m.GetJob(), Generation: m.GetGeneration(), Routes: m.GetRoutes(), Shard: int(m.GetShard()),
		Rest: m.GetRest(), Round: m.GetRound(), Cut: m.GetCut(),
	}
	if err := checkShard(req.Job, req.Shard, req.Round, req.Cut); err != nil {
		return nil, err
	}
	if err := s.ps.Adopt(ctx, req); err != nil {
		return nil, err
	}
	return &pspb.AdoptReply{}, nil
}

func checkShard(job string, shard int, round int64, cut tidemill.Cut) error {
	if err := checkWho(job, 0); err != nil {
		return err
	}
	if shard < 0 || shard >= maxShards || round < 0 || len(cut) > maxPartitions {
		return tidemill.Invalid("shard %d after round %d at a cut of %d partitions", "shards are 0 to 65535, rounds begin at 0, and a topic has at most 65536 partitions",
			shard, round, len(cut))
	}
	return nil
}

// Copy implements pspb.PSServer.
func (s *service) Copy(m *pspb.CopyRequest, stream grpc.ServerStreamingServer[pspb.Piece]) error {
	req := &wire.CopyRequest{
		Job: m.GetJob(), Generation: m.GetGeneration(), Routes: m.GetRoutes(), Shard: int(m.GetShard()), Copy: m.GetCopy(),
		Rest: m.GetRest(), Round: m.GetRound(), Cut: m.GetCut(),
	}
	if err := checkShard(req.Job, req.Shard, req.Round, req.Cut); err != nil {
		return err
	}
	return s.ps.Copy(stream.Context(), req, func(p *wire.Piece) error {
		out, err := pieceMessage(p)
		if err != nil {
			return err
		}
		return stream.Send(out)
	})
}

// pieceMessage returns a message that reads the memory of p, which its sender gives away.
func pieceMessage(p *wire.Piece) (*pspb.Piece, error) {
	m := &pspb.Piece{
		Copy: p.Copy, Table: int32(p.Table), Ids: rawOf(p.IDs), Rows: rawOf(p.Rows), Aux: p.Aux, Overflow: p.Overflow, Left: p.Left,
		Removed: rawOf(p.Removed),
	}
	if p.Since != nil {
		var err error
		if m.Since, err = sinceMessage(p.Since); err != nil {
			return nil, err
		}
	}
	for _, b := range p.Blocks {
		m.Blocks = append(m.Blocks, &pspb.BlockState{
			Tensor: int32(b.Tensor), Index: int32(b.Block), At: b.At, Weight: rawOf(b.Weight), State: rawOf(b.State), Average: rawOf(b.Average),
		})
	}
	if p.Ledger != nil {
		var err error
		if m.Ledger, err = json.Marshal(p.Ledger); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Adopt implements wire.PS.
func (c *client) Adopt(ctx context.Context, req *wire.AdoptRequest) error {
	if _, err := c.ps.Adopt(ctx, &pspb.AdoptRequest{
		Job: req.Job, Generation: req.Generation, Routes: req.Routes, Shard: int32(req.Shard), Rest: req.Rest, Round: req.Round, Cut: req.Cut,
	}); err != nil {
		return failed("adopt", err)
	}
	return nil
}

// Copy implements wire.PS.
func (c *client) Copy(ctx context.Context, req *wire.CopyRequest, piece func(*wire.Piece) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream, however far it has come
	stream, err := c.ps.Copy(ctx, &pspb.CopyRequest{
		Job: req.Job, Generation: req.Generation, Routes: req.Routes, Shard: int32(req.Shard), Copy: req.Copy,
		Rest: req.Rest, Round: req.Round, Cut: req.Cut,
	})
	if err != nil {
		return failed("copy", err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failed("copy", err)
		}
		p, err := pieceOf(m)
		if err != nil {
			return err
		}
		if err := piece(p); err != nil {
			return err
		}
	}
}

// pieceOf takes the bytes of m.
func pieceOf(m *pspb.Piece) (*wire.Piece, error) {
	if !whole[uint64](m.GetIds()) || !whole[float32](m.GetRows()) || !whole[uint64](m.GetRemoved()) || len(m.GetIds())/8 > maxIDs || len(m.GetRemoved())/8 > maxIDs || m.GetTable() < 0 || m.GetTable() >= maxTables {
		return nil, broken("copy", "has %d bytes of ids and %d of rows for table %d", len(m.GetIds()), len(m.GetRows()), m.GetTable())
	}
	if len(m.GetBlocks()) > maxBlocks || len(m.GetAux()) > maxAux || len(m.GetOverflow()) > maxTables || len(m.GetLedger()) > maxLedger || m.GetLeft() < 0 {
		return nil, broken("copy", "has %d blocks, %d extras and a ledger of %d bytes", len(m.GetBlocks()), len(m.GetAux()), len(m.GetLedger()))
	}
	p := &wire.Piece{
		Copy: m.GetCopy(), Table: int(m.GetTable()), IDs: valuesOf[uint64](m.GetIds()), Rows: valuesOf[float32](m.GetRows()),
		Aux: m.GetAux(), Overflow: m.GetOverflow(), Left: m.GetLeft(),
		Removed: valuesOf[uint64](m.GetRemoved()),
	}
	if s := m.GetSince(); s != nil {
		var err error
		if p.Since, err = sinceOf(s); err != nil {
			return nil, err
		}
	}
	for _, b := range m.GetBlocks() {
		if b.GetTensor() < 0 || b.GetIndex() < 0 || !whole[float32](b.GetWeight()) || !whole[float32](b.GetState()) || !whole[float32](b.GetAverage()) {
			return nil, broken("copy", "has block %d of tensor %d with %d bytes of weights", b.GetIndex(), b.GetTensor(), len(b.GetWeight()))
		}
		p.Blocks = append(p.Blocks, snapshot.Block{
			Tensor: int(b.GetTensor()), Block: int(b.GetIndex()), At: b.GetAt(),
			Weight: valuesOf[float32](b.GetWeight()), State: valuesOf[float32](b.GetState()), Average: valuesOf[float32](b.GetAverage()),
		})
	}
	if len(m.GetLedger()) == 0 {
		return p, nil
	}
	p.Ledger = &wire.Ledger{}
	if err := json.Unmarshal(m.GetLedger(), p.Ledger); err != nil {
		return nil, broken("copy", "has a ledger that is not the JSON it should be (%v)", err)
	}
	if len(p.Ledger.Marks) > maxPartitions || len(p.Ledger.Epochs) > maxPartitions {
		return nil, broken("copy", "has a ledger of %d partitions", len(p.Ledger.Marks))
	}
	return p, nil
}

// maxFacts bounds what a piece says of snapshots beside ids, in bytes: some hundred blobs.
const maxFacts = 1 << 20

// sinceMessage returns a message that reads the memory of s.
func sinceMessage(s *wire.Since) (*pspb.Since, error) {
	facts, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	m := &pspb.Since{Rows: rawOf(s.Rows), Gone: rawOf(s.Gone), Facts: facts}
	if s.Tried != nil {
		m.TriedRows, m.TriedGone = rawOf(s.Tried.Rows), rawOf(s.Tried.Gone)
	}
	return m, nil
}

// sinceOf takes the bytes of m.
func sinceOf(m *pspb.Since) (*wire.Since, error) {
	ids := [...][]byte{m.GetRows(), m.GetGone(), m.GetTriedRows(), m.GetTriedGone()}
	for _, b := range ids {
		if !whole[uint64](b) || len(b)/8 > mostCompared {
			return nil, broken("copy", "has %d bytes of ids that changed", len(b))
		}
	}
	if len(m.GetFacts()) > maxFacts {
		return nil, broken("copy", "has %d bytes about snapshots", len(m.GetFacts()))
	}
	s := &wire.Since{}
	if err := json.Unmarshal(m.GetFacts(), s); err != nil {
		return nil, broken("copy", "has facts about snapshots that are not the JSON they should be (%v)", err)
	}
	s.Rows, s.Gone = valuesOf[uint64](ids[0]), valuesOf[uint64](ids[1])
	if s.Tried != nil {
		s.Tried.Rows, s.Tried.Gone = valuesOf[uint64](ids[2]), valuesOf[uint64](ids[3])
	}
	return s, nil
}
