package tidemill

import (
	"errors"
	"fmt"
	"strings"
)

// Kinds of error. Each says what the caller does next; test with errors.Is. The one map to
// gRPC codes lives in internal/rpc.
var (
	// ErrInvalid: the input is wrong and will be wrong again. Fix it; do not retry.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: no such topic, job, model or version. Check the name, or wait for it.
	ErrNotFound = errors.New("not found")
	// ErrExists: a create-only name is taken. Read what is there, then decide.
	ErrExists = errors.New("already exists")
	// ErrFenced: the caller's epoch or generation is no longer current. Drop all state of
	// that ownership and read the assignment again.
	ErrFenced = errors.New("fenced")
	// ErrNotReady: right request, wrong moment (starting, rewinding, no version yet).
	// Retry with back-off.
	ErrNotReady = errors.New("not ready")
	// ErrConflict: a compare-and-set lost its race. Read again, then decide again.
	ErrConflict = errors.New("conflict")
	// ErrCorrupt: stored bytes do not match their checksum or format. Never use them; fall
	// back to an older snapshot or version.
	ErrCorrupt = errors.New("corrupt")
	// ErrFull: a stated limit (disk, memory, queue) is reached. Free space or raise it; what
	// was there before is intact.
	ErrFull = errors.New("full")
	// ErrUnavailable: the other side cannot be reached. Retry; the request may or may not
	// have been carried out.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied: the caller's certificate or key does not allow this. Use another one.
	ErrDenied = errors.New("denied")
)

// Place says where in an input something is wrong. Zero fields are unknown.
type Place struct {
	File   string
	Line   int   // 1-based
	Column int   // 1-based, in characters
	Offset int64 // row offset within a partition, or byte offset in a binary file; -1 unknown
}

func (p Place) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		if b.Len() > 0 {
			b.WriteByte(':')
		} else {
			b.WriteString("line ")
		}
		fmt.Fprintf(&b, "%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	if p.Line == 0 && p.Offset > 0 {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "at offset %d", p.Offset)
	}
	return b.String()
}

// InputError is bad input at a known place, with the remedy. It wraps ErrInvalid.
type InputError struct {
	Place  Place
	What   string // what is wrong, one clause
	Remedy string // what to do about it; may be empty
}

func (e *InputError) Error() string {
	s := e.What
	if at := e.Place.String(); at != "" {
		s = at + ": " + s
	}
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

func (e *InputError) Unwrap() error { return ErrInvalid }

// Invalid returns an InputError without a place.
func Invalid(what, remedy string, args ...any) error {
	return &InputError{What: fmt.Sprintf(what, args...), Remedy: remedy}
}

// Nearest returns the candidate closest to name by edit distance, or "" when none is close
// enough to be a likely misspelling.
func Nearest(name string, candidates []string) string {
	best, bestD := "", len(name)/2+1
	for _, c := range candidates {
		if d := editDistance(strings.ToLower(name), strings.ToLower(c)); d < bestD {
			best, bestD = c, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
