package gate

import "github.com/tidemill/tidemill"

// Outcome is one decision. The Book has no clock: At, and a champion record's Seq, are filled
// in by whoever stores them.
type Outcome struct {
	Decision tidemill.Decision
	// Champion is the record to append when the decision changes what serves; else nil.
	Champion *tidemill.Champion
}

// Event is something that happened: Offer, Rows, ByHand or End.
type Event interface{ event() }

// Offer puts a version forward: its files are complete and were checked.
type Offer struct {
	Version int64
	Cut     tidemill.Cut
	Mechanics
}

// Rows says that rows of one partition were scored.
type Rows struct {
	Partition int
	// Range says which rows these are: all that the stream has in it, put-aside ones apart.
	Range tidemill.Range
	// Offsets are the rows' offsets, increasing; nil: Range.First, Range.First+1, ….
	Offsets []int64
	// Prior is the constant prediction's loss per row. Needed for rows that are new to the
	// Book; where a row is known its first value stays.
	Prior []float32
	// Losses maps a version to its loss per row. Versions that are not under test, and rows
	// already scored, are ignored.
	Losses map[int64][]float32
}

// ByHand makes a version serve because somebody says so. It skips the evidence, never the
// mechanical checks.
type ByHand struct {
	Version   int64
	Cut       tidemill.Cut
	Kind      string // promote or rollback
	By, Why   string
	Mechanics Mechanics
}

// End says that no row will come any more: candidates still under test stay held.
type End struct{}

func (Offer) event()  {}
func (Rows) event()   {}
func (ByHand) event() {}
func (End) event()    {}

// Kinds of champion record.
const (
	KindGate     = "gate"
	KindPromote  = "promote"
	KindRollback = "rollback"
)
