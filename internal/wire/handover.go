package wire

import (
	"context"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// AdoptRequest tells a ps that it will own a shard.
type AdoptRequest struct {
	Job        string
	Generation uint64
	Routes     uint64
	Shard      int
	// Rest: every ps stands after Round and at Cut, and nobody pushes; fetch what is missing.
	// Otherwise: copy the shard while training goes on.
	Rest  bool
	Round int64
	Cut   tidemill.Cut
}

// CopyRequest asks the owner of a shard for it.
type CopyRequest struct {
	Job        string
	Generation uint64
	Routes     uint64
	Shard      int
	// Copy 0 asks for all of the shard; the number of an answer asks for what has changed since.
	// Only the newest answer can be gone on from.
	Copy uint64
	// Rest asks for what is left to know, after Round and at Cut.
	Rest  bool
	Round int64
	Cut   tidemill.Cut
}

// Piece is a part of a shard's state. Whoever receives it must not keep its slices.
type Piece struct {
	Copy  uint64    // number of the answer
	Table int       // position in the layout
	IDs   []uint64  // rows of the table; later pieces replace earlier ones
	Rows  []float32 // interleaved as in a snapshot, [len(IDs) × width]
	// Removed are ids of the table whose rows went; later pieces may bring them back.
	Removed []uint64
	// Blocks, Aux (what the home shard learns beside parameters, and admissions) and Overflow (by table) come
	// with the rest.
	Blocks   []snapshot.Block
	Aux      map[string][]byte
	Overflow []int64
	// Since, with the rest, says of the table what a snapshot need not write again; nil: it has to
	// be written whole.
	Since *Since
	// Left, in the last piece of an answer, is how many rows have changed since.
	Left int64
	// Ledger, in the last piece of the rest, is what the owner has applied.
	Ledger *Ledger
}

// Ledger is what a ps has applied, as another one takes it over with its first shard.
type Ledger struct {
	Round    int64    `json:"round"`
	Examples int64    `json:"examples"`
	Marks    []Mark   `json:"marks"`  // by partition
	Epochs   []uint64 `json:"epochs"` // by partition: the newest that has fenced its predecessor
	// Committed and Tried are the snapshots that every Since of the ps is about: the one that its
	// last capture was written on top of, and that capture's own; 0: none.
	Committed int64 `json:"committed,omitempty"`
	Tried     int64 `json:"tried,omitempty"`
}

// Since is what the owner of a table's rows knows of them in comparison with the last snapshots.
// Base and Tried.Wrote are nil where nothing is known.
type Since struct {
	Rows  []uint64        `json:"-"`     // ids, ascending by row: changed since the last capture
	Gone  []uint64        `json:"-"`     // ids whose rows went since then
	Was   snapshot.Digest `json:"was"`   // what those of them that Tried does not hold were in the base
	Again snapshot.Digest `json:"again"` // what those that Tried holds were in it
	Base  *Stored         `json:"base,omitempty"`
	Tried *Tried          `json:"tried,omitempty"` // the last capture, until it is known to be committed
}

// Tried is a capture that is not known to be committed.
type Tried struct {
	Rows  []uint64        `json:"-"` // ids that differ from the base
	Gone  []uint64        `json:"-"`
	Was   snapshot.Digest `json:"was"`
	Sum   snapshot.Digest `json:"sum"` // of all rows
	Wrote *Stored         `json:"wrote,omitempty"`
}

// Stored is what a snapshot holds of a table's rows of one shard.
type Stored struct {
	Blobs  []snapshot.Blob `json:"blobs"`
	Digest snapshot.Digest `json:"digest"` // of the rows
}

// Mark is a ledger's entry for one partition: everything below Next is applied, everything below
// Floor on every ps, and Applied are the ranges between, as they were pushed.
type Mark struct {
	Floor   int64            `json:"floor"`
	Next    int64            `json:"next"`
	Applied []tidemill.Range `json:"applied,omitempty"`
}

// Handover is how a shard passes from one ps to another while its job is trained. The trainer
// calls Adopt of the new owner, twice; the new owner calls Copy of the old one.
//
// Errors beyond those of PS: ErrConflict when there is no copy to go on from; begin again.
type Handover interface {
	// Adopt returns once the shard is copied, or at a quiet point whole.
	Adopt(ctx context.Context, req *AdoptRequest) error
	// Copy calls piece for each part of the answer, in order; its error ends the copy.
	Copy(ctx context.Context, req *CopyRequest, piece func(*Piece) error) error
}
