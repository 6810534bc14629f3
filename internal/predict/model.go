package predict

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// Model is a loaded version: immutable, safe for concurrent use.
type Model struct {
	version  tidemill.Version
	compiled *model.Model
	state    *feature.State
	tables   []*table
	dense    [][]float32
	probes   snapshot.Probes
	bytes    int64
}

// Load makes a Model of a version's files, which it keeps: nobody may change them afterwards.
// Files that do not fit each other wrap tidemill.ErrCorrupt; a spec that this build cannot
// run wraps tidemill.ErrInvalid.
func Load(f *snapshot.VersionFiles) (*Model, error) { return LoadIn(f, nil) }

// LoadIn is Load for a process that must not end with an engine: what is isolated computes where
// the isolator has it. The Model is to be closed. A nil isolator is Load.
func LoadIn(f *snapshot.VersionFiles, isolator engine.Isolator) (*Model, error) {
	m, err := load(f, isolator)
	if err != nil {
		if m != nil {
			m.Close()
		}
		return nil, fmt.Errorf("load version %d of model %s: %w", f.Version.Number, f.Version.Model, err)
	}
	return m, nil
}

// load returns the Model also with an error, once there is something to close.
func load(f *snapshot.VersionFiles, isolator engine.Isolator) (*Model, error) {
	schema, err := model.DecodeSchema(f.SchemaIPC)
	if err != nil {
		return nil, err
	}
	spec := f.Spec
	m := &Model{version: f.Version, probes: f.Probes}
	if m.compiled, err = model.CompileFor(&spec, schema, engine.Options{Graph: f.Graph, Isolator: isolator}); err != nil {
		return nil, err
	}
	plan := m.compiled.Plan
	if len(f.Transforms) > 0 || plan.Learns() {
		if m.state, err = plan.LoadState(f.Transforms); err != nil {
			return m, fmt.Errorf("transforms: %w", err)
		}
	}
	want := m.compiled.Engine
	if len(f.Tables) != len(want.Tables()) || len(f.Tensors) != len(want.Tensors()) {
		return m, fmt.Errorf("%w: %d tables and %d tensors, its spec has %d and %d",
			tidemill.ErrCorrupt, len(f.Tables), len(f.Tensors), len(want.Tables()), len(want.Tensors()))
	}
	shards := spec.Shards
	if shards <= 0 {
		shards = tidemill.DefaultShards
	}
	for i, s := range want.Tables() {
		t := &f.Tables[i]
		if t.Name != s.Name || t.Dim != s.Dim || t.Init != s.Init {
			return m, fmt.Errorf("%w: table %d is %q of dimension %d, its spec has %q of dimension %d", tidemill.ErrCorrupt, i, t.Name, t.Dim, s.Name, s.Dim)
		}
		table, err := newTable(t, spec.Seed, shards)
		if err != nil {
			return m, err
		}
		m.tables = append(m.tables, table)
		m.bytes += table.bytes()
	}
	for i, s := range want.Tensors() {
		t := &f.Tensors[i]
		if t.Name != s.Name || !reflect.DeepEqual(t.Shape, s.Shape) || len(t.Values) != s.Len() {
			return m, fmt.Errorf("%w: tensor %d is %q %v with %d values, its spec has %q %v", tidemill.ErrCorrupt, i, t.Name, t.Shape, len(t.Values), s.Name, s.Shape)
		}
		m.dense = append(m.dense, t.Values)
		m.bytes += int64(4 * len(t.Values))
	}
	m.bytes += int64(len(f.Transforms) + len(f.Probes.Rows) + 4*len(f.Probes.Expected))
	return m, nil
}

// Close gives back what the Model's engine holds outside this process, if it does; nothing may be
// predicted after it.
func (m *Model) Close() { m.compiled.Close() }

// Version says which version this is.
func (m *Model) Version() tidemill.Version { return m.version }

// Spec is the job's spec. It must not be changed.
func (m *Model) Spec() *tidemill.Spec { return m.compiled.Spec }

// Columns returns the columns that a prediction needs.
func (m *Model) Columns() []feature.Column { return m.compiled.Plan.Columns() }

// Outputs is the number of predictions per row: 1, or the number of classes.
func (m *Model) Outputs() int { return m.compiled.Engine.Outputs() }

// Bytes is about how much memory the model holds.
func (m *Model) Bytes() int64 { return m.bytes }

// Finite returns nil, or what is not finite among the model's values.
func (m *Model) Finite() error {
	for i, t := range m.tables {
		if at := firstNonFinite(t.weights); at >= 0 {
			return fmt.Errorf("table %s: the weights of id %d are not finite", m.compiled.Engine.Tables()[i].Name, t.ids[at/t.dim])
		}
	}
	for i, v := range m.dense {
		if at := firstNonFinite(v); at >= 0 {
			return fmt.Errorf("tensor %s: value %d is not finite", m.compiled.Engine.Tensors()[i].Name, at)
		}
	}
	return nil
}

func firstNonFinite(v []float32) int {
	for i, x := range v {
		if x-x != 0 { // NaN or Inf
			return i
		}
	}
	return -1
}

// Warm answers the probe rows once, whole and row by row, so that the first request meets warm
// memory. Without probes it does nothing.
func (m *Model) Warm() error {
	rows, err := DecodeRows(m.probes.Rows)
	if err != nil || rows == nil {
		return err
	}
	defer rows.Release()
	s := m.NewScorer()
	var dst []float32
	if dst, err = s.Predict(dst, rows); err != nil {
		return err
	}
	for i := range rows.NumRows() {
		one := rows.NewSlice(i, i+1)
		dst, err = s.Predict(dst[:0], one)
		one.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// Parity answers the probe rows and compares with what was expected of them: the number of
// predictions compared and the largest difference, relative to max(1, |expected|); NaN if a
// prediction is not finite. Without probes it compares nothing.
func (m *Model) Parity() (rows int, diff float64, err error) {
	batch, err := DecodeRows(m.probes.Rows)
	if err != nil || batch == nil {
		return 0, 0, err
	}
	defer batch.Release()
	got, err := m.NewScorer().Predict(nil, batch)
	if err != nil {
		return 0, 0, err
	}
	if len(got) != len(m.probes.Expected) {
		return 0, 0, fmt.Errorf("%w: %d probe predictions for %d expected ones", tidemill.ErrCorrupt, len(got), len(m.probes.Expected))
	}
	for i, want := range m.probes.Expected {
		d := math.Abs(float64(got[i])-float64(want)) / max(1, math.Abs(float64(want)))
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return int(batch.NumRows()), math.NaN(), nil
		}
		diff = max(diff, d)
	}
	return int(batch.NumRows()), diff, nil
}

// EncodeRows writes a batch as an Arrow IPC stream, the form of a version's probe rows.
func EncodeRows(batch arrow.RecordBatch) ([]byte, error) {
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(batch.Schema()))
	if err := w.Write(batch); err != nil {
		return nil, fmt.Errorf("encode rows: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode rows: %w", err)
	}
	return b.Bytes(), nil
}

// DecodeRows reads what EncodeRows wrote: nil where there is none. The caller releases it.
// Bytes that are no such stream wrap tidemill.ErrCorrupt.
func DecodeRows(data []byte) (arrow.RecordBatch, error) {
	if len(data) == 0 {
		return nil, nil
	}
	schema, err := rows.DecodeSchema(data)
	if err != nil {
		return nil, fmt.Errorf("decode rows: %w", err)
	}
	// Behind the schema message come one record batch and the mark of the stream's end.
	batch := data[8+binary.LittleEndian.Uint32(data[4:]):]
	batch = bytes.TrimSuffix(batch, []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	if len(batch) == 0 {
		return nil, nil
	}
	d := rows.NewDecoder(schema, nil)
	defer d.Release()
	rec, err := d.Decode(batch)
	if err != nil {
		return nil, fmt.Errorf("decode rows: %w", err)
	}
	return rec, nil
}
