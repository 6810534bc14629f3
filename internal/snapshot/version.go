package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
)

// versionFormat is the number of the format of versions.
const versionFormat = 1

// VersionFiles is a version of a model as serving loads it: weights only, immutable.
type VersionFiles struct {
	Version tidemill.Version
	Spec    tidemill.Spec
	// SchemaIPC is the topic's Arrow schema, an IPC stream without batches.
	SchemaIPC  []byte
	Tables     []Frozen       // in layout order
	Tensors    []FrozenTensor // in layout order
	Transforms []byte         // state of the feature transforms; empty when they learn nothing
	Probes     Probes
	// Graph is the graph file that Spec names, if it names one. The store has it under its own name;
	// WriteVersion does not write it.
	Graph []byte
}

// Frozen is a sparse table of a version.
type Frozen struct {
	tidemill.TableSpec
	IDs     []uint64  // ascending once read; WriteVersion takes any order
	Weights []float32 // [len(IDs) × Dim]
}

// FrozenTensor is a dense tensor of a version.
type FrozenTensor struct {
	tidemill.TensorSpec
	Values []float32 // [Len()]
}

// Probes are rows with the predictions that the version gave when it was made: whoever loads
// it must get the same ones. Both may be empty.
type Probes struct {
	Rows     []byte    // Arrow IPC stream of the topic's columns
	Expected []float32 // [rows × outputs]
}

// versionManifest is the record that makes a version exist.
type versionManifest struct {
	Format  int                   `json:"format"`
	Version tidemill.Version      `json:"version"`
	Spec    tidemill.Spec         `json:"spec"`
	Tables  []tidemill.TableSpec  `json:"tables"`
	Tensors []tidemill.TensorSpec `json:"tensors"`
	Blobs   []Blob                `json:"blobs"`
}

// layout returns what v is made of, for checks.
func (v *versionManifest) layout() Layout {
	var l Layout
	for _, t := range v.Tables {
		l.Tables = append(l.Tables, TableLayout{TableSpec: t})
	}
	for _, t := range v.Tensors {
		l.Tensors = append(l.Tensors, TensorLayout{TensorSpec: t})
	}
	return l
}

// content names the blobs of v: an XXH3 hash of all that goes into them. A version that was
// begun and never finished leaves blobs behind; another one that gets its number has other
// names, and the same one tried again finds its own.
func (v *VersionFiles) content() string {
	h := xxh3.New()
	var buf [4096]byte
	sized := func(n int) {
		binary.LittleEndian.PutUint64(buf[:], uint64(n))
		h.Write(buf[:8])
	}
	values := func(v []float32) {
		sized(len(v))
		for c := range slices.Chunk(v, len(buf)/4) {
			putFloats(buf[:], c)
			h.Write(buf[:4*len(c)])
		}
	}
	for _, t := range v.Tables {
		sized(len(t.Name))
		h.WriteString(t.Name)
		sized(len(t.IDs))
		for _, id := range t.IDs {
			binary.LittleEndian.PutUint64(buf[:], id)
			h.Write(buf[:8])
		}
		values(t.Weights)
	}
	for _, t := range v.Tensors {
		sized(len(t.Name))
		h.WriteString(t.Name)
		values(t.Values)
	}
	for _, b := range [...][]byte{v.SchemaIPC, v.Transforms, v.Probes.Rows} {
		sized(len(b))
		h.Write(b)
	}
	values(v.Probes.Expected)
	return fmt.Sprintf("%016x-", h.Sum64())
}

// check reports what makes v impossible.
func (v *VersionFiles) check(l Layout) error {
	if err := l.Validate(); err != nil {
		return err
	}
	for _, t := range v.Tables {
		if len(t.Weights) != len(t.IDs)*t.Dim {
			return tidemill.Invalid("table %q has %d ids and %d weights", "give each id as many weights as the table has dimensions", t.Name, len(t.IDs), len(t.Weights))
		}
	}
	for _, t := range v.Tensors {
		if len(t.Values) != t.Len() {
			return tidemill.Invalid("tensor %q has %d values", "its shape wants another number", t.Name, len(t.Values))
		}
	}
	return nil
}

// WriteVersion stores v as models/MODEL/version/NNNNNNNNN, its manifest last: until that is
// there the version does not exist. A number that is taken wraps tidemill.ErrExists; an
// impossible v tidemill.ErrInvalid. It can be repeated after a failure.
func WriteVersion(ctx context.Context, b *blob.Bucket, v *VersionFiles) error {
	dir, err := versionPrefix(v.Version.Model, v.Version.Number)
	if err != nil {
		return err
	}
	m := versionManifest{Format: versionFormat, Version: v.Version, Spec: v.Spec, Tables: []tidemill.TableSpec{}, Tensors: []tidemill.TensorSpec{}}
	m.Version.Created = m.Version.Created.Round(0).UTC()
	for _, t := range v.Tables {
		m.Tables = append(m.Tables, t.TableSpec)
	}
	for _, t := range v.Tensors {
		m.Tensors = append(m.Tensors, t.TensorSpec)
	}
	if err := v.check(m.layout()); err != nil {
		return err
	}
	prefix := dir + v.content()

	// One slot per blob keeps their order.
	blobs := make([]Blob, len(v.Tables)+5)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i, t := range v.Tables {
		g.Go(func() (err error) {
			out := newArrowBlob(gctx, b, frozenTableSchema(t.TableSpec), Blob{Name: prefix + versionBlob(i, t.Name), Kind: KindTable, Table: t.Name})
			blobs[i], err = out.close(frozenTable(out, t))
			return err
		})
	}
	rest := blobs[len(v.Tables):]
	g.Go(func() (err error) {
		out := newArrowBlob(gctx, b, frozenTensorSchema(), Blob{Name: prefix + "tensors.arrow", Kind: KindDense})
		rest[0], err = out.close(frozenTensors(out, v.Tensors))
		return err
	})
	g.Go(func() (err error) {
		out := newArrowBlob(gctx, b, expectedSchema(), Blob{Name: prefix + "expected.arrow", Kind: KindExpected})
		if len(v.Probes.Expected) > 0 {
			err = out.batch(-1, floats(v.Probes.Expected))
		}
		rest[1], err = out.close(err)
		return err
	})
	for i, f := range []struct {
		name, kind string
		data       []byte
	}{{"transforms.bin", KindTransforms, v.Transforms}, {"schema.arrow", KindSchema, v.SchemaIPC}, {"probes.arrow", KindProbes, v.Probes.Rows}} {
		if len(f.data) == 0 {
			continue
		}
		g.Go(func() (err error) {
			rest[2+i], err = put(gctx, b, Blob{Name: prefix + f.name, Kind: f.kind}, f.data)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, info := range blobs {
		if info.Bytes > 0 {
			m.Blobs = append(m.Blobs, info)
		}
	}
	record, err := Seal(&m)
	if err != nil {
		return err
	}
	return create(ctx, b, dir+"manifest.json", record)
}

// frozenTable writes the rows of t by ascending id.
func frozenTable(out *arrowBlob, t Frozen) error {
	order := make([]rowAt, len(t.IDs))
	for i, id := range t.IDs {
		order[i] = rowAt{id, uint32(i)}
	}
	order, _, err := sortRows(order, nil, t.Name)
	if err != nil {
		return err
	}
	limit := batchRows(t.Dim)
	ids, weights := make([]uint64, 0, min(limit, len(order))), []float32(nil)
	for chunk := range slices.Chunk(order, limit) {
		ids, weights = ids[:0], weights[:0]
		for _, o := range chunk {
			ids = append(ids, o.id)
			weights = append(weights, t.Weights[int(o.row)*t.Dim:(int(o.row)+1)*t.Dim]...)
		}
		if err := out.batch(-1, uint64s(ids), vectors(t.Dim, weights)); err != nil {
			return err
		}
	}
	return nil
}

// frozenTensors writes the values of all tensors, block by block as in a snapshot.
func frozenTensors(out *arrowBlob, tensors []FrozenTensor) error {
	for _, t := range tensors {
		for from := 0; from < t.Blocks(); from += denseBatch {
			n := min(denseBatch, t.Blocks()-from)
			names, block, first, weight := make([][]byte, n), make([]int32, n), make([]int64, n), make([][]float32, n)
			for i := range n {
				at := (from + i) * tidemill.BlockSize
				names[i], block[i], first[i] = []byte(t.Name), int32(from+i), int64(at)
				weight[i] = t.Values[at:min(at+tidemill.BlockSize, len(t.Values))]
			}
			if err := out.batch(-1, texts(arrow.BinaryTypes.String, names...), int32s(block), int64s(first), lists(weight)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ReadVersionRecord returns what a version's manifest says of it, without its files.
func ReadVersionRecord(ctx context.Context, b *blob.Bucket, model string, version int64) (tidemill.Version, error) {
	m, err := readVersionManifest(ctx, b, model, version)
	if err != nil {
		return tidemill.Version{}, err
	}
	return m.Version, nil
}

// VersionBlobs returns the files of a version, with their checksums as its record says them.
func VersionBlobs(ctx context.Context, b *blob.Bucket, model string, version int64) ([]Blob, error) {
	m, err := readVersionManifest(ctx, b, model, version)
	if err != nil {
		return nil, err
	}
	return m.Blobs, nil
}

// ReadVersion loads a version and verifies every byte of it. tidemill.ErrNotFound means that
// it does not exist, tidemill.ErrCorrupt names the blob that is missing or damaged.
func ReadVersion(ctx context.Context, b *blob.Bucket, model string, version int64) (*VersionFiles, error) {
	m, err := readVersionManifest(ctx, b, model, version)
	if err != nil {
		return nil, err
	}
	v, err := readVersion(ctx, b, m)
	if errors.Is(err, tidemill.ErrCorrupt) {
		if rerr := checkNotRetired(ctx, b, model, version); rerr != nil {
			return nil, rerr
		}
	}
	return v, err
}

func readVersionManifest(ctx context.Context, b *blob.Bucket, model string, version int64) (*versionManifest, error) {
	dir, err := versionPrefix(model, version)
	if err != nil {
		return nil, err
	}
	name := dir + "manifest.json"
	record, err := readAll(ctx, b, name, maxRecord)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil, fmt.Errorf("version %d of model %s: %w", version, model, tidemill.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeVersion(record)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", name, err)
	}
	if m.Version.Model != model || m.Version.Number != version {
		return nil, corrupt(name, "it says that it is version %d of %q", m.Version.Number, clip(m.Version.Model))
	}
	return m, nil
}

// decodeVersion reads the manifest of a version.
func decodeVersion(record []byte) (*versionManifest, error) {
	m := new(versionManifest)
	if err := Unseal(record, m); err != nil {
		return nil, err
	}
	if m.Format != versionFormat {
		return nil, tidemill.Invalid("version has format %d, and this program reads format %d", "use the program that wrote it, or a newer one", m.Format, versionFormat)
	}
	if err := m.layout().Validate(); err != nil {
		return nil, fmt.Errorf("manifest is %w: %v", tidemill.ErrCorrupt, err)
	}
	for _, info := range m.Blobs {
		// Every row has at least 4 bytes: what is allocated for them is bounded by what is stored.
		if info.Bytes < 0 || info.Rows < 0 || info.Rows > info.Bytes/4 {
			return nil, fmt.Errorf("manifest is %w: %d rows in %d bytes", tidemill.ErrCorrupt, info.Rows, info.Bytes)
		}
	}
	return m, nil
}

// readVersion fetches, verifies and decodes the blobs of a version.
func readVersion(ctx context.Context, b *blob.Bucket, m *versionManifest) (*VersionFiles, error) {
	v := &VersionFiles{Version: m.Version, Spec: m.Spec, Tables: make([]Frozen, len(m.Tables)), Tensors: make([]FrozenTensor, len(m.Tensors))}
	for i, t := range m.Tables {
		v.Tables[i].TableSpec = t
	}
	for i, t := range m.Tensors {
		v.Tensors[i].TensorSpec = t
	}
	seen := map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, info := range m.Blobs {
		// Each goroutine fills a part of v of its own, because kind and table are unique.
		if seen[info.Kind+"/"+info.Table] {
			_ = g.Wait()
			return nil, corrupt(info.Name, "the version has two blobs of kind %s", clip(info.Kind))
		}
		seen[info.Kind+"/"+info.Table] = true
		g.Go(func() error {
			data, err := fetch(gctx, b, info)
			if err != nil {
				return err
			}
			if err := v.decode(info, data); err != nil {
				return corrupt(info.Name, "%v", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, t := range v.Tensors {
		if len(t.Values) != t.Len() {
			return nil, fmt.Errorf("version %d of model %s is %w: tensor %q has %d of %d values", m.Version.Number, m.Version.Model, tidemill.ErrCorrupt, t.Name, len(t.Values), t.Len())
		}
	}
	return v, v.readGraph(ctx, b)
}

// ListVersions returns the numbers of a model's versions, ascending. Models that nobody made a
// version of have none.
func ListVersions(ctx context.Context, b *blob.Bucket, model string) ([]int64, error) {
	if err := CheckName("model", model); err != nil {
		return nil, err
	}
	prefix := "models/" + model + "/version/"
	var out []int64
	err := list(ctx, b, prefix, func(key string) error {
		if digits, ok := strings.CutSuffix(strings.TrimPrefix(key, prefix), "/manifest.json"); ok {
			if n, ok := parseNumber(digits); ok {
				out = append(out, n)
			}
		}
		return nil
	})
	return out, err
}
