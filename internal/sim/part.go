package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps"
)

// since is what a ps knows of a shard's rows in comparison with the last snapshots, as
// ps.table's since is: which rows changed, and what those that did not are stored in.
type since struct {
	rows  map[uint64]bool // changed since the last capture
	base  []snapshot.Blob // of the last committed snapshot, oldest first
	known bool            // else everything must be written
	tried *tried
}

// tried is a capture that is not known to be committed yet.
type tried struct {
	rows  map[uint64]bool // that differ from the base
	wrote []snapshot.Blob
	done  bool // it was written
}

func newSince() *since { return &since{rows: map[uint64]bool{}} }

// loadedFrom says that the rows are those of a committed snapshot.
func loadedFrom(base []snapshot.Blob) *since {
	return &since{rows: map[uint64]bool{}, base: base, known: true}
}

// clone returns what another ps takes over; nothing changes what was captured any more.
func (s *since) clone() *since {
	out := *s
	out.rows = maps.Clone(s.rows)
	if s.tried != nil {
		t := *s.tried
		out.tried = &t
	}
	return &out
}

// settle says what became of the capture before.
func (s *since) settle(base ps.Base) {
	t := s.tried
	s.tried = nil
	switch {
	case base == ps.NoBase, base == ps.LastBase && t != nil && !t.done:
		*s = *newSince()
	case t == nil:
	case base == ps.LastBase:
		s.base, s.known = t.wrote, true
	case s.known:
		maps.Copy(s.rows, t.rows)
	}
}

// mark is one shard as it was captured.
type mark struct {
	shard shard
	tried *tried
	base  []snapshot.Blob
	known bool
}

// take begins the next capture of a settled shard.
func (s *since) take(state shard) mark {
	s.tried = &tried{rows: s.rows}
	s.rows = map[uint64]bool{}
	return mark{state.clone(), s.tried, s.base, s.known}
}

// limits make shards be written whole about as often, by their size, as real ones are.
var limits = snapshot.Limits{Layers: 5, Spread: 3, Slack: 100}

// rowCost is about what a row takes in a part's blob.
const rowCost = 10

// encode writes rows of shards as a part's blob: number of shards, and for each its number, its
// number of rows, and id, count, value of each row, ascending.
func encode(shards map[int]mark, rows map[int][]uint64) []byte {
	b := binary.AppendUvarint(nil, uint64(len(rows)))
	for _, i := range sortedKeys(rows) {
		s := shards[i].shard
		b = binary.AppendUvarint(b, uint64(i))
		b = binary.AppendUvarint(b, uint64(len(rows[i])))
		for _, id := range rows[i] {
			b = binary.AppendUvarint(b, id)
			b = binary.AppendUvarint(b, uint64(s.count[id]))
			b = binary.LittleEndian.AppendUint64(b, s.value[id])
		}
	}
	return b
}

// decode reads what encode wrote into those shards of out that want names.
func decode(b []byte, out []shard, want func(int) bool) error {
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

// writePart stores what changed of shards, on top of what is stored already, under a prefix, as
// snapshot.WritePart does: which shards are written whole is decided by the same code, and a name
// that has the same bytes already counts as written.
func writePart(ctx context.Context, b *blob.Bucket, prefix string, shards map[int]mark) (snapshot.Part, error) {
	p := snapshot.Part{Shards: sortedKeys(shards)}
	var in []snapshot.Compaction
	for _, i := range p.Shards {
		m := shards[i]
		c := snapshot.Compaction{Shard: i, Rows: int64(len(m.shard.count)), Changed: int64(len(m.tried.rows))}
		if m.known {
			c.Base = m.base
		}
		in = append(in, c)
		d := digestOf(m.shard)
		p.Digests = append(p.Digests, d)
		p.Digest.Add(d)
	}
	rows := map[int][]uint64{}
	own := snapshot.Blob{Name: prefix + "counts.arrow", Kind: snapshot.KindTable, Table: tableName} // a collector knows blobs by this ending
	for k, whole := range limits.Compact(rowCost, in) {
		c := in[k]
		ids := sortedKeys(shards[c.Shard].tried.rows)
		if whole {
			ids = sortedKeys(shards[c.Shard].shard.count)
		} else {
			p.Blobs = snapshot.KeepBlobs(p.Blobs, c.Base, c.Shard)
		}
		if len(ids) > 0 {
			rows[c.Shard] = ids
			own.Rows += int64(len(ids))
			own.Shards, own.ShardRows = append(own.Shards, c.Shard), append(own.ShardRows, int64(len(ids)))
		}
	}
	if own.Rows > 0 {
		data := encode(shards, rows)
		sum := sha256.Sum256(data)
		own.Bytes, own.SHA256 = int64(len(data)), hex.EncodeToString(sum[:])
		if err := writeOnce(ctx, b, own.Name, data); err != nil {
			return snapshot.Part{}, err
		}
		p.Blobs = append(p.Blobs, own)
	}
	slices.SortFunc(p.Blobs, func(a, b snapshot.Blob) int { return strings.Compare(a.Name, b.Name) })
	return p, nil
}

// tableName is the only table of the counting job.
const tableName = "counts"

// writeOnce creates a blob, or finds it written.
func writeOnce(ctx context.Context, b *blob.Bucket, name string, data []byte) error {
	err := b.WriteAll(ctx, name, data, &blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: true})
	if err == nil {
		return nil
	}
	was, rerr := b.ReadAll(ctx, name)
	switch {
	case rerr == nil && string(was) == string(data):
		return nil
	case rerr == nil:
		return fmt.Errorf("blob %s: %w", name, tidemill.ErrExists)
	case errors.Is(err, tidemill.ErrFull):
		return err
	}
	return fmt.Errorf("write %s: %w: %w", name, tidemill.ErrUnavailable, err)
}

func digestOf(s shard) (d snapshot.Digest) {
	for id, v := range s.value {
		d.AddAux("", binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, id), v))
	}
	return d
}

// readParts reads the wanted shards of a snapshot, as snapshot.ReadParts does and the servers
// after it: size and hash of every blob are verified first, later layers count before earlier
// ones, and every shard must come to the digest that the manifest says.
func readParts(ctx context.Context, b *blob.Bucket, parts []snapshot.Part, n int, want func(int) bool) ([]shard, error) {
	out := emptyShards(n)
	for _, p := range parts {
		for _, info := range p.Blobs {
			if !slices.ContainsFunc(info.Shards, want) {
				continue
			}
			data, err := b.ReadAll(ctx, info.Name)
			if gcerrors.Code(err) == gcerrors.NotFound {
				return nil, fmt.Errorf("blob %s is %w: it is missing", info.Name, tidemill.ErrCorrupt)
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w: %w", info.Name, tidemill.ErrUnavailable, err)
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != info.SHA256 {
				return nil, fmt.Errorf("blob %s is %w", info.Name, tidemill.ErrCorrupt)
			}
			err = decode(data, out, func(i int) bool { return want(i) && slices.Contains(info.Shards, i) })
			if err != nil {
				return nil, err
			}
		}
		for k, i := range p.Shards {
			if d := digestOf(out[i]); want(i) && d != p.Digests[k] {
				return nil, fmt.Errorf("shard %d is %w: its layers come to digest %s, and the manifest says %s", i, tidemill.ErrCorrupt, d, p.Digests[k])
			}
		}
	}
	return out, nil
}
