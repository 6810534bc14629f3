package feature

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/tidemill/tidemill"
)

// The byte layout is described in docs/format/transform-state.md; change both together.
const (
	codecMagic   = "TMtf"
	codecVersion = 1
)

// Forms of the bytes.
const (
	formFull   = 0 // everything
	formPublic = 1 // what Sparse and Numeric need
	formMoving = 2 // formPublic without what the reader has frozen already
	formDelta  = 3 // what one batch adds
)

// Status of a learned transform.
const (
	statusLearning = 0
	statusFrozen   = 1
	statusKnown    = 2 // frozen, and the reader has it (formMoving)
)

// maxRows bounds counts of rows, so that they are exact as float64.
const maxRows = 1 << 53

func corrupt(what string, args ...any) error {
	return fmt.Errorf("transform state: %s: %w", fmt.Sprintf(what, args...), tidemill.ErrCorrupt)
}

func putU64(dst []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(dst, v) }

func putUint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

func putMoments(dst []byte, m *moments) []byte {
	dst = putU64(dst, uint64(m.n))
	dst = putU64(dst, math.Float64bits(m.mean))
	return putU64(dst, math.Float64bits(m.m2))
}

func (p *Plan) appendHeader(dst []byte, form byte) []byte {
	dst = append(dst, codecMagic...)
	dst = append(dst, codecVersion, form)
	return putU64(dst, p.fingerprint)
}

// readHeader checks the header and returns its form, which must be one of want.
func (p *Plan) readHeader(r *reader, want ...byte) byte {
	head := r.take(len(codecMagic) + 2)
	print := r.u64()
	switch {
	case r.err != nil:
		return 0
	case string(head[:len(codecMagic)]) != codecMagic:
		r.err = corrupt("not a transform state")
		return 0
	case head[len(codecMagic)] != codecVersion:
		r.err = corrupt("version %d, this build reads version %d", head[len(codecMagic)], codecVersion)
		return 0
	case print != p.fingerprint:
		r.err = corrupt("it belongs to another spec")
		return 0
	}
	form := head[len(codecMagic)+1]
	if !slices.Contains(want, form) {
		r.err = corrupt("form %d is not expected here", form)
	}
	return form
}

// AppendBinary appends the whole state to dst, for snapshots. Equal states give equal bytes.
func (s *State) AppendBinary(dst []byte) ([]byte, error) {
	if s.partial {
		return dst, tidemill.Invalid("a transform state without samples cannot be stored", "store the state at its home")
	}
	return s.append(dst, formFull), nil
}

// AppendPublic appends only what Sparse and Numeric need. Where the plan learns nothing it
// appends nothing.
func (s *State) AppendPublic(dst []byte) ([]byte, error) {
	if !s.plan.Learns() {
		return dst, nil
	}
	return s.append(dst, formPublic), nil
}

// AppendPublicSince is AppendPublic for a reader whose state's Frozen is known: edges and
// vocabularies that it has already are left out, which leaves 24 bytes per standardized
// column. Anything but ReadState into that very state refuses the bytes.
func (s *State) AppendPublicSince(dst []byte, known uint64) ([]byte, error) {
	if known == 0 || known != s.Frozen() {
		return s.AppendPublic(dst)
	}
	return s.append(dst, formMoving), nil
}

func (s *State) append(dst []byte, form byte) []byte {
	dst = s.plan.appendHeader(dst, form)
	if form == formMoving {
		dst = putU64(dst, s.Frozen())
	}
	for i := range s.moments {
		dst = putMoments(dst, &s.moments[i])
	}
	for i := range s.quantiles {
		q := &s.quantiles[i]
		switch {
		case q.frozen && form == formMoving:
			dst = append(dst, statusKnown)
		case q.frozen:
			dst = append(dst, statusFrozen)
			dst = putUint(dst, uint64(len(q.edges)))
			for _, e := range q.edges {
				dst = putU64(dst, math.Float64bits(e))
			}
		default:
			dst = append(dst, statusLearning)
			if form == formFull {
				dst = putUint(dst, uint64(len(q.samples)))
				for _, v := range q.samples {
					dst = putU64(dst, math.Float64bits(v))
				}
			}
		}
	}
	for i := range s.vocabs {
		v := &s.vocabs[i]
		switch {
		case v.frozen && form == formMoving:
			dst = append(dst, statusKnown)
		case v.frozen:
			dst = append(dst, statusFrozen)
			dst = putUint(dst, uint64(len(v.known)))
			for _, id := range v.known {
				dst = putU64(dst, id)
			}
		default:
			dst = append(dst, statusLearning)
			if form == formFull {
				dst = putUint(dst, uint64(v.rows))
				dst = putUint(dst, uint64(len(v.counts)))
				for _, id := range slices.Sorted(maps.Keys(v.counts)) {
					dst = putU64(dst, id)
					dst = putUint(dst, v.counts[id])
				}
			}
		}
	}
	return dst
}

// LoadState reads what AppendBinary or AppendPublic wrote. A state read from the public form
// serves Sparse and Numeric; while something is still being learned it cannot Merge. Bytes of
// another plan, or damaged ones, are refused with tidemill.ErrCorrupt.
func (p *Plan) LoadState(data []byte) (*State, error) {
	s := p.NewState()
	if err := p.ReadState(s, data); err != nil {
		return nil, err
	}
	return s, nil
}

// ReadState is LoadState into st, whose memory it reuses; it alone reads what
// AppendPublicSince wrote. Where the plan learns nothing, empty data is a state. After an
// error st is as new.
func (p *Plan) ReadState(st *State, data []byte) error {
	if st.plan.fingerprint != p.fingerprint {
		return tidemill.Invalid("a transform state of another plan", "make one with this plan's NewState")
	}
	if len(data) == 0 && !p.Learns() {
		return nil
	}
	err := st.read(data)
	if err != nil {
		st.reset()
	}
	return err
}

func (s *State) read(data []byte) error {
	r := reader{b: data}
	form := s.plan.readHeader(&r, formFull, formPublic, formMoving)
	if form == formMoving && r.u64() != s.Frozen() && r.err == nil {
		return corrupt("it leaves out edges or a vocabulary that this reader does not have")
	}
	if r.err != nil {
		return r.err
	}
	s.partial = false
	for i := range s.moments {
		s.moments[i] = r.moments()
	}
	for i := range s.quantiles {
		if err := s.readQuantile(&r, form, i); err != nil {
			return err
		}
	}
	for i := range s.vocabs {
		if err := s.readVocab(&r, form, i); err != nil {
			return err
		}
	}
	return r.end()
}

func (s *State) readQuantile(r *reader, form byte, i int) error {
	q, p := &s.quantiles[i], &s.plan.quantiles[i]
	switch status := r.byte(); {
	case status == statusKnown && form == formMoving:
		if !q.frozen {
			return corrupt("it leaves out edges that this reader does not have")
		}
	case status == statusFrozen && form != formMoving:
		n := r.count(8, p.buckets-1)
		raw := r.take(8 * n)
		if r.err != nil {
			return r.err
		}
		if q.frozen && q.equal(raw) {
			return nil // the usual case on a pull
		}
		edges := q.edges[:0]
		for k := range n {
			e := math.Float64frombits(binary.LittleEndian.Uint64(raw[8*k:]))
			if !finite(e) || k > 0 && e <= edges[k-1] {
				return corrupt("edges that do not increase")
			}
			edges = append(edges, e)
		}
		s.setEdges(i, edges)
		q.samples = nil
	case status == statusLearning:
		q.frozen, q.edges, q.samples = false, q.edges[:0], q.samples[:0]
		if form != formFull {
			s.partial = true
			return r.err
		}
		n := r.count(8, p.rows-1)
		for range n {
			q.samples = append(q.samples, r.float())
		}
	default:
		return corrupt("unknown status %d", status)
	}
	return r.err
}

// equal reports whether q's edges are the ones in raw.
func (q *quantileState) equal(raw []byte) bool {
	if len(raw) != 8*len(q.edges) {
		return false
	}
	for k, e := range q.edges {
		if math.Float64bits(e) != binary.LittleEndian.Uint64(raw[8*k:]) {
			return false
		}
	}
	return true
}

func (s *State) readVocab(r *reader, form byte, i int) error {
	v, p := &s.vocabs[i], &s.plan.vocabs[i]
	switch status := r.byte(); {
	case status == statusKnown && form == formMoving:
		if !v.frozen {
			return corrupt("it leaves out a vocabulary that this reader does not have")
		}
	case status == statusFrozen && form != formMoving:
		n := r.count(8, p.size)
		raw := r.take(8 * n)
		if r.err != nil {
			return r.err
		}
		if v.frozen && v.equal(raw) {
			return nil
		}
		known := make([]uint64, n)
		for k := range known {
			known[k] = binary.LittleEndian.Uint64(raw[8*k:])
			if k > 0 && known[k] <= known[k-1] {
				return corrupt("a vocabulary that is not sorted")
			}
		}
		s.setVocab(i, known)
		v.counts, v.rows = nil, 0
	case status == statusLearning:
		v.frozen, v.rows = false, 0
		clear(v.counts)
		if form != formFull {
			s.partial = true
			return r.err
		}
		rows := r.uint(uint64(p.rows - 1))
		n := r.count(9, p.rows*s.plan.perRow(i))
		if r.err != nil {
			return r.err
		}
		if v.counts == nil {
			v.counts = make(map[uint64]uint64, n)
		}
		v.rows = int(rows)
		var last uint64
		for k := range n {
			id := r.u64()
			c := r.uint(rows)
			if r.err == nil && (k > 0 && id <= last || c == 0) {
				return corrupt("counts that are not sorted")
			}
			v.counts[id], last = c, id
		}
	default:
		return corrupt("unknown status %d", status)
	}
	return r.err
}

// equal reports whether v's vocabulary is the one in raw.
func (v *vocabState) equal(raw []byte) bool {
	if len(raw) != 8*len(v.known) {
		return false
	}
	for k, id := range v.known {
		if id != binary.LittleEndian.Uint64(raw[8*k:]) {
			return false
		}
	}
	return true
}

// sane reports whether m can come from rows that passed Check. Merging sane moments stays
// finite.
func (m *moments) sane() bool {
	if m.n == 0 {
		return m.mean == 0 && m.m2 == 0
	}
	// No value exceeds a float32 in size, so no deviation exceeds twice that.
	const most = math.MaxFloat32 * 1.001
	return m.n > 0 && m.n <= maxRows && math.Abs(m.mean) <= most && m.m2 >= 0 && m.m2 <= 4*most*most*float64(m.n)
}

// reader decodes with bounds checks. After an error, which stays, it yields zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = corrupt("it ends too early")
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// float reads a finite number.
func (r *reader) float() float64 {
	f := math.Float64frombits(r.u64())
	if r.err == nil && !finite(f) {
		r.err = corrupt("a number that is not finite")
		return 0
	}
	return f
}

// uint reads a varint of at most most.
func (r *reader) uint(most uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.err = corrupt("a count out of range")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads how many items of at least size bytes follow: never more than most, nor than
// there are bytes for.
func (r *reader) count(size, most int) int {
	n := int(r.uint(uint64(max(most, 0))))
	if n > len(r.b)/size {
		r.err = corrupt("it ends too early")
		return 0
	}
	return n
}

func (r *reader) moments() moments {
	n := r.u64()
	m := moments{mean: math.Float64frombits(r.u64()), m2: math.Float64frombits(r.u64())}
	if n > maxRows {
		m.n = -1
	} else {
		m.n = int64(n)
	}
	if r.err == nil && !m.sane() {
		r.err = corrupt("moments that no rows have")
	}
	if r.err != nil {
		return moments{}
	}
	return m
}

// end reports the first error, or bytes left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = corrupt("%d bytes left over", len(r.b))
	}
	return r.err
}
