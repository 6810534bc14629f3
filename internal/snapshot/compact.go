package snapshot

// Every snapshot writes the rows that changed. What was written before stays in use until
// restoring would read too much of it; then a shard is written whole, and what it had is no
// longer needed by it.

// rowBytes is what a row of a table costs in a file.
func rowBytes(t TableLayout) int64 { return 4*int64(t.Width()) + 10 }

// compaction is what compact looks at, of one shard and table.
type compaction struct {
	shard         int
	rows, changed int64
	base          []Blob
}

const (
	// maxLayers bounds the blobs that hold one shard of a table; shard s may have maxLayers plus
	// s mod layerSpread, so that shards do not reach the bound together.
	maxLayers, layerSpread = 48, 16
	// compactSlack is what a table may have beyond twice its live size: files have a size
	// without rows too.
	compactSlack = 256 << 10
	// smallTable is the live size below which a table is always written whole: a file costs more
	// than that many bytes.
	smallTable = 64 << 10
)

// compact decides which shards of a table are written whole, by rows of rowBytes:
//
//   - those without a base,
//   - those whose changes since they were last whole reach their live size, or half of it: the
//     share differs from shard to shard, so that they are not all due in the same snapshot,
//   - those with too many layers,
//   - all of them, if the table is small, or if otherwise what a restore of the table reads (every blob that is kept, to its
//     full size) were more than twice what is live.
func compact(rowBytes int64, shards []compaction) []bool {
	whole := make([]bool, len(shards))
	var live int64
	for i, c := range shards {
		size := c.rows * rowBytes
		live += size
		changes := c.changed * rowBytes
		for k := 1; k < len(c.base); k++ {
			b := &c.base[k]
			if n, ok := b.rowsOf(c.shard); ok && b.Rows > 0 {
				changes += int64(float64(b.Bytes) * float64(n) / float64(b.Rows))
			} else {
				changes += b.Bytes / int64(max(1, len(b.Shards)))
			}
		}
		whole[i] = len(c.base) == 0 || float64(changes) >= dueAt(c.shard)*float64(size) ||
			len(c.base) >= maxLayers+c.shard%layerSpread
	}
	var read int64
	counted := map[string]bool{}
	for i, c := range shards {
		if whole[i] {
			read += c.rows * rowBytes
			continue
		}
		read += c.changed * rowBytes
		for k := range c.base {
			if b := &c.base[k]; !counted[b.Name] {
				counted[b.Name] = true
				read += b.Bytes
			}
		}
	}
	if live < smallTable || read > 2*live+compactSlack {
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
