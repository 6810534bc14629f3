package snapshot

import (
	"fmt"
	"iter"
	"math"
	"unicode/utf8"

	"github.com/tidemill/tidemill"
)

// TableLayout says what a row of a sparse table is made of. A row is Width floats:
//
//	weight [Dim] | optimizer state [State] | average [Dim] | at [2] | uses [1]
//
// average and at exist only when Average is set, uses only when Uses is. at is the number of the job's examples
// at which the average was last caught up, a uint64 kept as the bits of two floats (PutAt, At).
type TableLayout struct {
	tidemill.TableSpec
	State   int  `json:"state"`
	Average bool `json:"average"`
	// Uses is set in tables whose rows expire: a row then has a word of the parameter server's, as
	// the bits of a float (PutUses, UsesOf).
	Uses bool `json:"uses,omitempty"`
}

// Width returns the number of floats of a row.
func (t TableLayout) Width() int {
	w := t.Dim + t.State
	if t.Average {
		w += t.Dim + 2
	}
	if t.Uses {
		w++
	}
	return w
}

// Weight, StateOf and AverageOf return a row's groups; AverageOf is nil without averaging.
func (t TableLayout) Weight(row []float32) []float32 { return row[:t.Dim:t.Dim] }

// StateOf returns the optimizer state of a row.
func (t TableLayout) StateOf(row []float32) []float32 {
	return row[t.Dim : t.Dim+t.State : t.Dim+t.State]
}

// AverageOf returns the averaged weight of a row, or nil when averaging is off.
func (t TableLayout) AverageOf(row []float32) []float32 {
	if !t.Average {
		return nil
	}
	from := t.Dim + t.State
	return row[from : from+t.Dim : from+t.Dim]
}

// At returns the count at which a row's average was caught up; 0 when averaging is off.
func (t TableLayout) At(row []float32) uint64 {
	if !t.Average {
		return 0
	}
	at := row[2*t.Dim+t.State:]
	return uint64(math.Float32bits(at[0])) | uint64(math.Float32bits(at[1]))<<32
}

// PutAt sets the count at which a row's average was caught up. Averaging must be on.
//
// Either half can be the bits of a NaN; copy rows with copy, never by arithmetic.
func (t TableLayout) PutAt(row []float32, at uint64) {
	dst := row[2*t.Dim+t.State:]
	dst[0], dst[1] = math.Float32frombits(uint32(at)), math.Float32frombits(uint32(at>>32))
}

// UsesOf returns the word that a row of a table with Uses ends with.
func (t TableLayout) UsesOf(row []float32) uint32 { return math.Float32bits(row[t.Width()-1]) }

// PutUses sets it.
func (t TableLayout) PutUses(row []float32, uses uint32) {
	row[t.Width()-1] = math.Float32frombits(uses)
}

// TensorLayout says how a dense tensor is kept: in blocks of tidemill.BlockSize values, each
// with whatever optimizer state its optimizer wants, and with averages when Average is set.
type TensorLayout struct {
	tidemill.TensorSpec
	Average bool `json:"average"`
}

// BlockLen returns the number of values of block b, which must be in [0, Blocks()).
func (t TensorLayout) BlockLen(b int) int {
	return min(tidemill.BlockSize, t.Len()-b*tidemill.BlockSize)
}

// Layout is what a job's parameters look like. Tables and tensors are referred to by their
// position in it.
type Layout struct {
	Tables  []TableLayout  `json:"tables"`
	Tensors []TensorLayout `json:"tensors"`
}

// format returns the number of the format of manifests with this layout: a program that does not
// know of uses would take rows for others.
func (l Layout) format() int {
	for _, t := range l.Tables {
		if t.Uses {
			return Format
		}
	}
	return 2
}

// maxValues bounds dimensions read from a manifest, so that sums of them cannot overflow.
const maxValues = 1 << 40

// Validate reports the first thing that makes a layout impossible; it wraps
// tidemill.ErrInvalid.
func (l Layout) Validate() error {
	tables := map[string]bool{}
	for i, t := range l.Tables {
		switch {
		case !validName(t.Name):
			return tidemill.Invalid("table %d has a name of %d bytes", "name it with 1 to 256 bytes of UTF-8", i, len(t.Name))
		case tables[t.Name]:
			return tidemill.Invalid("two tables are named %q", "give each its own name", t.Name)
		case t.Dim < 1 || t.Dim > maxRowFloats || t.State < 0 || t.State > maxRowFloats:
			return tidemill.Invalid("table %q has rows of dimension %d with %d floats of state", "a dimension is at least 1 and at most a million", t.Name, t.Dim, t.State)
		}
		tables[t.Name] = true
	}
	tensors := map[string]bool{}
	for i, t := range l.Tensors {
		switch {
		case !validName(t.Name):
			return tidemill.Invalid("tensor %d has a name of %d bytes", "name it with 1 to 256 bytes of UTF-8", i, len(t.Name))
		case tensors[t.Name]:
			return tidemill.Invalid("two tensors are named %q", "give each its own name", t.Name)
		}
		n := 1
		for _, d := range t.Shape {
			if d < 1 || d > maxValues/n {
				return tidemill.Invalid("tensor %q has shape %v", "every dimension is at least 1", t.Name, t.Shape)
			}
			n *= d
		}
		tensors[t.Name] = true
	}
	return nil
}

// validName reports whether s can name a table or a tensor.
func validName(s string) bool { return s != "" && len(s) <= 256 && utf8.ValidString(s) }

// maxRowFloats bounds each group of a row.
const maxRowFloats = 1 << 20

// Block is one block of a dense tensor.
type Block struct {
	Tensor int // position in Layout.Tensors
	Block  int // in [0, Blocks()) of the tensor
	Weight []float32
	// State is the optimizer's; its length is the optimizer's business.
	State []float32
	// Average is as long as Weight when the tensor's layout has Average, else empty.
	Average []float32
	At      uint64 // example count at which Average was caught up; 0 without
}

// check reports whether b fits the layout.
func (l Layout) check(b Block) error {
	if b.Tensor < 0 || b.Tensor >= len(l.Tensors) {
		return fmt.Errorf("block of tensor %d, and the layout has %d tensors", b.Tensor, len(l.Tensors))
	}
	t := l.Tensors[b.Tensor]
	if b.Block < 0 || b.Block >= t.Blocks() {
		return fmt.Errorf("tensor %q has %d blocks, and this is block %d", t.Name, t.Blocks(), b.Block)
	}
	average := 0
	if t.Average {
		average = t.BlockLen(b.Block)
	}
	if len(b.Weight) != t.BlockLen(b.Block) || len(b.Average) != average || b.At != 0 && !t.Average {
		return fmt.Errorf("block %d of tensor %q has %d weights and %d averages, and the layout wants %d and %d",
			b.Block, t.Name, len(b.Weight), len(b.Average), t.BlockLen(b.Block), average)
	}
	if len(b.State) > maxState {
		return fmt.Errorf("block %d of tensor %q has %d floats of state, and at most %d are allowed", b.Block, t.Name, len(b.State), maxState)
	}
	return nil
}

// maxState bounds the optimizer state of a block: 64 floats a value.
const maxState = 64 * tidemill.BlockSize

// AuxTransforms names the aux bytes that are part of what the model computes: the state of
// the feature transforms. They alone of all aux are in the digest, and travel to serving.
const AuxTransforms = "transforms"

// AuxProgress names the aux bytes that hold progressive validation (internal/progress).
const AuxProgress = "progress"

// AuxAdmission begins the names of the aux bytes that hold what a table has counted of ids that
// have no row yet; two digits follow, the table's position in the layout.
const AuxAdmission = "admission-"

// ShardImage is the state of one shard, frozen: nothing in it changes while WritePart runs.
type ShardImage struct {
	Shard  int          // in [0, 65536)
	Tables []TableImage // in layout order; nil: none has a row
	Blocks []Block
	Aux    map[string][]byte
}

// TableImage is what a shard holds of one table, frozen, and what of that is stored already.
type TableImage struct {
	Rows Rows // nil: none
	// Base holds the rows that did not change since a committed snapshot, as Part.Base gives it;
	// empty: all rows are written. Clean is the digest of those rows.
	Base  []Blob
	Clean Digest
	// Removed are the ids of rows that Base may hold and that are gone, in any order; those of them
	// that came back are in Rows, and differ from the base.
	Removed []uint64
}

// Rows are the rows of a table in one shard, known by numbers from 0 on. One goroutine at a
// time uses them; those of different tables and shards are used at the same time.
type Rows interface {
	Len() int
	// List yields the number and id of every row, in any order, each once; with changed only of
	// those that differ from the base.
	List(changed bool) iter.Seq2[uint32, uint64]
	// Changed reports whether row differs from the base; CountChanged how many do.
	Changed(row uint32) bool
	CountChanged() int
	// Copy copies rows to dst [len(rows) × Width].
	Copy(dst []float32, rows []uint32)
	// Done is called once nothing of the rows is needed any more, with their digest. It is not
	// called when the writing fails.
	Done(sum Digest)
}
