package snapshot

// Every snapshot writes the rows that changed. What was written before stays in use until
// restoring would read too much of it; then a shard is written whole, and what it had is no
// longer needed by it.

// rowBytes is what a row of a table costs in a file.
func rowBytes(t TableLayout) int64 { return 4*int64(t.Width()) + 10 }

// Compaction is what Limits.Compact looks at, of one shard and table.
type Compaction struct {
	Shard         int
	Rows, Changed int64
	Base          []Blob
}

// Limits say when what was written before is written again.
type Limits struct {
	// Layers bounds the blobs that hold one shard of a table; shard s may have Layers plus
	// s mod Spread, so that shards do not reach the bound together.
	Layers, Spread int
	// Slack, in bytes, is what a table may have beyond twice its live size: files have a size
	// without rows too.
	Slack int64
	// Small is the live size in bytes below which a table is always written whole: a file costs
	// more than that.
	Small int64
}

// limits are those that WritePart keeps to.
var limits = Limits{Layers: 48, Spread: 16, Slack: 256 << 10, Small: 64 << 10}

// Compact decides which shards of a table are written whole, by rows of rowBytes:
//
//   - those without a base,
//   - those whose changes since they were last whole reach their live size, or half of it: the
//     share differs from shard to shard, so that they are not all due in the same snapshot,
//   - those with too many layers,
//   - all of them, if the table is small, or if otherwise what a restore of the table reads (every blob that is kept, to its
//     full size) were more than twice what is live.
func (l Limits) Compact(rowBytes int64, shards []Compaction) []bool {
	whole := make([]bool, len(shards))
	var live int64
	for i, c := range shards {
		size := c.Rows * rowBytes
		live += size
		changes := c.Changed * rowBytes
		for k := 1; k < len(c.Base); k++ {
			b := &c.Base[k]
			if n, ok := b.rowsOf(c.Shard); ok && b.Rows > 0 {
				changes += int64(float64(b.Bytes) * float64(n) / float64(b.Rows))
			} else {
				changes += b.Bytes / int64(max(1, len(b.Shards)))
			}
		}
		whole[i] = len(c.Base) == 0 || float64(changes) >= dueAt(c.Shard)*float64(size) ||
			len(c.Base) >= l.Layers+c.Shard%l.Spread
	}
	var read int64
	counted := map[string]bool{}
	for i, c := range shards {
		if whole[i] {
			read += c.Rows * rowBytes
			continue
		}
		read += c.Changed * rowBytes
		for k := range c.Base {
			if b := &c.Base[k]; !counted[b.Name] {
				counted[b.Name] = true
				read += b.Bytes
			}
		}
	}
	if live < l.Small || read > 2*live+l.Slack {
		for i := range whole {
			whole[i] = true
		}
	}
	return whole
}

// dueAt spreads shards evenly over [0.5, 1): multiples of the golden ratio, modulo 1.
func dueAt(shard int) float64 {
	return 0.5 + 0.5*float64(uint32(shard)*2654435769)/(1<<32)
}
