package scorer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Kinds of messages to a child.
const (
	opCompile byte = iota + 1
	opDense
	opForget
	opPredict
	opEvaluate
)

// Kinds of answers.
const (
	answerOK byte = iota + 1
	answerInvalid
	answerFailed
)

// Limits of a message. They are far above what is scored at a time, and below what a length that
// was never meant as one would ask for.
const (
	maxElements = 1 << 28 // of all arrays of a message
	maxText     = 64 << 10
	maxJSON     = 16 << 20
	maxGraph    = 1 << 30
	maxArrays   = 1 << 16 // tables, tensors
	step        = 1 << 16 // elements that memory is made for before they have arrived
)

// errFrame is what a message that cannot be one wraps.
var errFrame = errors.New("message is malformed")

// element is what arrays are of. Both ends are the same binary on the same machine, so values
// travel as memory has them.
type element interface {
	byte | int32 | uint64 | float32
}

func bytesOf[T element](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

// writer writes messages; the first error stays.
type writer struct {
	w   *bufio.Writer
	err error
}

func (w *writer) byte(b byte) {
	if w.err == nil {
		w.err = w.w.WriteByte(b)
	}
}

func (w *writer) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	w.bytes(b[:])
}

func (w *writer) bytes(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func writeArray[T element](w *writer, s []T) {
	w.number(uint64(len(s)))
	w.bytes(bytesOf(s))
}

func (w *writer) flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

// reader reads messages; the first error stays, and all that follows reads as zero.
type reader struct {
	r    *bufio.Reader
	left int // elements that the message may still have
	err  error
}

// begin starts a message and returns its kind.
func (r *reader) begin() (byte, error) {
	r.left, r.err = maxElements, nil
	b, err := r.r.ReadByte()
	return b, err
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", errFrame, fmt.Sprintf(format, args...))
	}
}

func (r *reader) bytes(b []byte) {
	if r.err != nil {
		return
	}
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.err = fmt.Errorf("message ends early: %w", err)
	}
}

func (r *reader) number() uint64 {
	var b [8]byte
	r.bytes(b[:])
	if r.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

// count reads a number that is at most limit.
func (r *reader) count(what string, limit int) int {
	n := r.number()
	if r.err == nil && n > uint64(limit) {
		r.fail("%d %s, at most %d", n, what, limit)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// readArray reads an array into dst's memory where it is enough.
func readArray[T element](r *reader, dst []T, what string) []T {
	n := r.count(what, r.left)
	r.left -= n
	dst = dst[:0]
	for len(dst) < n && r.err == nil {
		at := len(dst)
		more := min(n-at, max(step, cap(dst)-at))
		if cap(dst)-at < more {
			grown := make([]T, at, max(at+more, min(n, 2*at)))
			copy(grown, dst)
			dst = grown
		}
		dst = dst[:at+more]
		r.bytes(bytesOf(dst[at:]))
	}
	if r.err != nil {
		return dst[:0]
	}
	return dst
}

// blob reads bytes that are kept.
func (r *reader) blob(what string, limit int) []byte {
	n := r.count("bytes of "+what, limit)
	r.left = max(r.left, n)
	var b []byte
	for len(b) < n && r.err == nil {
		at := len(b)
		b = append(b, make([]byte, min(n-at, 1<<20))...)
		r.bytes(b[at:])
	}
	return b
}

// request is a batch as a child gets it. Its buffers are reused.
type request struct {
	set  uint64
	in   engine.Inputs
	look []engine.Lookup
	rows [][]float32
}

// writeRequest writes all that a prediction depends on; dropout's keys are not part of it.
func writeRequest(w *writer, op byte, set uint64, in *engine.Inputs, look []engine.Lookup, rows [][]float32) {
	w.byte(op)
	w.number(set)
	w.number(uint64(in.N))
	w.number(uint64(in.Fields))
	w.number(uint64(in.Width))
	writeArray(w, in.Dense)
	writeArray(w, in.IDs)
	writeArray(w, in.Values)
	writeArray(w, in.Offsets)
	writeArray(w, in.Labels)
	writeArray(w, in.Weights)
	w.number(uint64(len(look)))
	for t := range look {
		writeArray(w, look[t].Unique)
		writeArray(w, look[t].Index)
		writeArray(w, rows[t])
	}
}

// read reads what follows the kind of a request and checks that it fits together, for tables of
// these dimensions.
func (q *request) read(r *reader, tables []tidemill.TableSpec, labels bool) error {
	q.set = r.number()
	q.in.N = r.count("examples", maxElements)
	q.in.Fields = r.count("fields", maxArrays)
	q.in.Width = r.count("dense numbers", maxElements)
	q.in.Dense = readArray(r, q.in.Dense, "dense numbers")
	q.in.IDs = readArray(r, q.in.IDs, "ids")
	q.in.Values = readArray(r, q.in.Values, "values")
	q.in.Offsets = readArray(r, q.in.Offsets, "offsets")
	q.in.Labels = readArray(r, q.in.Labels, "labels")
	q.in.Weights = readArray(r, q.in.Weights, "weights")
	n := r.count("tables", maxArrays)
	if r.err == nil && n != len(tables) {
		r.fail("%d tables, and the model has %d", n, len(tables))
	}
	for len(q.look) < len(tables) {
		q.look, q.rows = append(q.look, engine.Lookup{}), append(q.rows, nil)
	}
	for t := range tables {
		q.look[t].Unique = readArray(r, q.look[t].Unique, "distinct ids")
		q.look[t].Index = readArray(r, q.look[t].Index, "places of rows")
		q.rows[t] = readArray(r, q.rows[t], "row values")
	}
	if r.err != nil {
		return r.err
	}
	if err := q.in.Check(labels); err != nil {
		return err
	}
	for t, spec := range tables {
		l := &q.look[t]
		if len(l.Index) != len(q.in.IDs) || len(q.rows[t]) != len(l.Unique)*spec.Dim {
			return tidemill.Invalid("table %s: %d places and %d row values for %d ids, %d of them distinct", "", spec.Name, len(l.Index), len(q.rows[t]), len(q.in.IDs), len(l.Unique))
		}
		for _, at := range l.Index {
			if at < -1 || int(at) >= len(l.Unique) {
				return tidemill.Invalid("table %s: row %d of %d", "", spec.Name, at, len(l.Unique))
			}
		}
	}
	return nil
}

// writeError writes the answer that a request failed.
func writeError(w *writer, err error) {
	kind := answerFailed
	if errors.Is(err, tidemill.ErrInvalid) {
		kind = answerInvalid
	}
	text := err.Error()
	w.byte(kind)
	writeArray(w, []byte(text[:min(len(text), maxText)]))
}

// answer reads the kind of an answer, and the error where it is one. broken says that the
// connection is of no further use.
func (r *reader) answer() (broken bool, err error) {
	kind, err := r.begin()
	if err != nil {
		return true, err
	}
	switch kind {
	case answerOK:
		return false, nil
	case answerInvalid, answerFailed:
		text := string(r.blob("text", maxText))
		if r.err != nil {
			return true, r.err
		}
		if kind == answerInvalid {
			return false, remoteError{text, tidemill.ErrInvalid}
		}
		return false, remoteError{text, nil}
	}
	return true, fmt.Errorf("%w: answer of kind %d", errFrame, kind)
}

// remoteError is an error that a child reports: its text is whole.
type remoteError struct {
	text string
	kind error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.kind }

// readExactly reads an array that has to have the length of dst.
func readExactly(r *reader, dst []float32, what string) {
	if n := r.number(); r.err == nil && n != uint64(len(dst)) {
		r.fail("%d %s instead of %d", n, what, len(dst))
	}
	r.bytes(bytesOf(dst))
}
