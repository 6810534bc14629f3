// Package wire holds what the roles say to each other: the requests and answers of parameter
// servers and of the trainer, as plain types. It lets a role name what it calls without
// importing another role; protobuf stays in the clients and servers at the edge.
package wire

import (
	"context"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// Header says on whose behalf and for when a request speaks.
type Header struct {
	Job        string
	Generation uint64
	Partition  int
	Epoch      uint64 // of the partition
	Round      int64  // staleness 0: the round it is for
	Routes     uint64 // the map of shards that it was made under (Assignment.Routes)
}

// PullRequest asks for rows, and the dense tensors and transform state that this ps owns.
type PullRequest struct {
	Header
	IDs  [][]uint64 // by table; only ids whose shards this ps owns
	Bare bool       // only the transform state
}

// PullReply receives parameters. The caller owns it and may use it again; its slices are
// reused.
type PullReply struct {
	Rows   [][]float32 // by table, [len(ids) × dim], in the order of the ids
	Blocks []Block     // dense blocks owned by this ps; Values alias nothing
	// Home is the transform state that workers need, from the ps that owns the home shard of a
	// job that learns transforms; nil from others.
	Home []byte
}

// Block is values or gradients of one block of a dense tensor.
type Block struct {
	Tensor, Index int
	Values        []float32
}

// PushRequest brings a batch's gradient. The ps keeps its slices until the round is applied;
// the caller may use them again once a pull for the next round has been served, or at other
// staleness once Push returns.
type PushRequest struct {
	Header
	Range    tidemill.Range
	Floor    int64 // every shard has applied everything of the partition below it
	Members  []int // partitions of the round, ascending
	Examples int64
	IDs      [][]uint64  // by table, as pulled
	Grads    [][]float32 // by table, [len(ids) × dim]
	Blocks   []Block
	// Tag is what else the batch changes, sent to the owner of the home shard alone.
	Tag *Tag
}

// Tag is what a batch changes beside parameters (PROTOCOL 12). It lives in the home shard.
type Tag struct {
	Transforms []byte // delta of learned transforms; empty if none
	Outcomes   []byte // progress.AppendOutcomes
	EventMax   int64  // newest event time in Unix milliseconds; 0 if unknown
	Bad        []snapshot.BadRow
}

// FenceRequest makes Epoch the partition's only pusher.
type FenceRequest struct {
	Job        string
	Generation uint64
	Partition  int
	Epoch      uint64
	Routes     uint64
}

// Held is what a ps has of one partition, as its new owner must know it.
type Held struct {
	Round   int64 // last round applied
	Applied int64 // offsets below are applied
	// Buffered is the entry held for round Round+1, empty if there is none.
	Buffered tidemill.Range
}

// SnapshotRequest asks for the state at Cut, which is reached after Round.
type SnapshotRequest struct {
	Job        string
	Generation uint64
	Number     int64
	Round      int64
	Cut        tidemill.Cut
	// Base is the last snapshot that was committed, 0 for none: what it holds and did not
	// change since need not be written again.
	Base int64
	// Settled: rows put aside below it are in the dead-letter topic, and no snapshot needs to
	// list them any more. It may be shorter than Cut.
	Settled tidemill.Cut
	Routes  uint64
}

// Written is what a ps has put into the store for a snapshot.
type Written struct {
	Part     snapshot.Part
	Examples int64 // that the state includes
	// Home is set by the owner of the home shard.
	Home *Home
}

// Home is the snapshot's share of the home shard that the trainer reads.
type Home struct {
	Progress   []byte // progress.State
	Transforms []byte // feature state, public form
	EventMax   []int64
	Bad        []snapshot.BadRow // put aside and not settled, by partition and offset
	BadCounts  map[string]int64  // rows put aside so far, by cause
}

// Status is a job as one ps sees it.
type Status struct {
	Generation uint64
	Ready      bool
	Round      int64
	Examples   int64
	Cut        tidemill.Cut
	Shards     int
	Rows       int64
	Overflow   int64
	Declined   int64            // pushed rows of ids that had no row and were not admitted
	Progress   []byte           // from the owner of the home shard
	BadCounts  map[string]int64 // rows put aside so far, by cause; from the owner of the home shard
	Pulled     int64            // rows read for workers since this ps heard of the job, over all shards it has had
	Pushed     int64            // likewise rows whose gradients were applied
	Load       []ShardLoad      // of the shards here, ascending; of a ps of an earlier release nil
}

// ShardLoad is what one shard holds, and what it was asked for since its owner restored it or
// took it over. Dense blocks are not counted: every request is for all of them.
type ShardLoad struct {
	Shard  int
	Rows   int64 // held in sparse tables
	Pulled int64 // rows read for workers
	Pushed int64 // rows whose gradients were applied
}

// PS is what a parameter server offers to workers (Pull, Push, Fence) and to the trainer (Snapshot,
// Status). ps.Server is the in-process twin, ps.Client speaks gRPC.
//
// Errors: ErrFenced when generation or epoch is over; ErrNotReady when this ps has not caught
// up with the caller (retry); ErrInvalid when the request contradicts what is applied.
type PS interface {
	Pull(ctx context.Context, req *PullRequest, into *PullReply) error
	Push(ctx context.Context, req *PushRequest) error
	Fence(ctx context.Context, req *FenceRequest) (Held, error)
	// Snapshot waits for the cut, calls marked once the state is captured and training may
	// go on, then writes it and returns what it wrote.
	Snapshot(ctx context.Context, req *SnapshotRequest, marked func()) (Written, error)
	Status(ctx context.Context, job string) (Status, error)
	Handover
}
