package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
)

// Sink receives the state that ReadParts reads, from one goroutine. It may keep no slice
// beyond the call, except data of Aux, which becomes its own. An error stops the reading and
// is returned as it is.
type Sink interface {
	// Rows receives rows of a table (its position in the layout) that belong to one shard:
	// ids, ascending, and rows, [len(ids) × Width].
	Rows(shard, table int, ids []uint64, rows []float32) error
	Block(shard int, b Block) error
	Aux(shard int, name string, data []byte) error
}

const (
	readers = 4
	// keepBytes is how much of what was verified is kept in memory for its second use; the
	// rest is fetched, and verified, again.
	keepBytes = 256 << 20
)

// ReadParts delivers the state of those shards for which want returns true (nil: of all) to
// sink. Blobs without such shards are not touched. Where several blobs hold a row, the last
// one counts.
//
// Size and SHA-256 of every blob involved are verified before the first value is delivered.
// One that is missing or damaged wraps tidemill.ErrCorrupt and is named; so does a blob that
// does not fit the layout, and then, and after any other error, what sink has received is
// incomplete. Rows come by table, shard and ascending id.
//
// Held in memory are 256 MiB of what was verified and, of the table that is being read, the
// blobs that hold the shard in work.
func ReadParts(ctx context.Context, b *blob.Bucket, parts []Part, l Layout, want func(shard int) bool, sink Sink) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if want == nil {
		want = func(int) bool { return true }
	}
	wanted, err := checkParts(parts, want)
	if err != nil {
		return err
	}
	s := &store{bucket: b, kept: make([][]byte, len(wanted))}
	budget := int64(keepBytes)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, info := range wanted {
		keep := info.Bytes <= budget
		if keep {
			budget -= info.Bytes
		}
		g.Go(func() error {
			data, err := fetch(gctx, b, info)
			if keep {
				s.kept[i] = data
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}

	tables := make([]tableReader, len(l.Tables))
	for i, info := range wanted {
		if info.Kind != KindTable && info.Kind != KindRemoved {
			continue
		}
		table := slices.IndexFunc(l.Tables, func(t TableLayout) bool { return t.Name == info.Table })
		if table < 0 {
			return corrupt(info.Name, "it holds table %q, which the layout lacks", clip(info.Table))
		}
		tables[table].layers = append(tables[table].layers, &layer{info: info, fetch: func(ctx context.Context) ([]byte, error) { return s.get(ctx, i, info) }})
	}
	for table, r := range tables {
		if err := r.read(ctx, l.Tables[table], table, want, sink); err != nil {
			return err
		}
	}
	for i, info := range wanted {
		if info.Kind == KindTable || info.Kind == KindRemoved {
			continue
		}
		data, err := s.get(ctx, i, info)
		if err != nil {
			return err
		}
		if err := deliver(ctx, info, data, l, want, sink); err != nil {
			return err
		}
	}
	return nil
}

// store gives out what was verified, once.
type store struct {
	bucket *blob.Bucket
	kept   [][]byte
}

func (s *store) get(ctx context.Context, i int, info Blob) ([]byte, error) {
	if data := s.kept[i]; data != nil {
		s.kept[i] = nil
		return data, nil
	}
	return fetch(ctx, s.bucket, info)
}

// checkParts returns the blobs that hold wanted shards, in order. A shard that two parts
// claim, or a blob with a shard that its part does not have, is corruption.
func checkParts(parts []Part, want func(int) bool) ([]Blob, error) {
	var out []Blob
	owner := map[int]bool{}
	for _, p := range parts {
		mine := map[int]bool{}
		for _, s := range p.Shards {
			if owner[s] {
				return nil, fmt.Errorf("snapshot is %w: two parts hold shard %d", tidemill.ErrCorrupt, s)
			}
			owner[s], mine[s] = true, true
		}
		for _, info := range p.Blobs {
			for i, s := range info.Shards {
				if !mine[s] {
					return nil, corrupt(info.Name, "it holds shard %d, and its part does not", s)
				}
				if i > 0 && s <= info.Shards[i-1] {
					return nil, corrupt(info.Name, "its shards are not ascending")
				}
			}
			if n := len(info.ShardRows); n != 0 && n != len(info.Shards) {
				return nil, corrupt(info.Name, "it has %d shards and %d counts of rows", len(info.Shards), n)
			}
			if slices.ContainsFunc(info.Shards, want) {
				out = append(out, info)
			}
		}
	}
	return out, nil
}

// deliver decodes one verified blob by itself.
func deliver(ctx context.Context, info Blob, data []byte, l Layout, want func(int) bool, sink Sink) error {
	var rows int64
	var err error
	switch info.Kind {
	case KindTable:
		table := slices.IndexFunc(l.Tables, func(t TableLayout) bool { return t.Name == info.Table })
		if table < 0 {
			return corrupt(info.Name, "it holds table %q, which the layout lacks", clip(info.Table))
		}
		r := tableReader{layers: []*layer{{info: info, fetch: func(context.Context) ([]byte, error) { return data, nil }}}}
		return r.read(ctx, l.Tables[table], table, want, sink)
	case KindDense:
		rows, err = readDense(ctx, info, data, l, want, sink)
	case KindAux:
		rows, err = readAux(ctx, info, data, want, sink)
	default:
		return corrupt(info.Name, "kind %q is not known", clip(info.Kind))
	}
	if err == nil && rows != info.Rows {
		return corrupt(info.Name, "it has %d rows, and %d were written", rows, info.Rows)
	}
	return err
}

// readDense delivers blocks and returns how many the file has.
func readDense(ctx context.Context, info Blob, data []byte, l Layout, want func(int) bool, sink Sink) (int64, error) {
	f, err := openArrow(data, denseSchema())
	if err != nil {
		return 0, corrupt(info.Name, "%v", err)
	}
	position := map[string]int{}
	for i, t := range l.Tensors {
		position[t.Name] = i
	}
	var total int64
	var shards []uint16
	var blocks []Block
	for i := range f.batches() {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		err := f.read(i, func(rec arrow.RecordBatch) (err error) {
			shards = rec.Column(0).(*array.Uint16).Uint16Values()
			blocks, err = decodeBlocks(blocks[:0], rec, l, position)
			return err
		})
		if err != nil {
			return 0, corrupt(info.Name, "%v", err)
		}
		total += int64(len(blocks))
		for i, b := range blocks {
			s := int(shards[i])
			if !want(s) {
				continue
			}
			if !slices.Contains(info.Shards, s) {
				return 0, corrupt(info.Name, "it holds shard %d, which its entry lacks", s)
			}
			if err := sink.Block(s, b); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func decodeBlocks(dst []Block, rec arrow.RecordBatch, l Layout, position map[string]int) ([]Block, error) {
	names := rec.Column(1).(*array.String)
	block := rec.Column(2).(*array.Int32).Int32Values()
	first := rec.Column(3).(*array.Int64).Int64Values()
	at := rec.Column(7).(*array.Uint64).Uint64Values()
	for i := range int(rec.NumRows()) {
		tensor, ok := position[names.Value(i)]
		if !ok {
			return nil, fmt.Errorf("it holds tensor %q, which the layout lacks", clip(names.Value(i)))
		}
		b := Block{Tensor: tensor, Block: int(block[i]), At: at[i],
			Weight: listValues(rec.Column(4), i), State: listValues(rec.Column(5), i), Average: listValues(rec.Column(6), i)}
		if err := l.check(b); err != nil {
			return nil, err
		}
		if first[i] != int64(b.Block)*tidemill.BlockSize {
			return nil, fmt.Errorf("block %d of tensor %q begins at %d", b.Block, l.Tensors[tensor].Name, first[i])
		}
		dst = append(dst, b)
	}
	return dst, nil
}

// readAux delivers named bytes and returns how many entries the file has.
func readAux(ctx context.Context, info Blob, data []byte, want func(int) bool, sink Sink) (int64, error) {
	f, err := openArrow(data, auxSchema())
	if err != nil {
		return 0, corrupt(info.Name, "%v", err)
	}
	type entry struct {
		shard int
		name  string
		data  []byte
	}
	var total int64
	var entries []entry
	for i := range f.batches() {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		err := f.read(i, func(rec arrow.RecordBatch) error {
			shards, names, bytes := rec.Column(0).(*array.Uint16), rec.Column(1).(*array.String), rec.Column(2).(*array.Binary)
			entries = entries[:0]
			for i := range int(rec.NumRows()) {
				entries = append(entries, entry{int(shards.Value(i)), names.Value(i), bytes.Value(i)})
			}
			return nil
		})
		if err != nil {
			return 0, corrupt(info.Name, "%v", err)
		}
		total += int64(len(entries))
		for _, e := range entries {
			if !want(e.shard) {
				continue
			}
			if !slices.Contains(info.Shards, e.shard) {
				return 0, corrupt(info.Name, "it holds shard %d, which its entry lacks", e.shard)
			}
			// Copied, so that keeping a few bytes does not keep the file.
			if err := sink.Aux(e.shard, strings.Clone(e.name), slices.Clone(e.data)); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}
