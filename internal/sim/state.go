package sim

import (
	"maps"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// The names of the simulated job and its model.
const (
	jobName   = "job"
	modelName = "job"
)

// shard is the counting job's parameters: how often an id was seen, and a value that depends
// on every step that touched it.
type shard struct {
	count map[uint64]int64
	value map[uint64]uint64
}

func newShard() shard { return shard{map[uint64]int64{}, map[uint64]uint64{}} }

func (s shard) clone() shard { return shard{maps.Clone(s.count), maps.Clone(s.value)} }

func emptyShards(n int) []shard {
	out := make([]shard, n)
	for i := range out {
		out[i] = newShard()
	}
	return out
}

// pull reads one occurrence of an id.
func (s shard) pull(id uint64) uint64 { return tidemill.Mix(s.value[id] ^ id) }

// apply applies a gradient to the i-th row of a batch.
func (s shard) apply(id, grad uint64, i int) {
	s.count[id]++
	s.value[id] = tidemill.Mix(s.value[id] + grad + uint64(i))
}

// gradientOf is the gradient of a batch: it depends on what was pulled, as a real one does.
func gradientOf(pulled uint64, first int64, partition int) uint64 {
	return tidemill.Mix(pulled + uint64(first)*7 + uint64(partition))
}

// entry is a committed snapshot as its blobs hold it.
type entry struct {
	manifest *snapshot.Manifest
	shards   []shard
}

func everything(int) bool { return true }
