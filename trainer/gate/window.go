package gate

import (
	"math"
	"sort"

	"github.com/tidemill/tidemill"
)

// unscored marks a row that a model has not been scored on. It is a NaN that no computation
// gives; every NaN that comes in is stored as another one.
var unscored = math.Float32frombits(0x7fc0_7c0d)

const unscoredBits = 0x7fc0_7c0d

func isUnscored(x float32) bool { return math.Float32bits(x) == unscoredBits }

// window is the memory of a Book: the last rows, in the order in which they first arrived, with
// the loss of each model that was scored on them. Rows have an absolute index per partition
// and a sequence number over all partitions; both only grow.
type window struct {
	size  int // rows kept
	parts []partition
	order []int32 // partition of each kept row, in arrival order
	head  int     // dead entries at the front of order
	first int64   // sequence number of order[head]
}

// partition is the kept rows of one partition, in offset order.
type partition struct {
	offsets []int64
	prior   []float32
	losses  map[int64]*column
	head    int   // dead entries at the front of the slices above
	base    int64 // absolute index of the row at head
	next    int64 // offset after the last row seen; -1 before the first
}

// column is one model's losses, aligned with partition.offsets.
type column struct {
	loss   []float32
	cut    int64 // rows below it are never counted for this model
	scored int64 // absolute index: every kept row before it is scored or below cut
}

func newWindow(partitions, size int) *window {
	w := &window{size: size, parts: make([]partition, partitions)}
	for i := range w.parts {
		w.parts[i] = partition{losses: map[int64]*column{}, next: -1}
	}
	return w
}

// end is the sequence number after the last row.
func (w *window) end() int64 { return w.first + int64(len(w.order)-w.head) }

// at returns the partition of the row with sequence number seq, which must be kept.
func (w *window) at(seq int64) int { return int(w.order[w.head+int(seq-w.first)]) }

// model makes room for the losses of a model with this cut.
func (w *window) model(version int64, cut tidemill.Cut) {
	for i := range w.parts {
		p := &w.parts[i]
		if p.losses[version] != nil {
			continue
		}
		c := &column{loss: make([]float32, len(p.offsets)), scored: p.base, cut: lower(cut, i)}
		for j := range c.loss {
			c.loss[j] = unscored
		}
		p.losses[version] = c
	}
}

// forget drops a model's losses.
func (w *window) forget(version int64) {
	for i := range w.parts {
		delete(w.parts[i].losses, version)
	}
}

// row is the position in p's slices of absolute index i.
func (p *partition) row(i int64) int { return p.head + int(i-p.base) }

// find returns the position of the first kept row with an offset ≥ offset.
func (p *partition) find(offset int64) int {
	return p.head + sort.Search(len(p.offsets)-p.head, func(i int) bool { return p.offsets[p.head+i] >= offset })
}

// unscoredFrom returns the offset from which the model has to be scored, given that rows below
// from do not matter.
func (p *partition) unscoredFrom(version, from int64) int64 {
	c := p.losses[version]
	if c == nil {
		return from
	}
	p.settle(c)
	i := max(p.row(c.scored), p.find(max(from, c.cut)))
	for i < len(p.offsets) && !isUnscored(c.loss[i]) {
		i++
	}
	if i < len(p.offsets) {
		return p.offsets[i]
	}
	return max(from, c.cut, p.next)
}

// settle moves c's mark over the rows that need no scoring any more.
func (p *partition) settle(c *column) {
	c.scored = max(c.scored, p.base)
	for i := p.row(c.scored); i < len(c.loss) && (p.offsets[i] < c.cut || !isUnscored(c.loss[i])); i++ {
		c.scored++
	}
}

// append takes a new row, unscored by every model, and returns its position.
func (w *window) append(part int, offset int64, prior float32) int {
	p := &w.parts[part]
	p.offsets = append(p.offsets, offset)
	p.prior = append(p.prior, prior)
	for _, c := range p.losses {
		c.loss = append(c.loss, unscored)
	}
	w.order = append(w.order, int32(part))
	return len(p.offsets) - 1
}

// trim drops the oldest rows beyond the window's size.
func (w *window) trim() {
	for len(w.order)-w.head > w.size {
		p := &w.parts[w.order[w.head]]
		p.head++
		p.base++
		w.head++
		w.first++
		if p.head > 1024 && p.head > len(p.offsets)/2 {
			p.compact()
		}
	}
	if w.head > 1024 && w.head > len(w.order)/2 {
		w.order = append(w.order[:0], w.order[w.head:]...)
		w.head = 0
	}
}

func (p *partition) compact() {
	p.offsets = append(p.offsets[:0], p.offsets[p.head:]...)
	p.prior = append(p.prior[:0], p.prior[p.head:]...)
	for _, c := range p.losses {
		c.loss = append(c.loss[:0], c.loss[p.head:]...)
	}
	p.head = 0
}

// storable keeps a NaN that came in apart from unscored.
func storable(x float32) float32 {
	if x != x {
		return float32(math.NaN())
	}
	return x
}

// lower returns the offset of c in partition p, 0 beyond its length.
func lower(c tidemill.Cut, p int) int64 {
	if p < len(c) {
		return c[p]
	}
	return 0
}
