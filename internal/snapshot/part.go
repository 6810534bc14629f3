package snapshot

import (
	"context"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
)

// Kinds of blob.
const (
	KindTable      = "table"
	KindDense      = "dense"
	KindAux        = "aux"
	KindRemoved    = "removed"    // rows of a table that are gone
	KindTransforms = "transforms" // versions only, like those below
	KindSchema     = "schema"
	KindProbes     = "probes"
	KindExpected   = "expected"
)

// Blob is one stored file with what is needed to verify it.
type Blob struct {
	Name   string `json:"name"` // in the store
	Kind   string `json:"kind"`
	Table  string `json:"table,omitempty"` // of KindTable and KindRemoved
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Rows   int64  `json:"rows,omitempty"`
	// Shards, ascending, are those whose rows in the file count. The file of an older snapshot
	// can hold others too, which were written whole since.
	Shards []int `json:"shards,omitempty"`
	// ShardRows says how many rows of each of Shards the file has; tables only.
	ShardRows []int64 `json:"shard_rows,omitempty"`
}

// Part is what one parameter server contributes to a snapshot.
type Part struct {
	Shards []int `json:"shards"` // that the part is the whole state of, ascending
	// Blobs are tables in layout order, dense, aux; those without rows are left out. A table's
	// come in the order of their names, which is the order of the snapshots that wrote them:
	// of a row that several have for a shard, the last one counts.
	Blobs []Blob `json:"blobs"`
	// Digest of the shards' rows, blocks and aux named AuxTransforms.
	Digest Digest `json:"digest"`
	// Digests of each of Shards; they sum up to Digest.
	Digests []Digest `json:"digests,omitempty"`
}

// writers is how many blobs of a part are written at a time.
const writers = 4

// WritePart writes the state of shards under prefix and returns what the manifest needs to know
// of them. What a table's base holds is not written again, unless the shard has gathered so
// much on top of it that it is written whole (plan). Tables go into as many blobs as make
// pieces of groupBytes, all dense tensors into one, all aux into one.
//
// The same state gives the same bytes, whatever order rows and shards come in. Names are
// created, never replaced; a blob that is there already with the same bytes counts as
// written, so a WritePart that failed can be repeated. Nothing refers to the blobs until a
// manifest does: what is left by a failed WritePart is garbage, not damage.
//
// An image that does not fit the layout wraps tidemill.ErrInvalid, a name that is taken by
// other bytes tidemill.ErrExists. WritePart holds a few megabytes for each blob that is being
// written, and the ids of the shard that is in work.
func WritePart(ctx context.Context, b *blob.Bucket, prefix string, l Layout, shards []ShardImage) (Part, error) {
	if err := l.Validate(); err != nil {
		return Part{}, err
	}
	shards = slices.SortedFunc(slices.Values(shards), func(a, b ShardImage) int { return a.Shard - b.Shard })
	part := Part{Shards: make([]int, len(shards)), Digests: make([]Digest, len(shards))}
	for i, s := range shards {
		if s.Shard < 0 || s.Shard > 1<<16-1 {
			return Part{}, tidemill.Invalid("shard %d", "shards are 0 to 65535", s.Shard)
		}
		if i > 0 && s.Shard == shards[i-1].Shard {
			return Part{}, tidemill.Invalid("shard %d is given twice", "give each shard once", s.Shard)
		}
		if n := len(s.Tables); n != 0 && n != len(l.Tables) {
			return Part{}, tidemill.Invalid("shard %d has %d tables, the layout %d", "give all tables, or none", s.Shard, n, len(l.Tables))
		}
		part.Shards[i] = s.Shard
	}

	// One slot per blob keeps the order, and so the manifest, independent of who finishes first.
	tables := make([]tablePlan, len(l.Tables))
	rest := make([]Blob, 2)
	dense, aux := make([]Digest, len(shards)), make([]Digest, len(shards))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	g.Go(func() (err error) {
		rest[0], err = writeDense(gctx, b, prefix+"dense.arrow", l, shards, dense)
		return err
	})
	g.Go(func() (err error) {
		rest[1], err = writeAux(gctx, b, prefix+"aux.arrow", shards, aux)
		return err
	})
	memory := make(rowWriters, writers)
	for i, t := range l.Tables {
		tables[i] = planTable(t, i, prefix, shards)
		for _, p := range tables[i].pieces {
			g.Go(func() error { return p.write(gctx, b, t, tables[i].sums, memory) })
		}
	}
	if err := g.Wait(); err != nil {
		return Part{}, err
	}
	for i := range shards {
		sum := &part.Digests[i]
		sum.Add(dense[i])
		sum.Add(aux[i])
		for _, t := range tables {
			sum.Add(t.sums[i])
		}
		part.Digest.Add(*sum)
	}
	for _, t := range tables {
		part.Blobs = append(part.Blobs, t.blobs()...)
	}
	for _, blob := range rest {
		if blob.Rows > 0 {
			part.Blobs = append(part.Blobs, blob)
		}
	}
	return part, nil
}

// Base returns the blobs that hold the rows of a table in a shard, oldest first: what a
// TableImage has as its base once a manifest with p is committed.
func (p *Part) Base(shard int, table string) []Blob {
	var out []Blob
	for _, b := range p.Blobs {
		if (b.Kind == KindTable || b.Kind == KindRemoved) && b.Table == table && slices.Contains(b.Shards, shard) {
			out = append(out, b)
		}
	}
	return out
}

// denseBatch is how many blocks go into one record batch.
const denseBatch = 64

// writeDense also adds up the digest of each shard's blocks.
func writeDense(ctx context.Context, b *blob.Bucket, name string, l Layout, shards []ShardImage, digests []Digest) (Blob, error) {
	out := newArrowBlob(ctx, b, denseSchema(), Blob{Name: name, Kind: KindDense})
	return out.close(denseBatches(out, l, shards, digests))
}

func denseBatches(out *arrowBlob, l Layout, shards []ShardImage, digests []Digest) error {
	type key struct{ tensor, block int }
	seen := map[key]bool{}
	for i, s := range shards {
		blocks := slices.SortedFunc(slices.Values(s.Blocks), func(a, b Block) int {
			if a.Tensor != b.Tensor {
				return a.Tensor - b.Tensor
			}
			return a.Block - b.Block
		})
		for _, k := range blocks {
			if err := l.check(k); err != nil {
				return tidemill.Invalid("shard %d: %v", "give blocks as the layout says", s.Shard, err)
			}
			if seen[key{k.Tensor, k.Block}] {
				return tidemill.Invalid("block %d of tensor %q is given twice", "give each block once", k.Block, l.Tensors[k.Tensor].Name)
			}
			seen[key{k.Tensor, k.Block}] = true
			digests[i].AddBlock(tidemill.Hash(l.Tensors[k.Tensor].Name), k)
		}
		for chunk := range slices.Chunk(blocks, denseBatch) {
			if err := out.batch(s.Shard, denseColumns(l, s.Shard, chunk)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func denseColumns(l Layout, shard int, blocks []Block) []arrow.Array {
	n := len(blocks)
	var (
		shards                 = make([]uint16, n)
		names                  = make([][]byte, n)
		block                  = make([]int32, n)
		first                  = make([]int64, n)
		at                     = make([]uint64, n)
		weight, state, average = make([][]float32, n), make([][]float32, n), make([][]float32, n)
	)
	for i, k := range blocks {
		shards[i], names[i] = uint16(shard), []byte(l.Tensors[k.Tensor].Name)
		block[i], first[i], at[i] = int32(k.Block), int64(k.Block)*tidemill.BlockSize, k.At
		weight[i], state[i], average[i] = k.Weight, k.State, k.Average
	}
	return []arrow.Array{uint16s(shards), texts(arrow.BinaryTypes.String, names...), int32s(block), int64s(first),
		lists(weight), lists(state), lists(average), uint64s(at)}
}

func writeAux(ctx context.Context, b *blob.Bucket, name string, shards []ShardImage, digests []Digest) (Blob, error) {
	out := newArrowBlob(ctx, b, auxSchema(), Blob{Name: name, Kind: KindAux})
	return out.close(auxBatches(out, shards, digests))
}

// auxBatches writes one batch per entry: then the 2 GiB that Arrow's binary column can hold
// bound an entry, and not the sum of all.
func auxBatches(out *arrowBlob, shards []ShardImage, digests []Digest) error {
	for i, s := range shards {
		names := make([]string, 0, len(s.Aux))
		for name := range s.Aux {
			names = append(names, name)
		}
		slices.SortFunc(names, strings.Compare)
		for _, name := range names {
			data := s.Aux[name]
			if name == "" || len(name) > 256 || !utf8.ValidString(name) || int64(len(data)) > maxAux {
				return tidemill.Invalid("aux %q of shard %d has %d bytes", "name it with 1 to 256 bytes of UTF-8 and keep it below 1 GiB", clip(name), s.Shard, len(data))
			}
			if name == AuxTransforms {
				digests[i].AddAux(name, data)
			}
			err := out.batch(s.Shard, uint16s([]uint16{uint16(s.Shard)}),
				texts(arrow.BinaryTypes.String, []byte(name)), texts(arrow.BinaryTypes.Binary, data))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

const maxAux = 1 << 30
