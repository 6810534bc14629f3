package ps

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
)

// capture is the state of this ps's shards at a cut.
type capture struct {
	shards   []snapshot.ShardImage
	tables   []capturedTable
	home     *wire.Home
	examples int64
	layout   snapshot.Layout
	attempt  int64
}

// capturedTable is a table with what was captured of it.
type capturedTable struct {
	shard int
	table *table
	image tableImage
}

// capture freezes the state. It copies what is small (blocks are shared until they change) and
// nothing of the rows, so it takes as long for a large table as for a small one. mu is held.
func (j *job) capture(base Base, attempt int64) (*capture, error) {
	j.settle(base)
	c := &capture{layout: j.model.Layout, examples: j.core.Examples(), attempt: attempt}
	for _, s := range j.owned {
		img := snapshot.ShardImage{Shard: s.number, Aux: map[string][]byte{}}
		n := counts{Overflow: make([]int64, len(s.tables))}
		for i, t := range s.tables {
			ti, rows := t.freeze(&j.mu)
			img.Tables = append(img.Tables, ti)
			c.tables = append(c.tables, capturedTable{s.number, t, rows})
			n.Overflow[i] = t.overflow
		}
		maps.Copy(img.Aux, s.admissions())
		if slices.ContainsFunc(n.Overflow, func(v int64) bool { return v != 0 }) {
			data, err := json.Marshal(&n)
			if err != nil {
				return nil, err
			}
			img.Aux[auxCounts] = data
		}
		for _, b := range s.blocks {
			b.shared = true
			img.Blocks = append(img.Blocks, b.Block)
		}
		if s.home != nil {
			aux, home, err := s.home.capture()
			if err != nil {
				return nil, err
			}
			for name, data := range aux {
				img.Aux[name] = data
			}
			c.home = home
		}
		c.shards = append(c.shards, img)
	}
	return c, nil
}

// settle tells every table what its next capture is written on top of. mu is held.
func (j *job) settle(base Base) {
	for _, s := range j.owned {
		for _, t := range s.tables {
			if base == NoBase {
				t.since.forget()
			}
			t.since.settle(base == LastBase)
		}
	}
}

// release lets go of what a capture froze. It may be called again.
func (j *job) release(c *capture) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range c.tables {
		t.image.release()
	}
}

// wrote notes what is stored of a capture, for when it is committed.
func (j *job) wrote(c *capture, part *snapshot.Part) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, t := range c.tables {
		t.image.tried.wrote = &base{blobs: part.Base(t.shard, t.table.layout.Name), digest: t.image.tried.sum}
	}
}

// loader fills shards that are not yet visible to anyone from a snapshot's parts.
type loader struct {
	model  *model.Model
	shards []*shard
	rows   [][]snapshot.Digest // by shard and table
	sums   []snapshot.Digest   // of everything else, by shard
}

func newLoader(m *model.Model, shards []*shard) *loader {
	l := &loader{model: m, shards: shards, rows: make([][]snapshot.Digest, len(shards)), sums: make([]snapshot.Digest, len(shards))}
	for i := range l.rows {
		l.rows[i] = make([]snapshot.Digest, len(m.Layout.Tables))
	}
	return l
}

// loaded compares what was loaded with what man says, shard by shard, and makes man what the
// next snapshot is based on.
func (l *loader) loaded(man *snapshot.Manifest) error {
	for i, s := range l.shards {
		if s == nil {
			continue
		}
		sum := l.sums[i]
		for _, d := range l.rows[i] {
			sum.Add(d)
		}
		if want, known := snapshot.ShardDigest(man.Parts, i); known && want != sum {
			return fmt.Errorf("ps: snapshot %d of job %s is %w: shard %d has digest %s, and the manifest says %s", man.Number, man.Job, tidemill.ErrCorrupt, i, sum, want)
		}
		part := slices.IndexFunc(man.Parts, func(p snapshot.Part) bool { return slices.Contains(p.Shards, i) })
		for k, t := range s.tables {
			t.since.forget()
			if part >= 0 {
				t.since.loaded(&base{blobs: man.Parts[part].Base(i, t.layout.Name), digest: l.rows[i][k]})
			}
		}
	}
	return nil
}

func (l *loader) Rows(s, table int, ids []uint64, rows []float32) error {
	t := l.shards[s].tables[table]
	w := t.width
	for i, id := range ids {
		row := rows[i*w : (i+1)*w]
		t.add(id, row)
		l.rows[s][table].AddRow(t.name, id, row)
	}
	return nil
}

func (l *loader) Block(s int, b snapshot.Block) error {
	for _, own := range l.shards[s].blocks {
		if own.Tensor == b.Tensor && own.Block.Block == b.Block {
			if len(own.State) != len(b.State) || len(own.Weight) != len(b.Weight) || len(own.Average) != len(b.Average) {
				return fmt.Errorf("ps: restore: block %d of tensor %d has another size: %w", b.Block, b.Tensor, tidemill.ErrCorrupt)
			}
			copy(own.Weight, b.Weight)
			copy(own.State, b.State)
			copy(own.Average, b.Average)
			own.At = b.At
			l.sums[s].AddBlock(tidemill.Hash(l.model.Layout.Tensors[b.Tensor].Name), b)
			return nil
		}
	}
	return fmt.Errorf("ps: restore: block %d of tensor %d belongs to another shard: %w", b.Block, b.Tensor, tidemill.ErrCorrupt)
}

func (l *loader) Aux(s int, name string, data []byte) error {
	if name == auxCounts {
		return l.counts(s, data)
	}
	if strings.HasPrefix(name, snapshot.AuxAdmission) {
		return l.shards[s].loadAdmission(name, data)
	}
	if name == snapshot.AuxTransforms {
		l.sums[s].AddAux(name, data)
	}
	h := l.shards[s].home
	if h == nil {
		return nil
	}
	var err error
	switch name {
	case snapshot.AuxTransforms:
		h.transforms, err = l.model.Plan.LoadState(data)
		h.stale = true
	case snapshot.AuxProgress:
		h.progress, err = progress.Load(data)
	case auxNotes:
		h.notes = notes{}
		if err = json.Unmarshal(data, &h.notes); err != nil {
			err = fmt.Errorf("ps: restore: notes: %w: %w", tidemill.ErrCorrupt, err)
		}
		if h.notes.BadCounts == nil { // written before rows were counted: the list has them all
			all := h.notes.Bad
			h.notes.Bad = nil
			h.notes.putAside(all)
		}
	}
	return err
}

func (l *loader) counts(s int, data []byte) error {
	var c counts
	tables := l.shards[s].tables
	err := json.Unmarshal(data, &c)
	if err == nil && len(c.Overflow) != len(tables) {
		err = fmt.Errorf("%d tables, the model has %d", len(c.Overflow), len(tables))
	}
	if err != nil {
		return fmt.Errorf("ps: restore: counts of shard %d: %w: %w", s, tidemill.ErrCorrupt, err)
	}
	for i, n := range c.Overflow {
		tables[i].overflow = n
	}
	return nil
}
