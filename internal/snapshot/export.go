package snapshot

import (
	"context"
	"fmt"
	"math"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// CatchUp writes to dst the average of a weight that stood still for the last age examples:
//
//	dst[i] = average[i] + (weight[i] − average[i])·(1 − decay^age)
//
// It computes in float64. All slices have the same length; dst may be average.
func CatchUp(dst, weight, average []float32, decay float64, age uint64) {
	// The conversions keep a compiler from fusing multiplication and addition: the bits are the
	// same on every platform.
	k := float64(1 - math.Pow(decay, float64(age)))
	for i, a := range average {
		dst[i] = float32(float64(a) + float64((float64(weight[i])-float64(a))*k))
	}
}

// Export reads a committed snapshot and returns what serving needs of it: of each parameter
// its average caught up to m.Examples where averaging is on, else its weight. A block that
// no shard holds has its initial values, as a pull of it would give.
//
// Version.Number, Version.Parent and Probes are left for the caller to fill in. Every blob is
// verified, and the state's digest is compared with the manifest's (tidemill.ErrCorrupt).
func Export(ctx context.Context, b *blob.Bucket, m *Manifest) (*VersionFiles, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if m.Fence != nil {
		return nil, tidemill.Invalid("record %d of job %s is a fence", "export a snapshot", m.Number, m.Job)
	}
	e := exporter{digestSink: digestSink{layout: m.Layout}, examples: uint64(m.Examples), files: &VersionFiles{
		Version: tidemill.Version{
			Model: m.Model, Job: m.Job, Lineage: m.Lineage, Snapshot: m.Number, Cut: m.Cut.Clone(), Origins: slices.Clone(m.Origins), SpecHash: m.SpecHash,
			Watermark: m.WatermarkMS, Examples: m.Examples, Created: m.Created, Digest: m.Digest.String(), Profile: m.Profile,
		},
		Spec:      m.Spec,
		SchemaIPC: m.Schema,
	}}
	if a := m.Spec.Optimizer.Average; a != nil {
		e.decay, e.averaged = a.Decay, true
	}
	for _, t := range m.Layout.Tables {
		if t.Average && !e.averaged {
			return nil, errNoDecay("table", t.Name)
		}
		e.files.Tables = append(e.files.Tables, Frozen{TableSpec: t.TableSpec})
	}
	for _, t := range m.Layout.Tensors {
		if t.Average && !e.averaged {
			return nil, errNoDecay("tensor", t.Name)
		}
		values := make([]float32, t.Len())
		t.Init.Fill(values, m.Spec.Seed, tidemill.Hash(t.Name), 0, 0)
		e.files.Tensors = append(e.files.Tensors, FrozenTensor{TensorSpec: t.TensorSpec, Values: values})
	}
	if err := ReadParts(ctx, b, m.Parts, m.Layout, nil, &e); err != nil {
		return nil, err
	}
	if err := e.compare(m); err != nil {
		return nil, err
	}
	for i := range e.files.Tables {
		if err := e.files.Tables[i].sort(); err != nil {
			return nil, fmt.Errorf("snapshot %d of job %s is %w: %v", m.Number, m.Job, tidemill.ErrCorrupt, err)
		}
	}
	return e.files, e.files.readGraph(ctx, b)
}

func errNoDecay(what, name string) error {
	return tidemill.Invalid("%s %q has averages, and the spec says nothing of them", "set optimizer.average", what, name)
}

// Verify reads a committed snapshot whole and compares its digest with the manifest's. Damage
// wraps tidemill.ErrCorrupt and names the blob.
func Verify(ctx context.Context, b *blob.Bucket, m *Manifest) error {
	if err := m.Validate(); err != nil {
		return err
	}
	s := digestSink{layout: m.Layout}
	if err := ReadParts(ctx, b, m.Parts, m.Layout, nil, &s); err != nil {
		return err
	}
	return s.compare(m)
}

// digestSink sums the digest of what it receives.
type digestSink struct {
	layout Layout
	digest Digest
}

func (s *digestSink) Rows(shard, table int, ids []uint64, rows []float32) error {
	t := s.layout.Tables[table]
	hash, width := tidemill.Hash(t.Name), t.Width()
	for i, id := range ids {
		s.digest.AddRow(hash, id, rows[i*width:(i+1)*width])
	}
	return nil
}

func (s *digestSink) Block(shard int, b Block) error {
	s.digest.AddBlock(tidemill.Hash(s.layout.Tensors[b.Tensor].Name), b)
	return nil
}

func (s *digestSink) Aux(shard int, name string, data []byte) error {
	if name == AuxTransforms {
		s.digest.AddAux(name, data)
	}
	return nil
}

func (s *digestSink) compare(m *Manifest) error {
	if s.digest != m.Digest {
		return fmt.Errorf("snapshot %d of job %s is %w: its state has digest %s, and its manifest says %s", m.Number, m.Job, tidemill.ErrCorrupt, s.digest, m.Digest)
	}
	return nil
}

// exporter is a Sink that keeps what serving needs.
type exporter struct {
	digestSink
	files    *VersionFiles
	averaged bool
	decay    float64
	examples uint64
}

// age returns for how many examples an average has not been caught up.
func (e *exporter) age(at uint64) (uint64, error) {
	if at > e.examples {
		return 0, fmt.Errorf("snapshot is %w: an average is of example %d, and %d are in", tidemill.ErrCorrupt, at, e.examples)
	}
	return e.examples - at, nil
}

func (e *exporter) Rows(shard, table int, ids []uint64, rows []float32) error {
	if err := e.digestSink.Rows(shard, table, ids, rows); err != nil {
		return err
	}
	t, out := e.layout.Tables[table], &e.files.Tables[table]
	out.IDs = append(out.IDs, ids...)
	for width := t.Width(); len(rows) > 0; rows = rows[width:] {
		row := rows[:width]
		n := len(out.Weights)
		out.Weights = append(out.Weights, t.Weight(row)...)
		if t.Average {
			age, err := e.age(t.At(row))
			if err != nil {
				return err
			}
			CatchUp(out.Weights[n:], t.Weight(row), t.AverageOf(row), e.decay, age)
		}
	}
	return nil
}

func (e *exporter) Block(shard int, b Block) error {
	if err := e.digestSink.Block(shard, b); err != nil {
		return err
	}
	dst := e.files.Tensors[b.Tensor].Values[b.Block*tidemill.BlockSize:][:len(b.Weight)]
	if !e.layout.Tensors[b.Tensor].Average {
		copy(dst, b.Weight)
		return nil
	}
	age, err := e.age(b.At)
	if err != nil {
		return err
	}
	CatchUp(dst, b.Weight, b.Average, e.decay, age)
	return nil
}

func (e *exporter) Aux(shard int, name string, data []byte) error {
	if name == AuxTransforms {
		if e.files.Transforms != nil {
			return fmt.Errorf("snapshot is %w: two shards hold the state of the transforms", tidemill.ErrCorrupt)
		}
		e.files.Transforms = data
	}
	return e.digestSink.Aux(shard, name, data)
}

// sort puts the rows of t in the order of their ids; an id twice is an error.
func (t *Frozen) sort() error {
	order := make([]rowAt, len(t.IDs))
	for i, id := range t.IDs {
		order[i] = rowAt{id, uint32(i)}
	}
	order, _, err := sortRows(order, nil, t.Name)
	if err != nil {
		return err
	}
	weights := make([]float32, 0, len(t.Weights))
	for i, o := range order {
		t.IDs[i] = o.id
		weights = append(weights, t.Weights[int(o.row)*t.Dim:(int(o.row)+1)*t.Dim]...)
	}
	t.Weights = weights
	return nil
}
