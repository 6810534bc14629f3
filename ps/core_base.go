package ps

import "github.com/tidemill/tidemill/internal/wire"

// Base says what a capture is written on top of.
type Base uint8

const (
	// NoBase: no committed snapshot is known that the rows could be compared with; all are
	// written.
	NoBase Base = iota
	// LastBase: the capture before was committed; the rows that changed since are written.
	LastBase
	// SameBase: the capture before was not, but what it was written on top of was: its rows
	// are written again, with those that changed since.
	SameBase
)

// basis knows which snapshots the state here was compared with.
type basis struct {
	committed int64 // the one that the last capture was written on top of; 0: none
	tried     int64 // the number of the last capture; 0: none since the state came here
	captures  int64 // so far
}

// settle says what becomes of the capture of a snapshot, given the one that was committed last. Whoever asks for
// a snapshot says which that is. It is the one captured last, or the one before it, when that
// failed; of any other nothing is known.
func (b *basis) settle(number, committed int64) (base Base, attempt int64) {
	switch committed {
	case 0:
	case b.tried:
		base = LastBase
	case b.committed:
		base = SameBase
	}
	b.committed, b.tried = committed, number
	b.captures++
	return base, b.captures
}

// same reports whether two ps compare their state with the same snapshots.
func (b *basis) same(l *wire.Ledger) bool { return b.committed == l.Committed && b.tried == l.Tried }

// stands says that the state here is that of a committed snapshot; 0: of none.
func (b *basis) stands(at int64) { b.committed, b.tried = at, 0 }
