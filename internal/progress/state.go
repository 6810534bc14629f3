package progress

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
)

const (
	bins       = 512 // of the logit, over [-logitMax, logitMax]
	logitMax   = 12
	maxWindows = 64
	// FirstWindow is how many offsets of each partition one window covers until there are
	// maxWindows of them; then pairs merge and the width doubles.
	FirstWindow = 1000
	stateFormat = 1
)

// Sums is what a window, or the whole, adds up to.
type Sums struct {
	N         int64
	Loss      float64
	Correct   int64
	Score     float64
	Label     float64
	LabelSq   float64
	NoChange  int64 // "repeat the last label" was right
	NoChangeN int64
	Pos, Neg  []uint32 // histogram of the score's logit by label; binary labels only
}

// State is the running total of a job, kept in its home shard.
type State struct {
	labelType string
	width     int64
	total     Sums
	windows   []Sums
	last      []float32 // per partition, the last label; NaN before the first
	classes   map[float32]int64
}

// New returns an empty state for a label type.
func New(labelType string) *State {
	return &State{labelType: labelType, width: FirstWindow, classes: map[float32]int64{}}
}

// Add adds the outcomes of a batch (AppendOutcomes) of partition whose first offset is given.
// Batches of one partition must be added in offset order, each once.
func (s *State) Add(partition int, first int64, outcomes []byte) error {
	if len(outcomes)%outcomeBytes != 0 {
		return fmt.Errorf("progress: outcomes of %d bytes: %w", len(outcomes), tidemill.ErrCorrupt)
	}
	for len(s.last) <= partition {
		s.last = append(s.last, float32(math.NaN()))
	}
	for i := range len(outcomes) / outcomeBytes {
		o := outcomeAt(outcomes, i)
		w := s.window(first + int64(i))
		known := s.last[partition] == s.last[partition]
		same := s.last[partition] == o.Label
		s.last[partition] = o.Label
		s.add(&s.total, o, known, same)
		s.add(w, o, known, same)
		if s.labelType == tidemill.Multiclass {
			s.classes[o.Label]++
		}
	}
	return nil
}

func (s *State) add(t *Sums, o Outcome, known, same bool) {
	t.N++
	t.Loss += float64(o.Loss)
	t.Score += float64(o.Score)
	t.Label += float64(o.Label)
	t.LabelSq += float64(o.Label) * float64(o.Label)
	if o.Correct {
		t.Correct++
	}
	if known {
		t.NoChangeN++
		if same {
			t.NoChange++
		}
	}
	if s.labelType == tidemill.Binary {
		if t.Pos == nil {
			t.Pos, t.Neg = make([]uint32, bins), make([]uint32, bins)
		}
		if o.Label >= 0.5 {
			t.Pos[bin(o.Score)]++
		} else {
			t.Neg[bin(o.Score)]++
		}
	}
}

func bin(p float32) int {
	if p != p {
		return 0
	}
	x := math.Log(float64(p) / (1 - float64(p)))
	k := int((x + logitMax) * bins / (2 * logitMax))
	switch {
	case x != x || k < 0:
		return 0
	case k >= bins:
		return bins - 1
	}
	return k
}

func (s *State) window(offset int64) *Sums {
	for offset/s.width >= maxWindows {
		merged := s.windows[:0]
		for i := 0; i < len(s.windows); i += 2 {
			w := s.windows[i]
			if i+1 < len(s.windows) {
				w.merge(&s.windows[i+1])
			}
			merged = append(merged, w)
		}
		clear(s.windows[len(merged):])
		s.windows = merged
		s.width *= 2
	}
	k := int(offset / s.width)
	for len(s.windows) <= k {
		s.windows = append(s.windows, Sums{})
	}
	return &s.windows[k]
}

func (t *Sums) merge(o *Sums) {
	t.N += o.N
	t.Loss += o.Loss
	t.Correct += o.Correct
	t.Score += o.Score
	t.Label += o.Label
	t.LabelSq += o.LabelSq
	t.NoChange += o.NoChange
	t.NoChangeN += o.NoChangeN
	if o.Pos != nil {
		if t.Pos == nil {
			t.Pos, t.Neg = make([]uint32, bins), make([]uint32, bins)
		}
		for i := range o.Pos {
			t.Pos[i] += o.Pos[i]
			t.Neg[i] += o.Neg[i]
		}
	}
}

// Examples returns how many outcomes were added.
func (s *State) Examples() int64 { return s.total.N }

// Prior returns the constant that a model would predict knowing only the labels so far: the
// positive rate, the mean, or the share of each class (by class index).
func (s *State) Prior(outputs int) []float32 {
	p := make([]float32, outputs)
	n := float64(max(s.total.N, 1))
	if s.labelType != tidemill.Multiclass {
		p[0] = float32(s.total.Label / n)
		return p
	}
	for k := range p {
		p[k] = float32((float64(s.classes[float32(k)]) + 1) / (n + float64(outputs)))
	}
	return p
}

// Report is a summary for people and programs. Fields that do not apply to the label type are
// zero.
type Report struct {
	Examples         int64   `json:"examples"`
	Loss             float64 `json:"loss"`
	PriorLoss        float64 `json:"prior_loss"`
	NE               float64 `json:"normalized_entropy"` // Loss / PriorLoss (He et al., ADKDD 2014)
	AUC              float64 `json:"auc"`
	Accuracy         float64 `json:"accuracy"`
	NoChangeAccuracy float64 `json:"no_change_accuracy"`
	Calibration      float64 `json:"calibration"` // Σ score / Σ label
}

// Total reports on everything.
func (s *State) Total() Report { return s.report(&s.total) }

// Since reports on the examples whose offset is at least first, rounded up to a window.
func (s *State) Since(first int64) Report {
	var t Sums
	for k := int((first + s.width - 1) / s.width); k < len(s.windows); k++ {
		t.merge(&s.windows[k])
	}
	return s.report(&t)
}

// Recent reports on the newest windows that together hold at least n examples.
func (s *State) Recent(n int64) Report {
	var t Sums
	for k := len(s.windows) - 1; k >= 0 && t.N < n; k-- {
		t.merge(&s.windows[k])
	}
	return s.report(&t)
}

func (s *State) report(t *Sums) Report {
	r := Report{Examples: t.N}
	if t.N == 0 {
		return r
	}
	n := float64(t.N)
	r.Loss = t.Loss / n
	if t.NoChangeN > 0 {
		r.NoChangeAccuracy = float64(t.NoChange) / float64(t.NoChangeN)
	}
	r.Accuracy = float64(t.Correct) / n
	mean := t.Label / n
	switch s.labelType {
	case tidemill.Regression:
		r.PriorLoss = (t.LabelSq/n - mean*mean) / 2
	case tidemill.Multiclass:
		for _, c := range s.classes {
			q := float64(c) / float64(s.total.N)
			r.PriorLoss -= q * math.Log(q)
		}
	default:
		r.PriorLoss = entropy(mean)
		r.AUC = auc(t.Pos, t.Neg)
		if t.Label > 0 {
			r.Calibration = t.Score / t.Label
		}
	}
	if r.PriorLoss > 0 {
		r.NE = r.Loss / r.PriorLoss
	}
	return r
}

func entropy(p float64) float64 {
	if p <= 0 || p >= 1 {
		return 0
	}
	return -p*math.Log(p) - (1-p)*math.Log(1-p)
}

// auc is the probability that a positive scores above a negative, ties and equal bins
// counting half.
func auc(pos, neg []uint32) float64 {
	var below, sum, np float64
	for i := range pos {
		sum += float64(pos[i]) * (below + float64(neg[i])/2)
		below += float64(neg[i])
		np += float64(pos[i])
	}
	if np == 0 || below == 0 {
		return 0
	}
	return sum / (np * below)
}

// AppendBinary appends the state: a format byte, the window width, then total and windows
// with histograms as (gap, count) varint pairs.
func (s *State) AppendBinary(dst []byte) ([]byte, error) {
	dst = append(dst, stateFormat)
	dst = binary.AppendUvarint(dst, uint64(len(s.labelType)))
	dst = append(dst, s.labelType...)
	dst = binary.AppendUvarint(dst, uint64(s.width))
	dst = binary.AppendUvarint(dst, uint64(len(s.last)))
	for _, v := range s.last {
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(v))
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.windows)))
	dst = s.total.append(dst)
	for i := range s.windows {
		dst = s.windows[i].append(dst)
	}
	// Class counts by ascending class so that equal states have equal bytes.
	dst = binary.AppendUvarint(dst, uint64(len(s.classes)))
	for k, seen := float32(0), 0; seen < len(s.classes); k++ {
		if n, ok := s.classes[k]; ok {
			dst = binary.AppendUvarint(dst, uint64(k))
			dst = binary.AppendUvarint(dst, uint64(n))
			seen++
		}
	}
	return dst, nil
}

func (t *Sums) append(dst []byte) []byte {
	for _, v := range []int64{t.N, t.Correct, t.NoChange, t.NoChangeN} {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	for _, v := range []float64{t.Loss, t.Score, t.Label, t.LabelSq} {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	}
	for _, h := range [][]uint32{t.Pos, t.Neg} {
		n := 0
		for _, c := range h {
			if c > 0 {
				n++
			}
		}
		dst = binary.AppendUvarint(dst, uint64(n))
		prev := 0
		for i, c := range h {
			if c > 0 {
				dst = binary.AppendUvarint(dst, uint64(i-prev))
				dst = binary.AppendUvarint(dst, uint64(c))
				prev = i
			}
		}
	}
	return dst
}

// Load reads what AppendBinary wrote, or returns tidemill.ErrCorrupt.
func Load(data []byte) (*State, error) {
	r := reader{data: data}
	if v := r.byte(); v != stateFormat {
		return nil, fmt.Errorf("progress: state of format %d: %w", v, tidemill.ErrCorrupt)
	}
	s := New(string(r.bytes(r.uint(64))))
	s.width = int64(r.uint(math.MaxInt64))
	if s.width < 1 {
		r.bad = true
	}
	s.last = make([]float32, r.uint(1<<16))
	for i := range s.last {
		s.last[i] = math.Float32frombits(uint32(r.fixed(4)))
	}
	n := r.uint(maxWindows)
	s.total = r.sums()
	for range n {
		s.windows = append(s.windows, r.sums())
	}
	for range r.uint(1 << 20) {
		k := r.uint(1 << 24)
		s.classes[float32(k)] = int64(r.uint(math.MaxInt64))
		if r.bad {
			break
		}
	}
	if r.bad || len(r.data) != 0 {
		return nil, fmt.Errorf("progress: damaged state: %w", tidemill.ErrCorrupt)
	}
	return s, nil
}

type reader struct {
	data []byte
	bad  bool
}

func (r *reader) fail() { r.bad, r.data = true, nil }

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.fail()
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) uint(most uint64) uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 || v > most {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if uint64(len(r.data)) < n {
		r.fail()
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) fixed(n uint64) uint64 {
	b := r.bytes(n)
	var v uint64
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func (r *reader) sums() Sums {
	var t Sums
	for _, p := range []*int64{&t.N, &t.Correct, &t.NoChange, &t.NoChangeN} {
		*p = int64(r.uint(math.MaxInt64))
	}
	for _, p := range []*float64{&t.Loss, &t.Score, &t.Label, &t.LabelSq} {
		*p = math.Float64frombits(r.fixed(8))
	}
	var h [2][]uint32
	for k := range h {
		n := r.uint(bins)
		if n > 0 {
			h[k] = make([]uint32, bins)
		}
		at := uint64(0)
		for range n {
			at += r.uint(bins)
			c := r.uint(math.MaxUint32)
			if at >= bins || r.bad {
				r.fail()
				return t
			}
			h[k][at] = uint32(c)
		}
	}
	t.Pos, t.Neg = h[0], h[1]
	if (t.Pos == nil) != (t.Neg == nil) {
		if t.Pos == nil {
			t.Pos = make([]uint32, bins)
		} else {
			t.Neg = make([]uint32, bins)
		}
	}
	return t
}
