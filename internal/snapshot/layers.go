package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// layer is one blob of a table, above those before it.
type layer struct {
	info  Blob
	fetch func(ctx context.Context) ([]byte, error) // verified bytes

	last int // of the wanted shards that count in it
	file *arrowFile
	// batches are the positions of the file's batches by shard; nil until the file is open.
	batches map[int][]int
}

// tableReader reads one table from its layers, oldest first.
type tableReader struct {
	layers []*layer
	page   tablePage   // of the lowest layer
	over   []tablePage // decoded batches of those above, oldest first
	refs   []rowRef
	ids    []uint64 // merged, about to be delivered
	rows   []float32
}

// rowRef is a row of a batch in over.
type rowRef struct {
	id          uint64
	page, index int32
}

// read delivers the rows of the wanted shards.
func (r *tableReader) read(ctx context.Context, t TableLayout, table int, want func(int) bool, sink Sink) error {
	counts := map[int][]*layer{}
	var shards []int
	for _, l := range r.layers {
		for _, s := range l.info.Shards {
			if !want(s) {
				continue
			}
			if counts[s] == nil {
				shards = append(shards, s)
			}
			counts[s] = append(counts[s], l)
			l.last = s
		}
	}
	slices.Sort(shards)
	for _, s := range shards {
		for _, l := range counts[s] {
			if err := l.open(ctx, t); err != nil {
				return err
			}
		}
		if err := r.shard(ctx, t, table, s, counts[s], sink); err != nil {
			return err
		}
		for _, l := range counts[s] {
			if l.last == s {
				l.file, l.batches = nil, nil
			}
		}
	}
	return nil
}

// open decodes enough of the file to know where each shard's rows are, and checks their number.
func (l *layer) open(ctx context.Context, t TableLayout) error {
	if l.batches != nil {
		return nil
	}
	data, err := l.fetch(ctx)
	if err != nil {
		return err
	}
	want := tableSchema(t)
	if l.info.Kind == KindRemoved {
		want = removedSchema(t.Name)
	}
	if l.file, err = openArrow(data, want); err != nil {
		return corrupt(l.info.Name, "%v", err)
	}
	l.batches = map[int][]int{}
	rows := map[int]int64{}
	var total int64
	for i := range l.file.batches() {
		if err := ctx.Err(); err != nil {
			return err
		}
		shard, n := 0, 0
		err := l.file.read(i, func(rec arrow.RecordBatch) error {
			if n = int(rec.NumRows()); n > 0 {
				shard = int(rec.Column(0).(*array.Uint16).Value(0))
			}
			return nil
		})
		if err != nil {
			return corrupt(l.info.Name, "%v", err)
		}
		if n == 0 {
			continue
		}
		total += int64(n)
		rows[shard] += int64(n)
		l.batches[shard] = append(l.batches[shard], i)
	}
	if total != l.info.Rows {
		return corrupt(l.info.Name, "it has %d rows, and %d were written", total, l.info.Rows)
	}
	for i, n := range l.info.ShardRows {
		if s := l.info.Shards[i]; rows[s] != n {
			return corrupt(l.info.Name, "it has %d rows of shard %d, and %d were written", rows[s], s, n)
		}
	}
	return nil
}

// decode reads one batch of the layer into p.
func (l *layer) decode(p *tablePage, i int, t TableLayout) error {
	err := l.file.read(i, func(rec arrow.RecordBatch) error {
		if l.info.Kind == KindRemoved {
			return p.decodeIDs(rec)
		}
		return p.decode(rec, t)
	})
	if err != nil {
		return corrupt(l.info.Name, "%v", err)
	}
	return nil
}

// shard delivers one shard's rows from the layers that count for it.
func (r *tableReader) shard(ctx context.Context, t TableLayout, table, shard int, layers []*layer, sink Sink) error {
	if err := r.overlay(layers, shard, t); err != nil {
		return err
	}
	low := layers[0]
	if low.info.Kind == KindRemoved {
		return corrupt(low.info.Name, "it takes rows away from shard %d, and nothing holds any", shard)
	}
	width, limit := t.Width(), batchRows(t.Width())
	r.ids, r.rows = r.ids[:0], r.rows[:0]
	flush := func() error {
		if len(r.ids) == 0 {
			return nil
		}
		err := sink.Rows(shard, table, r.ids, r.rows)
		r.ids, r.rows = r.ids[:0], r.rows[:0]
		return err
	}
	put := func(id uint64, row []float32) error {
		r.ids, r.rows = append(r.ids, id), append(r.rows, row...)
		if len(r.ids) == limit {
			return flush()
		}
		return nil
	}
	// upTo delivers what the upper layers have below id, and whether they have id itself.
	next := 0
	upTo := func(id uint64, end bool) (bool, error) {
		for ; next < len(r.refs) && (end || r.refs[next].id <= id); next++ {
			ref := r.refs[next]
			if rows := r.over[ref.page].rows; rows != nil {
				if err := put(ref.id, rows[int(ref.index)*width:(int(ref.index)+1)*width]); err != nil {
					return false, err
				}
			}
			if !end && ref.id == id {
				next++
				return true, nil
			}
		}
		return false, nil
	}
	var last uint64
	for k, i := range low.batches[shard] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := low.decode(&r.page, i, t); err != nil {
			return err
		}
		if k > 0 && r.page.ids[0] <= last {
			return corrupt(low.info.Name, "rows of shard %d are out of order", shard)
		}
		last = r.page.ids[len(r.page.ids)-1]
		if len(r.refs) == 0 {
			if err := sink.Rows(shard, table, r.page.ids, r.page.rows); err != nil {
				return err
			}
			continue
		}
		for j, id := range r.page.ids {
			over, err := upTo(id, false)
			if err == nil && !over {
				err = put(id, r.page.rows[j*width:(j+1)*width])
			}
			if err != nil {
				return err
			}
		}
	}
	if _, err := upTo(0, true); err != nil {
		return err
	}
	return flush()
}

// overlay decodes what the upper layers have of a shard; refs are its rows by ascending id, of
// each the newest.
func (r *tableReader) overlay(layers []*layer, shard int, t TableLayout) error {
	r.refs = r.refs[:0]
	pages := 0
	for _, l := range layers[1:] {
		for _, i := range l.batches[shard] {
			if pages == len(r.over) {
				r.over = append(r.over, tablePage{})
			}
			p := &r.over[pages]
			if err := l.decode(p, i, t); err != nil {
				return err
			}
			for k, id := range p.ids {
				r.refs = append(r.refs, rowRef{id, int32(pages), int32(k)})
			}
			pages++
		}
	}
	slices.SortFunc(r.refs, func(a, b rowRef) int {
		switch {
		case a.id != b.id && a.id < b.id:
			return -1
		case a.id != b.id:
			return 1
		}
		return int(b.page) - int(a.page)
	})
	r.refs = slices.CompactFunc(r.refs, func(a, b rowRef) bool { return a.id == b.id })
	return nil
}

// tablePage is one decoded batch of a table; its rows are reused for the next. rows is nil
// where the batch says that the rows are gone.
type tablePage struct {
	shard int
	ids   []uint64
	rows  []float32
	spare []float32 // rows to be
}

// decodeIDs reads a batch of rows that are gone.
func (p *tablePage) decodeIDs(rec arrow.RecordBatch) error {
	if p.rows != nil {
		p.spare, p.rows = p.rows, nil
	}
	return p.head(rec)
}

// head reads shard and ids, of which there are some.
func (p *tablePage) head(rec arrow.RecordBatch) error {
	n := int(rec.NumRows())
	shards := rec.Column(0).(*array.Uint16).Uint16Values()
	p.ids = rec.Column(1).(*array.Uint64).Uint64Values()
	p.shard = int(shards[0])
	for i := 1; i < n; i++ {
		if shards[i] != shards[0] || p.ids[i] <= p.ids[i-1] {
			return fmt.Errorf("%w: a batch holds rows of two shards, or out of order", errShape)
		}
	}
	return nil
}

func (p *tablePage) decode(rec arrow.RecordBatch, t TableLayout) error {
	if err := p.head(rec); err != nil {
		return err
	}
	n := len(p.ids)
	weight := vectorValues(rec.Column(2), t.Dim)
	var state, average []float32
	var at []uint64
	column := 3
	if t.State > 0 {
		state = vectorValues(rec.Column(column), t.State)
		column++
	}
	if t.Average {
		average = vectorValues(rec.Column(column), t.Dim)
		at = rec.Column(column + 1).(*array.Uint64).Uint64Values()
		column += 2
	}
	var uses []uint32
	if t.Uses {
		uses = rec.Column(column).(*array.Uint32).Uint32Values()
	}
	width := t.Width()
	if p.rows == nil {
		p.rows, p.spare = p.spare, nil
	}
	p.rows = slices.Grow(p.rows[:0], n*width)[:n*width]
	for i := range n {
		row := p.rows[i*width : (i+1)*width]
		copy(t.Weight(row), weight[i*t.Dim:(i+1)*t.Dim])
		copy(t.StateOf(row), state[i*t.State:(i+1)*t.State])
		if t.Average {
			copy(t.AverageOf(row), average[i*t.Dim:(i+1)*t.Dim])
			t.PutAt(row, at[i])
		}
		if t.Uses {
			t.PutUses(row, uses[i])
		}
	}
	return nil
}
