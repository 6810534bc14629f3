package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"

	"gocloud.dev/blob"

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

// encodeShards writes shards as a part's blob: number of shards, and for each its number, its
// number of rows, and id, count, value of each row, ascending.
func encodeShards(shards map[int]shard) []byte {
	b := binary.AppendUvarint(nil, uint64(len(shards)))
	for _, i := range sortedKeys(shards) {
		s := shards[i]
		b = binary.AppendUvarint(b, uint64(i))
		b = binary.AppendUvarint(b, uint64(len(s.count)))
		for _, id := range sortedKeys(s.count) {
			b = binary.AppendUvarint(b, id)
			b = binary.AppendUvarint(b, uint64(s.count[id]))
			b = binary.LittleEndian.AppendUint64(b, s.value[id])
		}
	}
	return b
}

// decodeShards reads what encodeShards wrote into those shards of out that want names.
func decodeShards(b []byte, out []shard, want func(int) bool) error {
	bad := fmt.Errorf("a part's blob ends early: %w", tidemill.ErrCorrupt)
	num := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			b = nil
			return 0
		}
		b = b[n:]
		return v
	}
	for n := num(); n > 0; n-- {
		i, rows := num(), num()
		for ; rows > 0; rows-- {
			id, count := num(), num()
			if len(b) < 8 {
				return bad
			}
			if int(i) < len(out) && want(int(i)) {
				out[i].count[id], out[i].value[id] = int64(count), binary.LittleEndian.Uint64(b)
			}
			b = b[8:]
		}
	}
	return nil
}

// writePart stores shards under a prefix, as snapshot.WritePart does: a name that has the same
// bytes already counts as written.
func writePart(ctx context.Context, b *blob.Bucket, prefix string, shards map[int]shard) (snapshot.Part, error) {
	data := encodeShards(shards)
	sum := sha256.Sum256(data)
	name := prefix + "counts.arrow" // a collector knows blobs by this ending
	err := b.WriteAll(ctx, name, data, &blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: true})
	if err != nil {
		was, rerr := b.ReadAll(ctx, name)
		switch {
		case rerr == nil && string(was) == string(data):
		case rerr == nil:
			return snapshot.Part{}, fmt.Errorf("blob %s: %w", name, tidemill.ErrExists)
		case errors.Is(err, tidemill.ErrFull):
			return snapshot.Part{}, err
		default:
			return snapshot.Part{}, fmt.Errorf("write %s: %w: %w", name, tidemill.ErrUnavailable, err)
		}
	}
	p := snapshot.Part{Shards: sortedKeys(shards)}
	p.Blobs = []snapshot.Blob{{
		Name: name, Kind: snapshot.KindTable, Table: "counts", Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Shards: p.Shards,
	}}
	for _, i := range p.Shards {
		var d snapshot.Digest
		for id, v := range shards[i].value {
			d.AddAux("", binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, id), v))
		}
		p.Digests = append(p.Digests, d)
		p.Digest.Add(d)
	}
	return p, nil
}

// readParts reads the wanted shards of a snapshot, as snapshot.ReadParts does: size and hash of
// every blob are verified first.
func readParts(ctx context.Context, b *blob.Bucket, parts []snapshot.Part, n int, want func(int) bool) ([]shard, error) {
	out := emptyShards(n)
	for _, p := range parts {
		for _, info := range p.Blobs {
			data, err := b.ReadAll(ctx, info.Name)
			if err != nil {
				return nil, fmt.Errorf("blob %s is %w: it is missing", info.Name, tidemill.ErrCorrupt)
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != info.SHA256 {
				return nil, fmt.Errorf("blob %s is %w", info.Name, tidemill.ErrCorrupt)
			}
			if err := decodeShards(data, out, want); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func everything(int) bool { return true }
